"""The sandbox: honest programs pass, hostile ones harm nothing and have failed, with namespaces and without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unmask.sandbox import Limits, Status, isolation, run, run_python
from unmask.sandbox.inside import NEVER, WRITES
from unmask.sandbox.run import judge

SHORT = Limits(seconds=1)
WAYS = ["namespaces", "limits"]


@pytest.fixture(params=WAYS)
def limits(request: pytest.FixtureRequest) -> Limits:
    if request.param == "namespaces" and isolation() != "namespaces":
        pytest.skip("this system lets nobody make namespaces")
    return Limits(seconds=1, namespaces=request.param == "namespaces")


HONEST = {
    "prints": "print(6 * 7)",
    "a file of its own": "open('a', 'w').write('x')\nassert open('a').read() == 'x'",
    "a folder of its own": "import os, tempfile\nos.mkdir('d')\nos.rmdir('d')\n"
    "open(tempfile.mkstemp()[1], 'w').close()",
    "a folder removed": "import os, shutil\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nshutil.rmtree('a')",
    "a temporary folder": "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').close()",
    "a database": "import sqlite3\nsqlite3.connect('x.db').execute('create table t (a)')",
    "a main module": "import dataclasses, pickle\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    "assert pickle.loads(pickle.dumps(A(1))) == A(1) and __name__ == '__main__'",
    "packages": "import numpy\nassert numpy.arange(3).sum() == 3",
    "its own exceptions": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(limits: Limits, name: str) -> None:
    verdict = run_python(HONEST[name], limits)
    assert verdict.passed, verdict
    assert verdict.seconds > 0


def test_what_is_printed_is_kept_to_its_end(limits: Limits) -> None:
    verdict = run_python("print('begin' * 5000)\nprint('end')", limits)
    assert verdict.output.endswith("end\n")
    assert len(verdict.output) == limits.output


# Program, and how it may end.
HOSTILE: dict[str, tuple[str, set[Status]]] = {
    "a wrong answer": ("assert 1 == 2", {"failed"}),
    "no Python": ("def f(:", {"failed"}),
    "endless recursion": ("def f(): f()\nf()", {"failed"}),
    "an endless loop": ("while True: pass", {"timeout"}),
    "10 GB": ("x = bytearray(10 << 30)", {"memory"}),
    "a fork bomb": ("import os\nwhile True: os.fork()", {"failed", "refused"}),
    "a fork bomb in C": ("import ctypes\nassert ctypes.CDLL(None).fork() >= 0", {"failed", "refused"}),
    "a program": ("import subprocess\nsubprocess.run(['true'])", {"failed", "refused"}),
    "a connection": ("import socket\nsocket.create_connection(('127.0.0.1', PORT))", {"failed", "refused"}),
    "deleting a file": ("import os\nos.remove(VICTIM)", {"failed", "refused"}),
    "overwriting a file": ("open(VICTIM, 'w').write('')", {"failed", "refused"}),
    "a link out of the folder": ("import os\nos.symlink(VICTIM, 'l')\nopen('l', 'w').write('')", {"failed", "refused"}),
    "a new file outside": ("open(VICTIM + '.new', 'w').write('')", {"failed", "refused"}),
    "a folder away": ("import shutil, os\nshutil.rmtree(os.path.dirname(VICTIM))", {"failed", "refused"}),
    "an open folder": (
        "import os\nf = os.open(os.path.dirname(VICTIM), os.O_RDONLY)\n"
        "os.open('victim', os.O_WRONLY | os.O_TRUNC, dir_fd=f)",
        {"failed", "refused"},
    ),
    "a folder of a folder": (
        "import os\nos.makedirs('a/b/c')\nf = os.open('a', os.O_RDONLY)\nos.chdir('a/b/c')\n"
        "os.close(os.open('../../../../x', os.O_WRONLY | os.O_CREAT, dir_fd=f))\nassert False",
        {"failed", "refused"},
    ),
    "an open file": ("import os\nos.chmod(open(VICTIM).fileno(), 0)", {"failed", "refused"}),
    "moving a file": ("import os\nos.rename(VICTIM, 'mine')", {"failed", "refused"}),
    "a path object": ("import pathlib\npathlib.Path(VICTIM).unlink()", {"failed", "refused"}),
    "killing its parents": ("import os\nos.kill(os.getppid() or 1, 9)\nos.kill(PARENT, 9)", {"failed", "refused"}),
    "a file of 1 GB": ("f = open('x', 'wb')\nfor _ in range(1024): f.write(bytes(1 << 20))", {"failed"}),
    "endless output": ("while True: print('x' * 10000)", {"failed"}),
    "the way out": ("import os\nos._exit(0)", {"exited"}),
    "a polite way out": ("raise SystemExit(0)", {"exited"}),
    "a crash": ("import ctypes\nctypes.string_at(0)", {"killed"}),
    "an unreadable folder": ("import os\nos.makedirs('a/b')\nos.chmod('a', 0)\nassert False", {"failed"}),
    "swallowing all errors": (
        "import os\ntry:\n    os.remove(VICTIM)\nexcept Exception: pass\nassert False",
        {"failed", "refused"},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_harm_nothing(limits: Limits, tmp_path: Path, name: str) -> None:
    import socket

    victim = tmp_path / "kept" / "victim"
    victim.parent.mkdir()
    victim.write_text("dear to us", encoding="utf-8")
    program, ends = HOSTILE[name]
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = f"VICTIM, PORT, PARENT = {str(victim)!r}, {server.getsockname()[1]}, {os.getpid()}\n"
        verdict = run_python(names + program, limits)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert verdict.status in ends, verdict
    assert not verdict.passed
    assert victim.read_text(encoding="utf-8") == "dear to us"
    assert [file.name for file in victim.parent.iterdir()] == ["victim"]


def test_nothing_is_left_behind(limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_python("import os\nos.makedirs('a/b')\nos.chmod('a', 0)", limits)
    assert list(tmp_path.iterdir()) == []


def test_our_environment_is_not_theirs(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "12345")
    assert run_python("import os\nassert 'A_SECRET' not in os.environ", limits).passed
    assert run_python("import sys\nassert sys.stdin.read() == ''", limits).passed


def test_home_is_out_of_sight() -> None:
    if isolation() != "namespaces":
        pytest.skip("this system lets nobody make namespaces")
    inside = [path for path in (sys.prefix, sys.base_prefix) if Path(path).is_relative_to(Path.home())]
    seen = {Path(path).relative_to(Path.home()).parts[0] for path in inside}
    program = f"import os\nassert set(os.listdir({str(Path.home())!r})) <= {seen!r}"
    verdict = run_python(program, SHORT)
    assert verdict.passed or "PermissionError" in verdict.detail, verdict


def test_waiting_is_cut_off(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "START_SECONDS", 0.5)
    short = Limits(seconds=0.5, namespaces=limits.namespaces)
    assert run_python("import time\ntime.sleep(1000)", short).status == "timeout"


def test_a_claim_of_success_needs_the_word() -> None:
    """A program that finds the pipe and writes to it has passed no sooner for it."""
    claim = json.dumps({"word": "guess", "status": "passed", "detail": ""}) + "\n"
    program = (
        f"import os\nfor pipe in range(3, 64):\n    try: os.write(pipe, {claim.encode()!r})\n    except OSError: pass\n"
    )
    assert run_python(program + "os._exit(0)", SHORT).status == "exited"
    assert run_python(program.replace("guess", "") + "assert False", SHORT).status == "failed"


@pytest.mark.parametrize(
    ("said", "late", "verdict"),
    [
        ([{"status": "passed", "detail": ""}, {"signal": 0, "code": 0, "cpu": 0.1}], False, "passed"),
        ([{"status": "passed", "detail": ""}], True, "timeout"),
        ([{"signal": signal.SIGKILL, "code": 0, "cpu": 1.0}], False, "timeout"),
        ([{"signal": signal.SIGKILL, "code": 0, "cpu": 0.1}], False, "killed"),
        ([{"status": "passed", "detail": ""}, {"signal": signal.SIGSEGV, "code": 0, "cpu": 0.1}], False, "killed"),
        ([{"signal": 0, "code": 3, "cpu": 0.1}], False, "exited"),
    ],
)
def test_judge(said: list[dict[str, object]], late: bool, verdict: Status) -> None:
    assert judge(said, late, SHORT)[0] == verdict


def test_a_sandbox_that_does_not_start_is_our_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "inside.py"
    broken.write_text("raise OSError('no doors here')", encoding="utf-8")
    monkeypatch.setattr(run, "INSIDE", broken)
    with pytest.raises(OSError, match=r"the sandbox did not start: .*no doors here"):
        run_python("", Limits(namespaces=False))


@pytest.mark.parametrize(("name", "value"), [("seconds", 0.0), ("memory", 0), ("processes", 0), ("output", -1)])
def test_limits_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


# What raises each event of `inside`: a name that no Python raises would let everything pass.
CALLS = """
os.remove('no'); os.rename('no', 'x'); os.rmdir('no'); os.mkdir('/'); os.chmod('no', 0); os.chown('no', 0, 0)
os.link('no', 'x'); os.symlink('a', '/'); os.truncate('no', 0); os.utime('no'); os.setxattr('no', 'user.a', b'')
os.removexattr('no', 'user.a'); socket.socket().close(); os.kill(os.getpid(), 0); os.killpg(os.getpgrp(), 0)
os.posix_spawn('/no', ['no'], {}); os.execv('/no', ['no']); os.system('true'); subprocess.Popen(['/no'])
ctypes.CDLL('no'); sqlite3.connect(':memory:'); signal.pthread_kill(threading.get_ident(), 0)
"""
UNCALLED = {"os.fork", "os.forkpty", "os.spawn", "pty.spawn", "syslog.", "os.mkfifo", "os.mknod"}


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are Linux's")
def test_events_are_spelt_as_python_raises_them() -> None:
    script = f"""
import ctypes, os, signal, socket, sqlite3, subprocess, sys, threading
seen = set()
sys.addaudithook(lambda event, arguments: seen.add(event))
for call in {CALLS.replace(chr(10), ";").split(";")!r}:
    try:
        exec(call.strip())
    except OSError:
        pass
print(*seen)
"""
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert WRITES - set(seen) <= UNCALLED
    assert {name for name in NEVER if not any(event.startswith(name) for event in seen)} <= UNCALLED
