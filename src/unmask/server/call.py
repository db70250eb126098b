"""One HTTP request on its way: its jobs, and the events that its reader has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from unmask.lm import Event, Generation, Piece
from unmask.server.errors import ApiError, broken
from unmask.server.worker import Job, Worker
from unmask.types import Frame

Item = tuple[int, Event]


class Call:
    """The choices of one HTTP request.

    Its reader may be slow: the engine never waits for it, and what it has not taken stays small. Pieces that wait are
    joined, so they hold each token once; of the frames that wait only the newest `frames_held` are kept, and
    `frames_dropped` counts the others.
    calls: where it is found from its start until it is cancelled, as a reader does that has come to the end.
    on_event sees every event as it comes; on_end is called once for every choice that has ended, however it did.
    """

    def __init__(
        self,
        worker: Worker,
        calls: set[Call],
        frames_held: int,
        on_event: Callable[[int, Event], None],
        on_end: Callable[[], None],
    ) -> None:
        self.worker, self.calls, self.frames_held = worker, calls, frames_held
        self.on_event, self.on_end = on_event, on_end
        self.jobs = list[Job]()
        self.open = set[int]()
        self.waiting = deque[Item]()
        self.frames_waiting = self.frames_dropped = 0
        self.error: ApiError | None = None
        self.wake = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None

    async def start(self, jobs: Sequence[Job], seconds: float) -> None:
        """Queue the jobs. ValueError where one can never run; none is queued then."""
        self.calls.add(self)
        self.jobs, self.open = list(jobs), {job.index for job in jobs}
        text = f"the request took longer than the {seconds:g} s that this server allows"
        late = ApiError(504, text, code="request_timeout")
        self.timer = asyncio.get_running_loop().call_later(seconds, self.fail, late)
        await self.worker.submit(jobs)

    def put(self, index: int, events: Sequence[Event | Exception]) -> None:
        """Events of one choice, in order; called on the event loop."""
        if index not in self.open:
            return
        for event in events:
            if isinstance(event, Exception):
                self.fail(broken())
                return
            self.on_event(index, event)
            self._hold((index, event))
            if isinstance(event, Generation):
                self._close(index)
        self.wake.set()

    def fail(self, error: ApiError) -> None:
        """End the call with an error: what waits is dropped, what runs is cancelled."""
        if self.open:
            self.error = error
            self.waiting.clear()
            self.cancel()

    def cancel(self) -> None:
        """Drop whatever still runs. Harmless at any moment, any number of times."""
        self.calls.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        for job in self.jobs:
            if job.index in self.open:
                self.worker.cancel(job)
                self._close(job.index)
        self.wake.set()

    async def events(self, idle: float | None = None) -> AsyncIterator[list[Item]]:
        """What has come since the last time, until all choices have ended; nothing, after `idle` seconds of silence.

        ApiError where the call has failed.
        """
        silence = Silence(idle, self.wake)
        try:
            while True:
                await self.wake.wait()
                self.wake.clear()
                ended = not self.open
                items, self.waiting, self.frames_waiting = list(self.waiting), deque(), 0
                if items or silence.over:
                    yield items
                silence.begin()
                if self.error is not None:
                    raise self.error
                if ended:
                    return
        finally:
            silence.end()

    def _close(self, index: int) -> None:
        self.open.discard(index)
        self.on_end()
        if not self.open and self.timer is not None:
            self.timer.cancel()

    def _hold(self, item: Item) -> None:
        index, event = item
        if isinstance(event, Frame):
            self.frames_waiting += 1
            self.waiting.append(item)
            if self.frames_waiting > self.frames_held:
                self._drop_a_frame()
        elif not self._joined(index, event):
            self.waiting.append(item)

    def _joined(self, index: int, event: Event) -> bool:
        """Whether a piece could be joined to the last thing of its choice that waits."""
        if not isinstance(event, Piece):
            return False
        for place in range(len(self.waiting) - 1, -1, -1):
            other, before = self.waiting[place]
            if other == index:
                if not isinstance(before, Piece):
                    return False
                self.waiting[place] = (index, joined(before, event))
                return True
        return False

    def _drop_a_frame(self) -> None:
        """Drop the oldest frame that waits; the pieces around it can then be joined."""
        place = next(i for i, (_, event) in enumerate(self.waiting) if isinstance(event, Frame))
        items = list(self.waiting)
        del items[place]
        self.waiting = deque()
        for index, event in items:
            if not self._joined(index, event):
                self.waiting.append((index, event))
        self.frames_waiting -= 1
        self.frames_dropped += 1


class Silence:
    """Sets an event after so many seconds in which nothing came; None is never. One timer serves a whole call: a
    timeout around every wait would cost more than all else that is done here for a token."""

    def __init__(self, seconds: float | None, wake: asyncio.Event) -> None:
        self.seconds, self.wake = seconds, wake
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.begin()
        self._wait()

    def begin(self) -> None:
        """It begins now: something has come and is dealt with."""
        self.since, self.over = self.loop.time(), False

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _wait(self) -> None:
        if self.seconds is not None:
            self.timer = self.loop.call_at(self.since + self.seconds, self._look, self.since + self.seconds)

    def _look(self, end: float) -> None:
        if self.seconds is not None and self.since + self.seconds <= end:  # not begun anew since the timer was set
            self.begin()
            self.over = True
            self.wake.set()
        self._wait()


def joined(one: Piece, other: Piece) -> Piece:
    return replace(one, text=one.text + other.text, tokens=one.tokens + other.tokens)
