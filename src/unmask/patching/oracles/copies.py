"""Commands run in a copy of a folder, so that neither they nor the text they judge can change anything that lasts.

Confined (the default) the copy lies in the sandbox: nothing else can be written, there is no network, and the home
folder is out of sight. Unconfined it is a temporary folder, and the command has all rights of who runs it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from unmask.sandbox import Limits, isolation, run_python

SKIPPED = {".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".nox"}
SKIPPED |= {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
MOST_BYTES, MOST_FILES = 64 << 20, 20_000
OUTPUT = 16 << 10  # last bytes of what a command printed that are kept
CANNOT_RUN = (126, 127)  # a shell's codes for a command that is not there, or may not be run


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. code: its own; None where it was stopped, then `why` says for what. ran: False where it
    could not be run at all, for the reason in `why`."""

    code: int | None
    output: str = ""
    why: str = ""
    ran: bool = True


def limits_of(seconds: float) -> Limits:
    """For a command of so much processor time: it may start other processes and write as much as is copied."""
    return Limits(seconds, 2 << 30, MOST_BYTES, 2 * MOST_BYTES, 64, OUTPUT)


def run_command(
    command: str, files: Mapping[str, bytes], limits: Limits, root: Path | None = None, confined: bool = True
) -> Ended:
    """Run a shell command in a new folder that holds a copy of `root`, if there is one, with `files` put over it.

    Raises ValueError for a root that is too large, or a file whose name leads out of the folder.
    """
    if os.name != "posix":
        return Ended(None, why="commands are run on POSIX systems only", ran=False)
    if confined and isolation() != "namespaces":
        why = "this system has no namespaces to confine a command in; it can be run unconfined"
        return Ended(None, why=why, ran=False)
    with TemporaryDirectory(prefix="unmask-copy-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        if root is not None:
            for file in inside(root):
                put(copy, file.relative_to(root).as_posix(), file.read_bytes(), file.stat().st_mode & 0o777)
        for name, data in files.items():
            put(copy, name, data)
        return confined_run(command, copy, limits) if confined else free_run(command, copy, limits)


def inside(root: Path) -> Iterator[Path]:
    """The files that are copied: no caches, no links that lead out. ValueError where there are too many."""
    size = count = 0
    base = root.resolve()
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in SKIPPED and not (Path(folder) / name).is_symlink()]
        for name in files:
            file = Path(folder) / name
            if not file.is_file() or not file.resolve().is_relative_to(base):
                continue
            size, count = size + file.stat().st_size, count + 1
            if size > MOST_BYTES or count > MOST_FILES:
                most = f"{MOST_BYTES >> 20} MiB or {MOST_FILES} files"
                raise ValueError(f"root {root} is too large to be copied: more than {most}")
            yield file


def check_name(name: str) -> str:
    """A relative path that stays inside; ValueError for any other."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or path.name in ("", "."):
        raise ValueError(f"a file's name must be a relative path that stays inside, got {name!r}")
    return name


def put(folder: Path, name: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file that the sandbox's own user can read."""
    file = folder / check_name(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.chmod(mode | 0o644)


def environment() -> dict[str, str]:
    """No byte code is written: it would be found fresh by the next text of the same length in the same second."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    return {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


PROGRAM = """
import os, shutil, subprocess, sys
for folder, _, names in os.walk({copy!r}):
    here = os.path.relpath(folder, {copy!r})
    os.makedirs(here, exist_ok=True)
    for name in names:
        shutil.copy(os.path.join(folder, name), os.path.join(here, name))
code = subprocess.run(["/bin/sh", "-c", {command!r}], env={{**os.environ, **{environment!r}}}).returncode
sys.stdout.flush()
raise SystemExit(code)
"""


def confined_run(command: str, copy: Path, limits: Limits) -> Ended:
    copy.parent.chmod(0o755)  # the sandbox has a user of its own
    program = PROGRAM.format(copy=str(copy), command=command, environment=environment())
    try:
        verdict = run_python(program, limits)
    except OSError as error:
        return Ended(None, why=str(error), ran=False)
    output = verdict.output
    if verdict.status == "exited":
        code = int(verdict.detail.removeprefix("with ").split()[0])
        return ended(code, output)
    if verdict.status == "failed":  # of the few lines above, not of the command
        return Ended(None, output, verdict.detail, ran=False)
    return Ended(None, output, f"{verdict.status}: {verdict.detail}")


def ended(code: int, output: str) -> Ended:
    if code in CANNOT_RUN:
        return Ended(code, output, (output.strip().splitlines() or ["it could not be run"])[-1], ran=False)
    if code < 0 or code > 128:  # a shell adds 128 to the signal
        return Ended(None, output, f"killed by signal {code - 128 if code > 0 else -code}")
    return Ended(code, output)


def free_run(command: str, copy: Path, limits: Limits) -> Ended:
    seconds = max(1, round(limits.seconds))
    limited = f"ulimit -t {seconds}; ulimit -v {limits.memory >> 10}\n{command}"
    with open(copy.parent / "printed", "w+b") as printed:
        process = subprocess.Popen(
            ["/bin/sh", "-c", limited],
            cwd=copy,
            env={**os.environ, **environment(), "PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        late = False
        try:
            process.wait(3 * limits.seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                process.kill()
            process.wait()
        printed.seek(max(0, os.fstat(printed.fileno()).st_size - limits.output))
        output = printed.read(limits.output).decode("utf-8", "replace")
    if late or process.returncode in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        return Ended(None, output, f"timeout: {limits.seconds:g} s")
    return ended(process.returncode, output)


def tool(name: str) -> str | None:
    """Where a command line tool is: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)
