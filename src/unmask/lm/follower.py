"""`python -m unmask.lm.follower`: one of the other processes of a model that several share. Started by `lm.crew`."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from queue import SimpleQueue
from typing import Any

from unmask.engine.runner import Follower
from unmask.lm.crew import READY, Task, meet
from unmask.lm.loading import decoder_of, with_adapter
from unmask.model.checkpoint import open_checkpoint


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed here must not be taken for an answer
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all; the first process says when to end
        signal.signal(number, signal.SIG_IGN)
    inbox = SimpleQueue[Any]()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    task: Task = inbox.get()
    os.write(answers, READY)
    meet(task)
    checkpoint = open_checkpoint(task.source)
    _, adapters = with_adapter(checkpoint, task.adapter)
    decoder = decoder_of(
        checkpoint, adapters, task.dtype, task.place, task.quantize, task.shard, task.config.exactness == "exact"
    )
    os.write(answers, READY)
    runner = Follower(decoder, task.config, inbox.get())
    while True:
        runner.follow(inbox.get())


def listen(inbox: SimpleQueue[Any]) -> None:
    """Take what comes. The end of it is the end of the first process, or of the model: nothing here is worth keeping,
    and the main thread may be waiting for a process that is gone."""
    try:
        while True:
            inbox.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
