"""What runs in the sandboxed process: shut the doors, fork, run the program, say how it ended. Run as a script.

Where Linux lets us: namespaces of its own for mounts (everything read-only but the work folder, the home folder out of
sight), processes (all of them end with the first), network (none) and IPC; then a user of its own without any
capability. Everywhere: resource limits. Without namespaces, an audit hook refuses what they would have prevented.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import resource
import signal
import sys
import traceback
import types
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    8192,
    16384,
    1 << 18,
)
SYS_MOUNT_SETATTR, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, 0x8000, 1  # the number is the same on every architecture
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
FIRST_USER = 0x40000000  # users that nobody is


def main() -> None:
    talk = int(sys.argv[1])
    asked: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    user = 0
    apart = False
    if asked["namespaces"] and sys.platform == "linux":
        apart, user = shut_doors(asked["work"], asked["folder"])
    child = os.fork()
    if child == 0:
        run(asked, talk, apart, user)
    _, status, used = os.wait4(child, 0)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    say(talk, asked["word"], signal=killed, code=code, cpu=used.ru_utime + used.ru_stime)
    os._exit(0)


def say(talk: int, word: str, **what: Any) -> None:
    os.write(talk, (json.dumps({"word": word, **what}) + "\n").encode())


def libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """A function of the C library that returns 0 or sets errno."""
    if getattr(libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def shut_doors(work: str, size: int) -> tuple[bool, int]:
    """(whether this process now has namespaces of its own, the user to become, 0 for none).

    Either all of them or an exit: a half-shut door is not told from a shut one by those who rely on it.
    """
    user, group = os.getuid(), os.getgid()
    spaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    try:
        call("unshare", spaces if user == 0 else spaces | CLONE_NEWUSER)
    except (OSError, AttributeError):
        return False, 0
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    call("syscall", SYS_MOUNT_SETATTR, -100, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    mount("tmpfs", work, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode=0777")
    hide(home_of(user), os.path.realpath(work))
    mount("tmpfs", "/proc", "tmpfs", MS_RDONLY)
    os.chdir(work)
    return True, FIRST_USER + os.getpid() if user == 0 else 0


def home_of(user: int) -> str:
    """The home folder as the system knows it; the root folder for a user that it does not know."""
    try:
        return os.path.realpath(pwd.getpwuid(user).pw_dir)
    except KeyError:
        return os.sep


def hide(home: str, work: str) -> None:
    """An empty folder over `home`, with nothing in it but the parts of this Python that lie there."""
    lists = [sys.prefix, sys.base_prefix, *sys.path]
    kept = [path for path in dict.fromkeys(map(os.path.realpath, lists)) if os.path.isdir(path)]
    inside = [path for path in kept if path.startswith(home + os.sep)]
    inside = [path for path in inside if not any(path.startswith(other + os.sep) for other in inside)]
    if home == os.sep or not os.path.isdir(home) or (work + os.sep).startswith(home + os.sep):
        return
    places = list[str]()
    for number, path in enumerate(inside):
        places.append(os.path.join(work, f".{number}"))
        os.mkdir(places[-1])
        mount(path, places[-1], None, MS_BIND | MS_REC)
    mount("tmpfs", home, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    for path, place in zip(inside, places, strict=True):
        os.makedirs(path)
        mount(place, path, None, MS_MOVE)
        os.rmdir(place)
    mount("none", home, None, MS_REMOUNT | MS_RDONLY | MS_BIND)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    call("mount", texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def run(asked: dict[str, Any], talk: int, apart: bool, user: int) -> None:
    """The program, and then the end of this process."""
    if sys.platform == "linux":
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    set_limits(asked, apart, user)
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if sys.platform == "linux":
        drop_capabilities()
    if not apart:
        sys.addaudithook(Refusals(asked["work"]))
    status, detail = "passed", ""
    module = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = module, ["program"]
    try:
        exec(compile(asked["program"], "<program>", "exec"), module.__dict__)
    except MemoryError:
        status, detail = "memory", f"more than {asked['memory'] >> 20} MiB"
    except SystemExit as error:
        status, detail = "exited", f"with {error.code!r} before its end"
    except Refused as error:
        status, detail = "refused", str(error)
    except BaseException as error:
        status, detail = "failed", "".join(traceback.format_exception_only(error))[-2000:].strip()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
    say(talk, asked["word"], status=status, detail=detail)
    os._exit(0)


def set_limits(asked: dict[str, Any], apart: bool, user: int) -> None:
    seconds = max(1, round(asked["seconds"]))
    # Under a user namespace the process that waits for this one counts as well.
    processes = asked["processes"] + (1 if apart and not user else 0)
    wanted = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: asked["file"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_AS: asked["memory"],
        resource.RLIMIT_NPROC: processes,
    }
    for name, value in wanted.items():
        try:
            resource.setrlimit(name, (value, value))
        except (ValueError, OSError):  # a lower hard limit stands already, or this system knows no such limit
            continue


def drop_capabilities() -> None:
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    call("capset", header, nothing)


# Audit events (Python's own table of them), by what they change outside of this process.
WRITES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"}
WRITES |= {"os.truncate", "os.utime", "os.setxattr", "os.removexattr", "os.mkfifo", "os.mknod", "sqlite3.connect"}
TWO_PATHS = {"os.rename", "os.link", "os.symlink"}
NEVER: tuple[str, ...] = (
    "socket.__new__",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.exec",
    "os.system",
    "os.spawn",
    "os.kill",
)
NEVER += ("os.killpg", "subprocess.Popen", "pty.spawn", "ctypes.dlopen", "signal.pthread_kill", "syslog.")


class Refused(BaseException):
    """Not an Exception, so that a program's own `except Exception` does not swallow it."""


class Refusals:
    """An audit hook for where there are no namespaces: no network, processes or signals; no writing outside the folder.

    A hook sees what Python does, not what native code does: loading any by hand is refused too.
    """

    def __init__(self, work: str) -> None:
        self.work = os.path.realpath(work)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(NEVER):
            raise Refused(event)
        if event in WRITES:
            for path in arguments[: 2 if event in TWO_PATHS else 1]:
                self.check(event, path)
        elif event == "open" and writes_or_is_folder(*arguments[:3]):
            self.check(event, arguments[0])

    def check(self, event: str, path: Any) -> None:
        """Refuse a path that leads out of the folder, and an open file, of which nobody knows where it is."""
        if isinstance(path, int) and event != "open":
            raise Refused(f"{event}: file {path}")
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if name in ("", ":memory:", os.devnull):
            return
        place = os.path.realpath(name)
        if not os.path.isabs(name) and os.pardir in name.split(os.sep):  # from which folder, an open one would decide
            raise Refused(f"{event}: {name}")
        if place != self.work and not place.startswith(self.work + os.sep):
            raise Refused(f"{event}: {name}")


def writes_or_is_folder(path: Any, mode: Any, flags: Any) -> bool:
    """Whether an `open` event asks for more than reading a file. An open folder would be a way around all paths."""
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    if (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
        return True
    return isinstance(path, str | bytes | os.PathLike) and os.path.isdir(path)


if __name__ == "__main__":
    main()
