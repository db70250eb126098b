"""A peer in a process of its own, asked by JSON lines: so that memory, threads and compiled kernels are its own.

`python -m unmask.bench.worker` reads {"peer", "settings"}, then {"call", "with"}, and answers {"ok"} or {"error"}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from tempfile import TemporaryFile
from typing import Any, TextIO


class PeerError(ChildProcessError):
    """A peer that is not installed, cannot load the model, or died."""


class Remote:
    """The parent's end of a worker. Raises PeerError, in one line, where the peer cannot start."""

    def __init__(self, peer: str, settings: dict[str, Any], threads: int) -> None:
        self.log = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed with the process)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unmask.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
        )
        try:
            self._ask({"peer": peer, "settings": settings})
        except BaseException:
            self.close()
            raise

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return self._ask({"call": name, "with": arguments})

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.log.seek(0)
            lines = [line.strip() for line in self.log if line.strip()]
            raise PeerError(f"the process ended: {lines[-1] if lines else 'it said nothing'}")
        found = json.loads(answer)
        if "error" in found:
            raise PeerError(found["error"])
        return dict(found["ok"])

    def close(self) -> None:
        """Let it end, or make it."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()


def serve(source: TextIO, target: TextIO) -> None:
    """Answer until the other side is gone. The first message says who is measured."""

    def say(message: dict[str, Any]) -> None:
        target.write(json.dumps(message) + "\n")
        target.flush()

    peer: Any = None
    for line in source:
        message = json.loads(line)
        try:
            if peer is None:
                peer = started(message["peer"], message["settings"])
                say({"ok": {}})
            else:
                say({"ok": getattr(peer, message["call"])(**message["with"])})
        except (ImportError, PackageNotFoundError) as error:
            say({"error": f"{error.name or error} is not installed"})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"})


def started(peer: str, settings: dict[str, Any]) -> Any:
    from unmask.bench.peers import PEERS

    return PEERS[peer](**settings)


def main() -> None:
    """Whatever a library prints goes to the log; the pipe is for answers alone."""
    target = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, target)


if __name__ == "__main__":
    main()
