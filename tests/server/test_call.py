"""What waits for a slow reader stays small and in order; nothing of the text is lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from unmask.lm import Event, Generation, Piece
from unmask.server.call import Call
from unmask.server.errors import ApiError
from unmask.server.worker import Job, LostError, Worker
from unmask.types import Frame, Token


class NoWorker:
    """Takes every job and remembers which were cancelled."""

    def __init__(self) -> None:
        self.cancelled = list[int]()

    async def submit(self, jobs: Any) -> None: ...

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job.index)


def piece(number: int) -> Piece:
    return Piece(f"{number} ", (Token(number, number),))


def frame(number: int) -> Frame:
    return Frame(number, 0, ())


def done() -> Generation:
    return object.__new__(Generation)


class Case:
    def __init__(self, choices: int = 1, held: int = 4) -> None:
        self.worker, self.ends, self.calls = NoWorker(), list[int](), set[Call]()
        self.call = Call(cast(Worker, self.worker), self.calls, held, lambda *_: None, lambda: self.ends.append(1))
        self.jobs = [Job(cast(Any, None), cast(Any, None), self.call, index) for index in range(choices)]

    async def start(self, seconds: float = 60) -> Case:
        await self.call.start(self.jobs, seconds)
        return self

    async def rest(self) -> list[tuple[int, Event]]:
        return [item async for items in self.call.events() for item in items]


def test_pieces_are_joined_while_nobody_reads() -> None:
    async def run() -> None:
        case = await Case(choices=2).start()
        for number in range(1000):
            case.call.put(number % 2, [piece(number)])
        assert len(case.call.waiting) == 2
        case.call.put(0, [done()])
        case.call.put(1, [done()])
        events = await case.rest()
        for index in (0, 1):
            first = next(event for i, event in events if i == index)
            assert isinstance(first, Piece)
            assert first.text == "".join(f"{number} " for number in range(index, 1000, 2))
            assert [token.id for token in first.tokens] == list(range(index, 1000, 2))
        assert case.ends == [1, 1]
        assert not case.worker.cancelled

    asyncio.run(run())


def test_only_the_newest_frames_wait() -> None:
    async def run() -> None:
        case = await Case(held=4).start()
        for number in range(100):
            case.call.put(0, [frame(number), piece(number)])
        assert len(case.call.waiting) <= 2 * 4 + 1
        case.call.put(0, [done()])
        events = [event for _, event in await case.rest()]
        assert [event.step for event in events if isinstance(event, Frame)] == [96, 97, 98, 99]
        assert case.call.frames_dropped == 96
        text = "".join(event.text for event in events if isinstance(event, Piece))
        assert text == "".join(f"{number} " for number in range(100))

    asyncio.run(run())


def test_a_lost_choice_ends_the_call() -> None:
    async def run() -> None:
        case = await Case(choices=3).start()
        case.call.put(0, [piece(1), done()])
        case.call.put(1, [LostError()])
        with pytest.raises(ApiError) as caught:
            await case.rest()
        assert caught.value.status == 500
        assert sorted(case.worker.cancelled) == [1, 2]
        assert case.ends == [1, 1, 1]
        case.call.put(2, [piece(1)])  # what was under way is not heard any more
        case.call.cancel()
        assert case.ends == [1, 1, 1]
        assert not case.calls

    asyncio.run(run())


def test_silence_and_the_time_limit() -> None:
    async def run() -> None:
        case = await Case().start(seconds=0.05)
        seen = list[int]()

        async def read() -> None:
            async for items in case.call.events(idle=0.01):
                seen.append(len(items))

        with pytest.raises(ApiError, match=r"longer than the 0\.05 s"):
            await read()
        assert seen.count(0) >= 2
        assert case.worker.cancelled == [0]

    asyncio.run(run())
