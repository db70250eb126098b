"""What a constraint's own work costs: a place in a constrained text that counts the processor time of its questions.

It wraps any `types.Matcher`, so every strategy asks it as it would ask the place itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unmask.types import Choices, Ids, IdSet, Matcher

T = TypeVar("T")
PLENTY = 1 << 20  # tokens: a budget that narrows nothing


@dataclass(eq=False, slots=True)
class Clock:
    """Seconds of this thread's processor time."""

    seconds: float = 0.0

    def timed(self, ask: Callable[..., T], *of: object) -> T:
        begun = time.thread_time()
        try:
            return ask(*of)
        finally:
            self.seconds += time.thread_time() - begun


@dataclass(frozen=True, eq=False, slots=True)
class Timed:
    """A place, and all places after it, on one clock."""

    inner: Matcher
    clock: Clock

    @property
    def accepting(self) -> bool:
        return self.inner.accepting

    def over(self, budget: int) -> bool:
        return self.clock.timed(self.inner.over, budget)

    def allowed(self, budget: int) -> IdSet:
        return self.clock.timed(self.inner.allowed, budget)

    def take(self, token: int, budget: int) -> Timed | None:
        after = self.clock.timed(self.inner.take, token, budget)
        return None if after is None else Timed(after, self.clock)

    def ending(self, budget: int, tokens: int = 0) -> Ids:
        return self.clock.timed(self.inner.ending, budget, tokens)

    def fill(self, slots: Sequence[Choices | int], known: Ids, budget: int, reach: int) -> Ids:
        return self.clock.timed(self.inner.fill, slots, known, budget, reach)


def again(start: Matcher, ids: Sequence[int], budget: int) -> tuple[float, bool]:
    """(seconds of asking once more what AR asked for along a text, whether `budget` ever narrowed what might come)."""
    clock = Clock()
    place: Matcher | None = Timed(start, clock)
    for i, token in enumerate(ids):
        assert place is not None
        place.allowed(budget - i)
        place = place.take(token, budget - i)
        assert place is not None, "the text obeys"
        place.over(budget - i - 1)
    narrowed, place = False, start
    for i, token in enumerate(ids):
        narrowed = narrowed or place.allowed(budget - i) != place.allowed(PLENTY)
        place = place.take(token, budget - i)
        assert place is not None
    return clock.seconds, narrowed
