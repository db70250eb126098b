"""The other processes of a model that is shared between several: started, told what to run, and missed when they end.

This process is number 0: it has the scheduler and picks the tokens. The others (`lm.follower`) hold a part of the model
each and run the forwards they are told of, which come as pickles through their standard input.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal, cast

import torch
import torch.distributed as dist

from unmask.config import EngineConfig
from unmask.engine.runner import Step
from unmask.model.sharding import Shard
from unmask.quantization import Quantize

log = logging.getLogger("unmask.lm")
READY = b"ready\n"  # said by a process that has come up, and again when its part is loaded
PATIENCE = timedelta(minutes=5)  # with a process that neither answers nor ends
LAST_WORDS = 5.0  # seconds for a process to end in


@dataclass(frozen=True, slots=True)
class Task:
    """What a process has to load. device: its kind, "cpu" or "cuda". meeting: a file by which all find each other.

    threads: of torch, 0 for its own choice.
    """

    source: Path
    dtype: torch.dtype
    device: str
    adapter: str | Path | Literal[False] | None
    quantize: Quantize | None
    config: EngineConfig
    shard: Shard
    meeting: str = ""
    threads: int = 0

    @property
    def place(self) -> torch.device:
        return torch.device(self.device, self.shard.rank) if self.device == "cuda" else torch.device(self.device)


class LostError(RuntimeError):
    """A process that holds a part of the model is gone, and with it the model."""


def meet(task: Task) -> None:
    """Join the processes of one model. All have to call it."""
    # Nobody outside this machine has a part in it.
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    if task.device == "cuda":
        torch.cuda.set_device(task.place)
    if task.threads:
        torch.set_num_threads(task.threads)
    dist.init_process_group(
        "nccl" if task.device == "cuda" else "gloo",
        init_method=f"file://{task.meeting}",
        rank=task.shard.rank,
        world_size=task.shard.size,
        timeout=PATIENCE,
    )


def check(size: int, device: torch.device) -> None:
    """ValueError, in one line, where this machine or this process cannot share a model between so many."""
    if device != torch.device(device.type):
        raise ValueError(f"tp takes the first GPUs of the machine; give device as {device.type!r}, not {str(device)!r}")
    if device.type == "cuda" and size > torch.cuda.device_count():
        raise ValueError(f"tp is {size}, but this machine has {torch.cuda.device_count()} GPUs")
    if not dist.is_available():
        raise ValueError("tp needs a PyTorch with torch.distributed, and this one has none")
    if dist.is_initialized():
        raise ValueError("tp: this process is part of a torch.distributed group already; one such model a process")


class Crew:
    """The processes 1, 2, ... of a model, each with its part. lost: why it cannot go on, once that is so."""

    def __init__(self, task: Task) -> None:
        """task: of process 0; `meeting` and `threads` are filled in here. LostError where one does not come up."""
        self.size, self.lost, self.closing, self.lock = task.shard.size, cast(str | None, None), False, threading.Lock()
        self.on_loss: Callable[[str], None] | None = None
        self.folder = TemporaryDirectory(prefix="unmask-")
        self.threads_before = torch.get_num_threads()
        threads = max(self.threads_before // self.size, 1) if task.device == "cpu" else 0
        task = replace(task, meeting=str(Path(self.folder.name) / "meeting"), threads=threads)
        command = [sys.executable, "-m", "unmask.lm.follower"]
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(1, self.size)
        ]
        try:
            for rank, process in enumerate(self.processes, 1):
                self.send(process, replace(task, shard=replace(task.shard, rank=rank)))
            self.hear()
            meet(task)
        except BaseException:
            self.close()
            raise

    def begin(self, pages: int) -> None:
        """Wait until every part is loaded, and give each so many pages. From then on, all ends are noticed."""
        self.hear()
        for rank, process in enumerate(self.processes, 1):
            self.send(process, pages)
            threading.Thread(target=self.watch, args=(rank, process), name="unmask-watch", daemon=True).start()

    @contextmanager
    def step(self, step: Step) -> Iterator[None]:
        """Have all run a step together; this process's part of it is done inside. LostError where that fails."""
        if self.lost is not None:
            raise LostError(self.lost)
        try:
            for process in self.processes:
                self.send(process, step)
            yield
        except Exception as error:
            # The others may be waiting in the middle of this step for what will not come: there is no next one.
            self.lose(self.ended() or f"a step of the model failed on the first of its processes: {error}")
            raise LostError(self.lost) from error

    def lose(self, why: str) -> None:
        """Note that the model cannot go on, and tell who asked to know."""
        with self.lock:
            if self.lost is not None or self.closing:
                return
            self.lost = why
        log.error(why)
        if self.on_loss is not None:
            self.on_loss(why)

    def watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self.lose(self.said(rank, process))

    def ended(self) -> str | None:
        """Which process has ended, if one does within a moment."""
        for rank, process in enumerate(self.processes, 1):
            with suppress(subprocess.TimeoutExpired):
                process.wait(LAST_WORDS / self.size)
                return self.said(rank, process)
        return None

    def said(self, rank: int, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"process {rank} of the {self.size} that hold this model ended ({how})"

    def hear(self) -> None:
        for rank, process in enumerate(self.processes, 1):
            if cast(IO[bytes], process.stdout).readline() != READY:
                raise LostError(self.said(rank, process))

    @staticmethod
    def send(process: subprocess.Popen[bytes], what: Any) -> None:
        pipe = cast(IO[bytes], process.stdin)
        pipe.write(pickle.dumps(what, pickle.HIGHEST_PROTOCOL))
        pipe.flush()

    def close(self) -> None:
        """End the other processes. Harmless when done before."""
        with self.lock:
            if self.closing:
                return
            self.closing = True
        for process in self.processes:
            with suppress(OSError):  # it may be gone, and something may still be in the pipe
                cast(IO[bytes], process.stdin).close()
        for process in self.processes:
            try:
                process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            cast(IO[bytes], process.stdout).close()
        if dist.is_initialized() and (self.lost is None or dist.get_backend() == "gloo"):
            dist.destroy_process_group()  # NCCL would wait for those that are gone
        torch.set_num_threads(self.threads_before)
        self.folder.cleanup()
