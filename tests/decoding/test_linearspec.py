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
    request = Request((1, 2, 3), max_tokens, "linearspec", replace(settings, lookup=0), **fields)
    state, outcome = feed(linearspec.start(request), Row(5))
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
    ("traits", "group", "rows", "shift"),
    [
        (Traits(MASK), Span((5, MASK, MASK, MASK), 3, True, (), None, (False, True, True, True)), (2, 3), 0),
        (
            Traits(MASK, shift=True, draft_adapter="d"),
            Span((5, MASK, MASK, MASK), 3, True, (), "d", (False, True, True, True)),
            (1, 2),
            1,
        ),
        (
            Traits(MASK, seed="causal", draft_adapter="d"),
            Span((MASK, MASK, MASK), 4, True, ((0, 1),), "d", (True, True, True)),
            (1, 2),
            0,
        ),
        (
            Traits(MASK, seed="copy", draft_adapter="d"),
            Span((5, MASK, MASK, MASK), 3, True, ((0, 1),), "d", (False, True, True, True)),
            (2, 3),
            0,
        ),
    ],
)
def test_a_draft_is_a_step_of_ar_and_masks_behind_it(traits: Traits, group: Span, rows: Any, shift: int) -> None:
    plan = linearspec.need(drafting(Speculation(4), traits=traits))
    assert plan.spans == (Span((5,), 3), group)
    follows = ((0, 0), (1, 0))
    assert plan.reads == (Read(0, (0,)), Read(1, rows, shift, detail=True, bans_mask=True, follows=follows))


@pytest.mark.parametrize(
    ("verified", "emitted"),
    [((8, 0, 0), [8]), ((6, 8, 0), [6, 8]), ((6, 7, 8), [6, 7, 8]), ((8, 7, 8), [8])],
)
def test_a_round_emits_a_token_the_agreed_run_and_one_more(verified: tuple[int, ...], emitted: list[int]) -> None:
    state, outcome = feed(drafting(Speculation(4)), *picks(4, 6, 7))
    assert (outcome.keep, [token.id for token in outcome.emit], state.kept) == (1, [4], 4)
    plan = linearspec.need(state)
    assert (plan.spans, plan.reads) == ((Span((4, 6, 7), 4),), (Read(0, (0, 1, 2)),))
    state, outcome = feed(state, *picks(*verified))
    assert [token.id for token in outcome.emit] == emitted
    assert outcome.keep == len(emitted)
    assert state.block == ()
    assert (state.stats.nfe, state.stats.rounds) == (2, 1)


def test_a_threshold_fills_the_draft_in_several_forwards() -> None:
    state = drafting(Speculation(5, draft_threshold=0.9))
    state, _ = feed(state, Row(4), Row(6, 0.2), Row(7, 0.9), Row(8, 0.3))
    plan = linearspec.need(state)
    assert plan.spans[0].tokens == (4, MASK, 7, MASK)
    assert plan.reads[0].rows == (1, 3)
    state, _ = feed(state, Row(6, 0.2), Row(8, 0.1))
    assert linearspec.need(state).spans[0].tokens == (4, 6, 7, MASK)
    state, _ = feed(state, Row(8, 0.0))
    assert linearspec.need(state).spans == (Span((4, 6, 7, 8), 4),)


@pytest.mark.parametrize("first", [STOP, 6])
def test_a_stop_id_ends_the_round_there(first: int) -> None:
    state, outcome = feed(drafting(Speculation(5), stop_ids=(STOP,)), *picks(first, STOP, 8, 9))
    if first != STOP:
        state, outcome = feed(state, *picks(STOP, 8, 9, 9))
    assert (state.output, outcome.finish) == ((5, STOP) if first == STOP else (5, 6, STOP), "stop")
    assert state.kept == (4 if first == STOP else 6)  # the verifier's row of the stop id is there, AR's is not


def test_drafts_are_no_longer_than_what_may_be_emitted() -> None:
    state = drafting(Speculation(8), max_tokens=5)
    assert linearspec.need(state).rows == 1 + 1 + 3
    state, _ = feed(state, *picks(8, 6, 7))
    state, _ = feed(state, *picks(0, 0, 0))
    assert linearspec.need(state) == Plan((Span((0,), 5),), (Read(0, (0,)),))  # no room for a draft
    state, _ = feed(state, Row(9))
    state, outcome = feed(state, Row(3))
    assert (state.output, outcome.finish) == ((5, 8, 0, 9, 3), "length")


def test_a_viewer_sees_drafts_with_their_confidence() -> None:
    _, outcome = feed(drafting(Speculation(4), watch=True), Row(4), Row(6, 0.5), Row(7, 0.25))
    assert outcome.frame is not None
    assert outcome.frame.start == 5
    assert [(slot.token, slot.confidence) for slot in outcome.frame.slots] == [(6, 0.5), (7, 0.25)]
