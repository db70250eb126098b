"""Looking up what followed: against brute force, and what it does to a repetitive text."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding.requests import scripts, speculative
from tests.decoding.scripted import Script, feed, picks, run
from unmask.decoding import linearspec
from unmask.decoding.learning import LOOKUPS
from unmask.decoding.lookup import continuation
from unmask.types import Ids, Read, Request, Row, Span, Speculation, State, Traits
from unmask.types.settings import LONGEST_MATCH

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


@pytest.mark.parametrize("strategy", ["linearspec", "adaptivespec"])
def test_a_text_that_repeats_itself_needs_few_forwards_though_no_draft_of_the_model_is_right(strategy: str) -> None:
    free = Speculation(8, alternatives=0, costs=((1, 1.0), (64, 1.2)))
    request = Request((0, 1, 2), 120, strategy, free, traits=Traits(9))
    found, never = (
        run(request, Periodic(agrees="never")),
        run(replace(request, settings=replace(free, lookup=0)), Periodic(agrees="never")),
    )
    assert found.state.output == never.state.output == tuple(i % 9 for i in range(3, 123))
    assert never.nfe > 100
    assert found.nfe < 20


MASK = 99


def linear(prompt: Ids, *first: int, max_tokens: int = 10, lookup: int = 2, **fields: object) -> State:
    """linearspec's state after the prompt and the first token."""
    settings = Speculation(8, lookup=lookup, **fields)  # type: ignore[arg-type]
    state = linearspec.start(Request(prompt, max_tokens, "linearspec", settings, traits=Traits(MASK), stop_ids=(7,)))
    return feed(state, *picks(*first))[0]


def test_linearspec_verifies_at_once_what_stood_there_before() -> None:
    state = linear((1, 2, 3, 4, 1), 2)
    plan = linearspec.need(state)
    assert plan.spans == (Span((2, 3, 4, 1, 2, 3, 4, 1, 2), 5),)  # no longer than the nine that are left
    assert plan.reads == (Read(0, tuple(range(9))),)
    state, outcome = feed(state, *picks(3, 4, 9, 0, 0, 0, 0, 0, 0))
    assert [token.id for token in outcome.emit] == [3, 4, 9]
    assert (outcome.keep, state.kept) == (3, 8)
    assert (state.stats.nfe, state.stats.rounds) == (1, 1)
    assert state.memory[:4] == ((0, 0), (1, 1), (1, 1), (0, 1)), "matches of two, three and four tokens"
    assert state.memory[LOOKUPS] == (0, 0)
    assert any(span.full for span in linearspec.need(state).spans), "9 was not there before: the model drafts"


def test_no_repetition_is_asked_for_that_is_longer_than_what_is_looked_for() -> None:
    ids = tuple(range(LONGEST_MATCH)) * 2
    assert continuation(ids, LONGEST_MATCH, 2) == (LONGEST_MATCH, (0, 1))
    assert Speculation(lookup=LONGEST_MATCH).lookup == 16
    with pytest.raises(ValueError, match="lookup must be between 0 and 16, got 17"):
        Speculation(lookup=LONGEST_MATCH + 1)


def test_a_stop_id_among_what_was_copied_ends_the_text() -> None:
    state, outcome = feed(linear((1, 2, 3, 7, 4, 1), 2), *picks(3, 7, 4, 1, 2, 3, 7, 4, 1))
    assert (state.output, outcome.finish, outcome.keep) == ((2, 3, 7), "stop", 3)


@pytest.mark.parametrize(
    ("state", "copies"),
    [
        (linear((1, 2, 3, 4, 1), 2), True),
        (linear((1, 2, 3, 4, 1), 2, lookup=0), False),
        (linear((1, 2, 3, 4, 1), 2, lookup=3), False),
        (linear((1, 2, 3, 4, 1), 2, max_tokens=2), False),  # too little of it may be emitted
        (linear((1, 2, 3, 4, 1), 2, profile=(1.0,)), False),  # a draft is expected to bring four tokens a forward
        (linear((1, 2, 3, 4, 0, 1, 2, 3), 4, profile=(0.9,)), True),  # a longer match is trusted more
    ],
)
def test_linearspec_copies_where_more_tokens_are_expected_of_a_forward(state: State, copies: bool) -> None:
    assert bool(linearspec.copied(state)) == copies


def test_linearspec_learns_what_copies_and_drafts_bring() -> None:
    state = linear((1, 2, 3, 4, 1), 2)
    failed = replace(state, memory=((0.0, 9.0),) * LOOKUPS + ((0.0, 0.0),))
    assert not linearspec.copied(failed)
    assert linearspec.copied(replace(failed, memory=((0.0, 9.0),) * LOOKUPS + ((90.0, 90.0),))), "drafts do no better"
    assert not linearspec.copied(replace(state, memory=((0.0, 0.0),) * LOOKUPS + ((40.0, 10.0),)))
    state, _ = feed(failed, Row(3), *picks(4, 5, 6, 7, 8, 0))  # AR's token and a draft
    state, _ = feed(state, *picks(4, 5, 0, 0, 0, 0, 0))
    assert state.memory[LOOKUPS] == pytest.approx((0.98 * 1 + 3, 0.98 + 1))
    assert state.memory[0] == pytest.approx((0.0, 9 * 0.98**2))


def test_nothing_is_copied_while_a_draft_is_open() -> None:
    """With a threshold a draft takes several forwards; what it has cost is lost if it is not verified."""
    state = replace(linear((1, 2, 3, 4, 1), 2, draft_threshold=0.9), memory=((0.0, 9.0),) * LOOKUPS + ((0.0, 0.0),))
    state, _ = feed(state, Row(3), *(Row(4, 0.1) for _ in range(6)))
    state = replace(state, memory=((9.0, 9.0),) * (LOOKUPS + 1))
    assert linearspec.copied(replace(state, block=()))
    assert not linearspec.copied(state)
    assert linearspec.need(state).spans[0].full


@given(speculative("linearspec", draft_threshold=0.0), scripts)
def test_every_forward_of_linearspec_emits_and_a_round_has_one_or_two(request: Request, script: Script) -> None:
    trace = run(request, script)
    later = [(plan, o) for plan, o in zip(trace.plans, trace.outcomes, strict=True) if plan.reads][1:]
    assert all(outcome.emit for _, outcome in later)
    drafts = [False, *(any(span.full for span in plan.spans) for plan, _ in later)]
    assert trace.state.stats.rounds == sum(not drafted for drafted, _ in pairwise(drafts))
