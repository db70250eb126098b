"""Questions to oracles, answered by threads while others decode: no forward waits for one.

Oracles are other people's code: one that raises has not been able to say, and so has one that takes too long. Python
cannot stop a thread, so that one is left to itself, and is not asked again before it is done.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread

from unmask.types import Ask, Finding, Judge, Verdict

WORKERS = 4  # questions that are looked into at a time
MOST_LATE = 16  # threads that have been given up and still run


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """What the request of that number asks."""

    number: int
    judge: Judge
    ask: Ask


class Questions:
    """seconds: what one answer may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.waiting = deque[Question]()
        self.running = dict[Question, float]()  # with the time at which it is given up
        self.late = set[Question]()
        self.done: SimpleQueue[tuple[Question, Finding]] = SimpleQueue()

    def put(self, number: int, judge: Judge, ask: Ask) -> None:
        self.waiting.append(Question(number, judge, ask))
        self._begin()

    def forget(self, number: int) -> None:
        """Nobody waits for that request's answer any more."""
        self.waiting = deque(question for question in self.waiting if question.number != number)

    def answers(self, wait: float = 0.0) -> list[tuple[Question, Finding]]:
        """All that has been answered or given up. wait: so many seconds at most, where there is nothing yet."""
        found = list[tuple[Question, Finding]]()
        if wait > 0 and self.running:
            until = min(min(self.running.values()) - time.monotonic(), wait)
            self._take(found, max(until, 0.0))
        while self._take(found, 0.0):
            pass
        now = time.monotonic()
        for question in [question for question, until in self.running.items() if until <= now]:
            del self.running[question]
            self.late.add(question)
            found.append((question, unknown(f"no answer within {self.seconds:g} s")))
        self._begin()
        return found

    def _take(self, found: list[tuple[Question, Finding]], wait: float) -> bool:
        try:
            question, finding = self.done.get(timeout=wait) if wait else self.done.get_nowait()
        except Empty:
            return False
        self.late.discard(question)
        if self.running.pop(question, None) is not None:
            found.append((question, finding))
        return True

    def _begin(self) -> None:
        """Start what waits, as far as there are threads."""
        while self.waiting and len(self.running) < WORKERS:
            question = self.waiting.popleft()
            self.running[question] = time.monotonic() + self.seconds
            if len(self.late) >= MOST_LATE or any(other.judge is question.judge for other in self.late):
                self.done.put((question, unknown("still busy with an earlier question")))
            else:
                Thread(target=self._work, args=(question,), name="oracle", daemon=True).start()

    def _work(self, question: Question) -> None:
        try:
            finding = question.judge.judge(question.ask)
        except BaseException as error:  # whatever it is, the request must hear of it
            finding = unknown(f"{type(error).__name__}: {error}")
        self.done.put((question, finding))


def unknown(detail: str) -> Finding:
    return Finding(Verdict("unknown", f"the oracle could not say: {detail:.300}"))
