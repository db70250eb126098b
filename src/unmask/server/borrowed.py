"""The served model for code of a thread of its own that calls it as it would call any `LM`.

Its requests go through the worker, like everybody's; its lock holds the engine between two steps.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar, cast

from unmask.lm import LM, Event, Generation
from unmask.lm.follow import Follow
from unmask.server.call import Call
from unmask.server.leaving import ClientGoneError
from unmask.server.service import Service, Watch
from unmask.server.worker import Job, LostError, Worker
from unmask.types import Request

T = TypeVar("T")


class Pause:
    """A lock under which the engine stands still. For one thread at a time."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.leave = threading.Event()

    def __enter__(self) -> None:
        entered, leave = threading.Event(), threading.Event()
        self.leave = leave

        def stand_still() -> None:
            entered.set()
            leave.wait()

        self.worker.commands.put(stand_still)
        while not entered.wait(0.5):
            if not self.worker.alive:
                raise LostError

    def __exit__(self, *_: object) -> None:
        self.leave.set()


class Borrowed(LM):
    """Made on the event loop, used on one other thread, closed on the event loop."""

    def __init__(self, service: Service) -> None:
        self.__dict__.update(service.lm.__dict__)
        self.service, self.loop = service, asyncio.get_running_loop()
        self.lock = cast(Any, Pause(service.worker))
        self.calls = list[Call]()
        self.closed = False

    def submit(self, request: Request, follow: Follow) -> Iterator[Event]:
        self.run(self.begin(request, follow))
        return self.end(self.calls[-1])

    def close(self) -> None:
        """End what runs; whoever still uses the model gets ClientGoneError."""
        self.closed = True
        for call in self.calls:
            call.cancel()

    async def begin(self, request: Request, follow: Follow) -> None:
        if self.closed:
            raise ClientGoneError
        service = self.service
        watch = Watch(service, time.perf_counter(), 1)
        call = Call(service.worker, service.calls, service.settings.frames_held, watch, lambda: None)
        self.calls.append(call)
        await call.start([Job(request, follow, call)], service.settings.request_seconds)

    def end(self, call: Call) -> Iterator[Event]:
        """The last event alone: text is wanted whole."""
        yield self.run(last(call))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


async def last(call: Call) -> Generation:
    try:
        async for items in call.events():
            for _, event in items:
                if isinstance(event, Generation):
                    return event
    finally:
        call.cancel()
    raise ClientGoneError
