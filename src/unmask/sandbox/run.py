"""The parent's side of the sandbox: start the process, hand it the program, wait, kill, and say what happened.

A program has passed only if it came to its own last line: an early exit, a crash and a kill are failures, each with
its name. Linux namespaces are used where the system lets (see `inside`), limits and refusals everywhere else.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

INSIDE = Path(__file__).with_name("inside.py")
START_SECONDS = 10.0  # what a busy machine may take to start a Python

Status = Literal["passed", "failed", "timeout", "memory", "refused", "killed", "exited"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use.

    seconds: of processor time; waiting is cut off after three times that and START_SECONDS. memory: bytes of address
    space of a process. file: bytes of one file; the work folder as a whole holds `folder` bytes, where namespaces are.
    processes: the program's own and those that it starts, threads counted, where it runs under a user of its own.
    output: last bytes of what it printed that are kept. namespaces: use them where the system lets.
    """

    seconds: float = 5.0
    memory: int = 512 << 20
    file: int = 8 << 20
    folder: int = 32 << 20
    processes: int = 1
    output: int = 4096
    namespaces: bool = True

    def __post_init__(self) -> None:
        for name in ("memory", "file", "folder", "processes", "output"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a program ended.

    passed: it came to its end. failed: an exception, named in `detail`. timeout, memory: over that limit. refused: it
    asked for what is not allowed here (without namespaces; with them such calls fail as system errors). killed: by a
    signal. exited: it ended itself before its end. output: the end of what it printed. seconds: of wall time.
    """

    status: Status
    detail: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_python(program: str, limits: Limits | None = None) -> Verdict:
    """Run a program (source text) with this interpreter and its packages, in an empty folder, and say how it ended.

    Nothing of the environment reaches it; it can neither be asked nor answer anything but by what it prints. This keeps
    a program from doing harm. It does not keep one that knows this module from claiming to have passed.
    Raises OSError where no process can be started, as on systems without POSIX processes.
    """
    limits = limits or Limits()
    return run_apart(program, replace(limits, namespaces=limits.namespaces and isolation() == "namespaces"))


def run_apart(program: str, limits: Limits) -> Verdict:
    """As `run_python`, with namespaces or not just as the limits say."""
    if os.name != "posix":
        raise OSError("programs are run in a sandbox of POSIX processes, which this system does not have")
    with TemporaryDirectory(prefix="unmask-sandbox-", ignore_cleanup_errors=True) as folder:
        work = Path(folder) / "work"
        work.mkdir()
        os.chmod(folder, 0o711)  # a program that runs as another user has to get through to its own folder
        verdict = watched(program, limits, Path(folder), work)
        shutil.rmtree(work, onerror=open_up)
    return verdict


def watched(program: str, limits: Limits, folder: Path, work: Path) -> Verdict:
    """Start, wait no longer than the limits say, kill all that is left."""
    word = secrets.token_hex(16)
    asked = asdict(limits) | {"program": program, "word": word, "work": str(work)}
    begun = time.perf_counter()
    with open(folder / "printed", "w+b") as printed:
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(INSIDE), str(write)],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                pass_fds=(write,),
                cwd=work,
                env=environment(work),
                start_new_session=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        late = False
        try:
            process.communicate(json.dumps(asked).encode(), timeout=3 * limits.seconds + START_SECONDS)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            kill_group(process)
        said = all_lines(read)
        seconds = time.perf_counter() - begun
        printed.seek(max(0, os.fstat(printed.fileno()).st_size - limits.output))
        output = printed.read(limits.output).decode("utf-8", "replace")
    said = [line for line in said if line.get("word") == word]
    if not late and not any("signal" in line for line in said):
        raise OSError(f"the sandbox did not start: {output.strip().splitlines()[-1:] or 'no reason given'}")
    status, detail = judge(said, late, limits)
    return Verdict(status, detail, output, seconds)


def judge(said: list[dict[str, Any]], late: bool, limits: Limits) -> tuple[Status, str]:
    """(status, detail) from the lines of the program's process and of the one that waited for it."""
    if late:
        return "timeout", f"not done after {3 * limits.seconds + START_SECONDS:g} s of waiting"
    end = next(line for line in said if "signal" in line)
    if end["signal"]:
        if end["signal"] in (signal.SIGKILL, signal.SIGXCPU) and end["cpu"] >= limits.seconds - 0.2:
            return "timeout", f"{limits.seconds:g} s of processor time"
        return "killed", f"by signal {end['signal']}"
    own = next((line for line in said if "status" in line), None)
    return (own["status"], own["detail"]) if own else ("exited", f"with code {end['code']} before its end")


def environment(work: Path) -> dict[str, str]:
    """All of it: nothing of ours is anybody's business. One thread, for libraries that would start many."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        "PATH": os.defpath,
        "HOME": str(work),
        "TMPDIR": str(work),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
    } | threads


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """The process, all of its session; with it a namespace of processes ends as a whole."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    if process.stdin:
        process.stdin.close()


def all_lines(read: int) -> list[dict[str, Any]]:
    """JSON objects that were written to the pipe; without waiting for who may still hold its other end."""
    os.set_blocking(read, False)
    parts = list[bytes]()
    try:
        while part := os.read(read, 65536):
            parts.append(part)
    except BlockingIOError:
        pass
    finally:
        os.close(read)
    found = list[dict[str, Any]]()
    for line in b"".join(parts).splitlines():
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):  # the program found the pipe and wrote to it
            continue
    return found


def open_up(remove: Callable[[str], Any], path: str, _: Any) -> None:
    """Remove what a program has made unreadable."""
    for each in (os.path.dirname(path), path):
        os.chmod(each, stat.S_IRWXU)
    remove(path)


@cache
def isolation() -> str:
    """How programs are kept apart here: "namespaces", or by "limits" and refusals alone."""
    try:
        return "namespaces" if run_apart("import os\nassert os.getpid() == 1", Limits()).passed else "limits"
    except OSError:
        return "limits"
