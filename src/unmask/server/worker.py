"""The one thread that owns the engine: it steps while there is work, and hands what came of it to the event loop.

Everything crosses between the threads in two places: commands come in through a queue that is emptied before every
step, and events go out in one call to the loop per step.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from unmask.lm import LM, Event, Generation
from unmask.lm.follow import Follow
from unmask.lm.trace import Running
from unmask.types import Request

log = logging.getLogger("unmask.server")
T = TypeVar("T")


class LostError(Exception):
    """The engine failed at a step that a request took part in."""


class Sink(Protocol):
    """Who gets a job's events, on the event loop."""

    def put(self, index: int, events: Sequence[Event | Exception]) -> None: ...


@dataclass(eq=False, slots=True)
class Job:
    """One generation. index: which choice of its HTTP request it is. running: once it is in the engine."""

    request: Request
    follow: Follow
    sink: Sink
    index: int = 0
    running: Running | None = None
    cancelled: bool = False


class Worker:
    def __init__(self, lm: LM) -> None:
        self.lm, self.engine = lm, lm.engine
        self.jobs = dict[int, Job]()
        self.commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.stopping = False
        self.failures = 0
        self.steps, self.step_seconds = 0, 0.0
        self.thread = threading.Thread(target=self._run, name="unmask-engine", daemon=True)
        self.loop: asyncio.AbstractEventLoop | None = None

    # On the event loop.

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread.start()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and not self.stopping

    async def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs in the engine, all of them or none. ValueError where one can never run."""
        await self.call(lambda: self._submit(jobs))

    def cancel(self, job: Job) -> None:
        """Drop a job at any moment; its pages are free before the next step."""
        job.cancelled = True
        self.commands.put(lambda: self._drop(job))

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function between two steps and await what it returns or raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: Exception | None) -> None:
            if future.done():  # who asked has gone
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)  # type: ignore[arg-type]

        def command() -> None:
            try:
                value, error = function(), None
            except Exception as failed:
                value, error = None, failed
            self._tell(lambda: settle(value, error))

        self.commands.put(command)
        return await future

    def stop(self, seconds: float = 10.0) -> None:
        """End the thread after the step it is in; jobs that still run are dropped."""

        def command() -> None:
            self.stopping = True

        self.commands.put(command)
        if self.thread.is_alive():
            self.thread.join(seconds)

    # On the engine's thread.

    def _run(self) -> None:
        while not self.stopping:
            self._obey(wait=not self.engine.busy)
            if self.engine.busy and not self.stopping:
                self._step()
        for job in list(self.jobs.values()):
            self._drop(job)

    def _obey(self, wait: bool) -> None:
        """Run the commands that have come; where there is nothing else to do, wait for one."""
        while True:
            try:
                command = self.commands.get(block=wait)
            except Empty:
                return
            wait = False
            try:
                command()
            except Exception:
                log.exception("a command to the engine failed")  # whatever it was, the others must go on

    def _step(self) -> None:
        begun = time.perf_counter()
        try:
            updates = self.engine.step()
        except Exception:
            log.exception("a step of the engine failed")
            self.failures += 1
            updates = []
            self._report([(job, [LostError()]) for job in self._lost()])
        self.steps += 1
        self.step_seconds += time.perf_counter() - begun
        news = list[tuple[Job, list[Event | Exception]]]()
        for update in updates:
            job = self.jobs.get(update.id)
            if job is None or job.running is None:
                continue
            events: list[Event | Exception]
            try:
                events = [*job.running.take(time.perf_counter(), update)]
            except Exception:
                log.exception("the output of a request could not be made into text")
                events = [LostError()]
            if events and isinstance(events[-1], Generation | Exception):
                self._drop(job)  # a stop string ends a request that the engine would go on with
            if events:
                news.append((job, events))
        self._report(news)

    def _submit(self, jobs: Sequence[Job]) -> None:
        try:
            for job in jobs:
                if not job.cancelled:
                    job.follow.begun = time.perf_counter()
                    job.running = self.lm.enqueue(job.request, job.follow)
                    self.jobs[job.running.number] = job
        except BaseException:
            for job in jobs:
                self._drop(job)
            raise

    def _drop(self, job: Job) -> None:
        if job.running is not None:
            self.engine.cancel(job.running.number)
            self.jobs.pop(job.running.number, None)
            try:
                job.running.end()
            except OSError:
                log.exception("the trace of a request could not be ended")

    def _lost(self) -> list[Job]:
        """Jobs that the engine no longer knows."""
        gone = [job for number, job in self.jobs.items() if number not in self.engine.requests]
        for job in gone:
            self._drop(job)
        return gone

    def _report(self, news: Sequence[tuple[Job, Sequence[Event | Exception]]]) -> None:
        if news:
            self._tell(lambda: deliver(news))

    def _tell(self, callback: Callable[[], None]) -> None:
        assert self.loop is not None
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: nobody is there to be told
            self.stopping = True


def deliver(news: Sequence[tuple[Job, Sequence[Event | Exception]]]) -> None:
    for job, events in news:
        job.sink.put(job.index, events)
