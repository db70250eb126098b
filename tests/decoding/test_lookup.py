"""Looking up what followed: against brute force, and what it does to a repetitive text."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.decoding.scripted import Script, run
from unmask.decoding.lookup import LONGEST_MATCH, continuation
from unmask.types import Ids, Request, Speculation, Traits

IDS = st.lists(st.integers(0, 2), max_size=40).map(tuple)


def by_hand(ids: Ids, shortest: int, length: int) -> tuple[int, Ids]:
    best, place = 0, -1
    for at in range(1, len(ids)):  # a match of the end that ends before `at`
        match = 0
        while match < min(at, LONGEST_MATCH) and ids[at - 1 - match] == ids[len(ids) - 1 - match]:
            match += 1
        if match >= max(best, shortest):
            best, place = match, at
    if not best:
        return 0, ()
    longer = list(ids)
    while len(longer) < place + length:
        longer.append(longer[place + len(longer) - len(ids)])
    return best, tuple(longer[place : place + length])


@given(IDS, st.integers(1, 4), st.integers(0, 9))
def test_the_latest_of_the_longest_matches(ids: Ids, shortest: int, length: int) -> None:
    match, tokens = continuation(ids, shortest, length)
    expected, wanted = by_hand(ids, shortest, length)
    assert match == expected
    if match < LONGEST_MATCH:  # of matches that are cut, either may be the longest
        assert tokens == wanted


def test_ids_of_any_size() -> None:
    assert continuation((0xD800, 1_000_000, 7, 0xD800, 1_000_000), 2, 4) == (2, (7, 0xD800, 1_000_000, 7))


class Periodic(Script):
    """The text counts to `vocab` again and again, and what is drafted is always wrong."""

    def next_id(self, request: Request, ids: Ids, bans: Ids = ()) -> int:
        return len(ids) % self.vocab


def test_a_text_that_repeats_itself_needs_few_forwards_though_no_draft_of_the_model_is_right() -> None:
    free = Speculation(8, alternatives=0, costs=((1, 1.0), (64, 1.2)))
    request = Request((0, 1, 2), 120, "adaptivespec", free, traits=Traits(9))
    found, never = (
        run(request, Periodic(agrees="never")),
        run(replace(request, settings=replace(free, lookup=0)), Periodic(agrees="never")),
    )
    assert found.state.output == never.state.output == tuple(i % 9 for i in range(3, 123))
    assert never.nfe > 100
    assert found.nfe < 20
