"""AR and linear self-speculation, one hand-written step at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.decoding.scripted import feed, picks
from unmask.decoding import ar, linearspec
from unmask.types import Plan, Read, Request, Row, Sampling, Span, Speculation, State, Traits

MASK, STOP = 99, 7


def drafting(settings: Speculation, max_tokens: int = 10, **fields: Any) -> State:
    """After the prompt: the seed is 5."""
    fields = {"traits": Traits(MASK)} | fields
    state, outcome = feed(linearspec.start(Request((1, 2, 3), max_tokens, "linearspec", settings, **fields)), Row(5))
    assert (state.output, outcome.keep) == ((5,), 3)
    return state


def test_ar_runs_the_prompt_in_chunks_then_token_by_token() -> None:
    state, seen = ar.start(Request((1, 2, 3, 4, 5), 3, prefill_chunk=2, logprobs=2)), list[Plan]()
    for rows in ((), (), picks(6), picks(7), picks(8)):
        seen.append(ar.need(state))
        state, outcome = feed(state, *rows)
    assert [plan.spans for plan in seen] == [
        (Span((1, 2), 0),),
        (Span((3, 4), 2),),
        (Span((5,), 4),),
        (Span((6,), 5),),
        (Span((7,), 6),),
    ]
    assert [plan.reads for plan in seen] == [(), ()] + [(Read(0, (0,), top=2),)] * 3
    assert (state.output, outcome.finish, state.kept) == ((6, 7, 8), "length", 7)
    assert (state.stats.prefills, state.stats.prefill_tokens, state.stats.nfe) == (3, 1, 2)


@pytest.mark.parametrize(("min_tokens", "output"), [(0, (STOP,)), (1, (STOP, STOP)), (3, (STOP, STOP, 5, STOP))])
def test_ar_stops_at_a_stop_id_after_min_tokens(min_tokens: int, output: tuple[int, ...]) -> None:
    state = ar.start(Request((1,), 9, stop_ids=(STOP,), min_tokens=min_tokens))
    for token in (STOP, STOP, 5, STOP):
        state, outcome = feed(state, Row(token))
        if outcome.finish:
            break
    assert (state.output, outcome.finish) == (output, "stop")


def test_penalties_are_told_what_is_kept() -> None:
    request = Request((1, 2, 3), 5, prefill_chunk=2, sampling=Sampling(frequency_penalty=0.5))
    state, _ = feed(ar.start(request))
    assert ar.need(state).history == (1, 2)
    assert ar.need(replace(state, request=replace(request, sampling=Sampling()))).history == ()


@pytest.mark.parametrize(
    ("traits", "spans", "read"),
    [
        (Traits(MASK), [Span((5, MASK, MASK), 3, True, (), None, (False, True, True))], Read(0, (1, 2), 0)),
        (
            Traits(MASK, shift=True, draft_adapter="d"),
            [Span((5, MASK, MASK), 3, True, (), "d", (False, True, True))],
            Read(0, (0, 1), 1),
        ),
        (
            Traits(MASK, seed="causal", draft_adapter="d"),
            [Span((5,), 3), Span((MASK, MASK), 4, True, ((0, 1),), "d", (True, True))],
            Read(1, (0, 1), 0),
        ),
        (
            Traits(MASK, seed="copy", draft_adapter="d"),
            [Span((5,), 3), Span((5, MASK, MASK), 3, True, ((0, 1),), "d", (False, True, True))],
            Read(1, (1, 2), 0),
        ),
    ],
)
def test_where_a_draft_sees_the_seed(traits: Traits, spans: list[Span], read: Read) -> None:
    plan = linearspec.need(drafting(Speculation(3), traits=traits))
    assert list(plan.spans) == spans
    assert plan.reads == (replace(read, bans_mask=True, follows=(5, (0, 0))),)


@pytest.mark.parametrize(
    ("verified", "emitted"),
    [((8, 0, 0), [8]), ((6, 8, 0), [6, 8]), ((6, 7, 8), [6, 7, 8]), ((8, 7, 8), [8])],
)
def test_a_round_emits_the_agreed_run_and_one_token_more(verified: tuple[int, ...], emitted: list[int]) -> None:
    state, outcome = feed(drafting(Speculation(3)), *picks(6, 7))
    assert (outcome.keep, outcome.emit, state.kept) == (0, (), 3)
    plan = linearspec.need(state)
    assert (plan.spans, plan.reads) == ((Span((5, 6, 7), 3),), (Read(0, (0, 1, 2)),))
    state, outcome = feed(state, *picks(*verified))
    assert [token.id for token in outcome.emit] == emitted
    assert outcome.keep == len(emitted)
    assert state.block == ()
    assert (state.stats.nfe, state.stats.rounds) == (2, 1)


def test_a_threshold_fills_the_draft_in_several_forwards() -> None:
    state = drafting(Speculation(4, draft_threshold=0.9))
    state, _ = feed(state, Row(6, 0.2), Row(7, 0.9), Row(8, 0.3))
    plan = linearspec.need(state)
    assert plan.spans[0].tokens == (5, MASK, 7, MASK)
    assert plan.reads[0].rows == (1, 3)
    state, _ = feed(state, Row(6, 0.2), Row(8, 0.1))
    assert linearspec.need(state).spans[0].tokens == (5, 6, 7, MASK)
    state, _ = feed(state, Row(8, 0.0))
    assert linearspec.need(state).spans == (Span((5, 6, 7, 8), 3),)


def test_a_stop_id_in_the_draft_ends_the_round_there() -> None:
    state, _ = feed(drafting(Speculation(4), stop_ids=(STOP,)), *picks(6, STOP, 8))
    state, outcome = feed(state, *picks(6, STOP, 8, 9))
    assert (state.output, outcome.finish, state.kept) == ((5, 6, STOP), "stop", 6)


def test_drafts_are_no_longer_than_what_may_be_emitted() -> None:
    state = drafting(Speculation(8), max_tokens=4)
    assert linearspec.need(state).rows == 3
    state, _ = feed(state, *picks(6, 7))
    state, outcome = feed(state, *picks(8, 0, 0))
    state, outcome = feed(state, *picks(6))
    state, outcome = feed(state, *picks(0, 0))
    assert linearspec.need(state) == Plan((Span((0,), 5),), (Read(0, (0,)),))  # no room for a draft
    state, outcome = feed(state, Row(9))
    assert (state.output, outcome.finish) == ((5, 8, 0, 9), "length")


def test_a_viewer_sees_drafts_with_their_confidence() -> None:
    state = drafting(Speculation(3), watch=True)
    assert linearspec.need(state).reads[0].detail
    _, outcome = feed(state, Row(6, 0.5), Row(7, 0.25))
    assert outcome.frame is not None
    assert outcome.frame.start == 4
    assert [(slot.token, slot.confidence) for slot in outcome.frame.slots] == [(6, 0.5), (7, 0.25)]
