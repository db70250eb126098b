"""The oracle's shortest schedule: valid, never longer than the greedy one, and the shortest where it was proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from unmask.evaluation.schedules import bits, shortest

Rule = Callable[[int], tuple[int, ...]]


def made_up(size: int, seed: int) -> tuple[Rule, list[int]]:
    """(what is predicted rightly in each state, a serial schedule that works): by chance, not monotone."""
    random = Random(seed)
    serial = random.sample(range(size), size)
    table = dict[int, tuple[int, ...]]()
    share = random.choice((0.2, 0.5, 0.8))
    for state in range(1 << size):
        others = [slot for slot in range(size) if not state >> slot & 1]
        right = [slot for slot in others if random.random() < share]
        placed = state.bit_count()
        if placed < size and state == bits(serial[:placed]) and serial[placed] not in right:
            right.append(serial[placed])
        random.shuffle(right)
        table[state] = tuple(right)
    return table.__getitem__, serial


def brute_force(size: int, rule: Rule) -> int:
    """Fewest forwards, by breadth, over every subset of what is right."""
    level, forwards, every = {0}, 0, (1 << size) - 1
    while every not in level:
        forwards += 1
        level = {
            state | bits(chosen)
            for state in level
            for count in range(1, len(rule(state)) + 1)
            for chosen in combinations(rule(state), count)
        }
    return forwards


@given(st.integers(1, 6), st.integers(0, 10**6), st.integers(1, 9))
def test_with_budget_enough_it_is_what_brute_force_finds(size: int, seed: int, batch: int) -> None:
    rule, serial = made_up(size, seed)
    found = shortest(serial, lambda states: [rule(state) for state in states], 1 << size, batch)
    assert found.proved
    assert len(found.steps) == brute_force(size, rule)


@given(st.integers(1, 9), st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 5))
def test_any_budget_gives_a_schedule_that_holds(size: int, seed: int, budget: int, batch: int) -> None:
    rule, serial = made_up(size, seed)
    asked = list[int]()

    def ask(states: Sequence[int]) -> list[tuple[int, ...]]:
        asked.extend(states)
        return [rule(state) for state in states]

    found = shortest(serial, ask, budget, batch)
    state = 0
    for step in found.steps:
        assert step
        assert step & ~bits(rule(state)) == 0, "only what is right is placed"
        assert step & state == 0
        state |= step
    assert state == (1 << size) - 1
    assert len(found.steps) <= min(size, found.greedy or size)
    assert len(asked) == len(set(asked)) == found.forwards <= size + budget
    if found.greedy is not None:
        state = 0
        for _ in range(found.greedy):
            state |= bits(rule(state))
        assert state == (1 << size) - 1


def test_what_greed_spoils_is_found() -> None:
    """Slot 2 is right at once, but with it in place the others come one by one; left out, all come together."""
    rule: dict[int, tuple[int, ...]] = {0b000: (2, 0), 0b100: (0,), 0b101: (1,), 0b001: (1, 2)}
    found = shortest((0, 1, 2), lambda states: [rule.get(state, ()) for state in states], 8)
    assert (found.greedy, found.steps, found.proved) == (2, (0b101, 0b010), True)
    rule = {0b0000: (3, 0), 0b1001: (1,), 0b1011: (2,), 0b0001: (1, 2, 3)}
    found = shortest((3, 0, 1, 2), lambda states: [rule.get(state, ()) for state in states], 16)
    assert (found.greedy, found.steps, found.proved) == (3, (0b0001, 0b1110), True)
    assert shortest((3, 0, 1, 2), lambda states: [rule.get(state, ()) for state in states], 0).steps == (9, 2, 4)
