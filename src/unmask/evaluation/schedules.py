"""The shortest way to fill a block when an oracle says which predictions are right: a search, on plain numbers.

A state is the set of slots that hold their target, as bits. One forward of a state tells which of the other slots are
predicted rightly; the oracle may place any of those. The search is ours, in place of the "recursive compaction" that
the Nemotron-Labs-Diffusion paper (arXiv 2607.05722, section 4) names without its details.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import combinations
from typing import NamedTuple

# States -> per state the slots that are not in it and are predicted rightly, the least certain first.
Ask = Callable[[Sequence[int]], Sequence[Sequence[int]]]


class Found(NamedTuple):
    """greedy: forwards where every right prediction is placed at once, None where that leads to a state with none.
    steps: the slots that each forward of the shortest schedule found places, as bits. forwards: states asked about.
    proved: nothing shorter exists."""

    greedy: int | None
    steps: tuple[int, ...]
    forwards: int
    proved: bool


class Knowledge:
    """What has been asked. A state costs one forward, once; `left` of them may still be asked."""

    def __init__(self, ask: Ask, budget: int) -> None:
        self.ask, self.left, self.known = ask, budget, dict[int, tuple[int, ...]]()

    def learn(self, states: Sequence[int]) -> None:
        new = [state for state in dict.fromkeys(states) if state not in self.known][: self.left]
        if new:
            self.left -= len(new)
            self.known |= {state: tuple(right) for state, right in zip(new, self.ask(new), strict=True)}


def shortest(serial: Sequence[int], ask: Ask, budget: int, batch: int = 8) -> Found:
    """The fewest forwards found that fill a block.

    serial: the slots in the order in which one was placed per forward, a schedule that is known to work. budget: most
    states to ask about, past those of the greedy schedule; batch: so many are asked about at a time.
    Schedules are tried by how many right predictions they leave out in all (limited discrepancy search, Harvey and
    Ginsberg 1995): first none, which is the greedy one. With budget enough it tries all that could be shorter.
    """
    size = len(serial)
    every = sum(1 << slot for slot in serial)
    knowledge = Knowledge(ask, size + budget)
    steps = greedy(every, knowledge)
    knowledge.left = min(knowledge.left, budget)
    best = steps or tuple(1 << slot for slot in serial)
    return Found(None if steps is None else len(steps), *improved(best, every, knowledge, batch))


def greedy(every: int, knowledge: Knowledge) -> tuple[int, ...] | None:
    state, steps = 0, list[int]()
    while state != every:
        knowledge.learn([state])
        placed = bits(knowledge.known.get(state, ()))
        if not placed:
            return None
        steps.append(placed)
        state |= placed
    return tuple(steps)


def improved(best: tuple[int, ...], every: int, knowledge: Knowledge, batch: int) -> tuple[tuple[int, ...], int, bool]:
    """(steps, states asked about, whether all that could be shorter was tried)."""
    reached: dict[int, tuple[int, int]] = {0: (0, 0)}  # state -> (forwards to it, the state before)
    queue, waiting = Queue(every), [(0, 0)]  # waiting: (left out on the way to it, state)
    while waiting:
        knowledge.learn([state for _, state in waiting])
        for out, state in waiting:
            right, depth = knowledge.known.get(state), reached[state][0]
            if right is None:  # the budget is spent
                return best, len(knowledge.known), False
            if state | bits(right) == every:
                if depth + 1 < len(best):
                    best = (*way_to(reached, state), every & ~state)
            elif depth + 2 < len(best):  # what follows from here needs two forwards at least
                queue.push(out, state, children(state, right))
        waiting = []
        while len(waiting) < batch and (entry := queue.pop()):
            out, before, child = entry
            depth = reached[before][0] + 1
            if depth + 1 < len(best) and (child not in reached or depth < reached[child][0]):
                reached[child] = depth, before
                waiting.append((out, child))
    return best, len(knowledge.known), True


class Queue:
    """Children of many states, those with the least left out first, then those with the most slots placed. Each state
    has one entry at a time, since its children are as many as the subsets of a set."""

    def __init__(self, every: int) -> None:
        self.every, self.number = every, 0
        self.heap = list[tuple[int, int, int, int, int, int, Iterator[tuple[int, int]]]]()

    def push(self, out: int, state: int, rest: Iterator[tuple[int, int]]) -> None:
        """The next child of a state, on the way to which `out` predictions were left out."""
        for left_out, child in rest:
            missing = (self.every & ~child).bit_count()
            heappush(self.heap, (out + left_out, missing, self.number, child, out, state, rest))
            self.number += 1
            return

    def pop(self) -> tuple[int, int, int] | None:
        """(left out on the way, the state before, state); None when there are no more."""
        if not self.heap:
            return None
        left_out, _, _, child, out, state, rest = heappop(self.heap)
        self.push(out, state, rest)
        return left_out, state, child


def children(state: int, right: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(how many right predictions are left out, the state after the others are placed): fewest and least certain left
    out first."""
    for count in range(len(right)):
        for left in combinations(right, count):
            yield count, state | (bits(right) & ~bits(left))


def way_to(reached: dict[int, tuple[int, int]], state: int) -> tuple[int, ...]:
    """The slots that each forward on the way to a state places."""
    steps = list[int]()
    while state:
        before = reached[state][1]
        steps.append(state & ~before)
        state = before
    return tuple(reversed(steps))


def bits(slots: Sequence[int]) -> int:
    return sum(1 << slot for slot in slots)
