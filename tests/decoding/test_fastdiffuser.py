"""Block diffusion, one hand-written step at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoding.scripted import Script, feed, picks, run
from unmask.decoding import fastdiffuser
from unmask.decoding.fastdiffuser import choose, last_hope
from unmask.types import Diffusion, Ids, Read, Request, Row, SlotState, Span, State, Traits

MASK, STOP = 99, 7


def begin(settings: Diffusion, prompt: Ids = (1, 2, 3), max_tokens: int = 8, **fields: Any) -> State:
    traits = fields.pop("traits", Traits(MASK))
    return fastdiffuser.start(Request(prompt, max_tokens, "fastdiffuser", settings, traits=traits, **fields))


def show(state: State) -> str:
    """The open block: its tokens, "_" masked, "-" frozen, "5?" tentative."""
    signs = {SlotState.MASKED: "_", SlotState.FROZEN: "-", SlotState.TENTATIVE: "{}?"}
    return " ".join(signs.get(slot.state, "{}").format(slot.token) for slot in state.block)


def sure(*pairs: tuple[int, float]) -> list[Row]:
    return [Row(id, prob) for id, prob in pairs]


def test_the_prompt_rides_with_the_first_denoise() -> None:
    plan = fastdiffuser.need(begin(Diffusion(4)))
    assert plan.spans == (Span((1, 2, 3), 0), Span((MASK,) * 4, 3, True, ((0, 3),), None, (True,) * 4))
    assert plan.reads == (Read(1, (0, 1, 2, 3), shift=0, detail=True, bans_mask=True),)


def test_a_finished_block_is_committed_causally_beside_the_next_denoise() -> None:
    traits = Traits(MASK, denoise_adapter="d")
    state, outcome = feed(begin(Diffusion(2, 0.0), traits=traits), *picks(5, 6))
    assert (outcome.keep, [token.id for token in outcome.emit], state.kept) == (3, [5, 6], 3)
    spans = fastdiffuser.need(state).spans
    assert spans == (Span((5, 6), 3), Span((MASK, MASK), 5, True, ((0, 2),), "d", (True, True)))


def test_the_last_block_ends_where_the_request_ends() -> None:
    state, _ = feed(begin(Diffusion(4, 0.0), max_tokens=5), *picks(5, 5, 5, 5))
    assert show(state) == "_"
    state, outcome = feed(state, *picks(6))
    assert (state.output, outcome.finish) == ((5, 5, 5, 5, 6), "length")
    assert state.kept == 7  # the last token was never run


@pytest.mark.parametrize(
    ("probs", "block"),
    [
        ((0.5, 0.95, 0.9, 0.1), "_ 11 12 _"),
        ((0.5, 0.3, 0.2, 0.89), "_ _ _ 13"),  # nobody is sure: the surest
        ((0.3, 0.5, 0.5, 0.2), "_ 11 _ _"),  # the first of equals
        ((0.9, 0.95, 0.1, 0.92), "10 11 _ 13"),
    ],
)
def test_confidence(probs: tuple[float, ...], block: str) -> None:
    state, _ = feed(begin(Diffusion(4, 0.9)), *sure(*enumerate(probs, 10)))
    assert show(state) == block


def test_tokens_are_emitted_from_the_left_as_soon_as_they_are_certain() -> None:
    state, outcome = feed(begin(Diffusion(4, 0.9)), *sure((10, 0.9), (11, 0.5), (12, 0.9), (13, 0.5)))
    assert [token.id for token in outcome.emit] == [10]
    plan = fastdiffuser.need(state)
    assert [span.tokens for span in plan.spans] == [(10, MASK, 12, MASK)]
    assert plan.spans[0].masked == (False, True, False, True)
    assert plan.reads[0].rows == (1, 3)
    state, outcome = feed(state, *sure((11, 0.9), (13, 0.5)))
    assert [(token.id, token.step, token.confidence) for token in outcome.emit] == [(11, 2, 0.9), (12, 1, 0.9)]
    assert outcome.keep == 0


def test_threshold_1_places_one_per_step_until_certain() -> None:
    state = begin(Diffusion(3, 1.0))
    for left in (3, 2):
        state, _ = feed(state, *picks(*[5] * left, prob=0.99))
        assert show(state).count("_") == left - 1
    state, _ = feed(begin(Diffusion(3, 1.0)), *picks(5, 5, 5, prob=1.0))
    assert state.output == (5, 5, 5)


def rows(**columns: tuple[float, ...]) -> list[tuple[int, Row]]:
    values = [dict(zip(columns, column, strict=True)) for column in zip(*columns.values(), strict=True)]
    return [(i, Row(50 + i)._replace(**value)) for i, value in enumerate(values)]


def test_margin_is_over_the_runner_up() -> None:
    candidates = rows(prob=(0.6, 0.5, 0.3), second_prob=(0.35, 0.0, 0.0))
    assert choose(candidates, Diffusion(sampler="margin", confidence_threshold=0.9), 0, 3) == [1]
    assert choose(candidates, Diffusion(sampler="margin", confidence_threshold=0.3), 0, 3) == [1, 2]
    assert choose(candidates, Diffusion(confidence_threshold=0.9), 0, 3) == [0]


@pytest.mark.parametrize(
    ("entropies", "bound", "chosen"),
    [
        ((0.5, 0.05, 0.06), 0.1, [1, 2]),
        ((0.5, 0.05, 0.05), 0.1, [1, 2, 0]),  # 0.05 + 0.05: only the largest is not counted
        ((0.5, 0.25, 0.75), 0.0, [1]),
        ((0.0, 0.0, 0.75), 0.0, [0, 1, 2]),
        ((3.0, 2.0, 2.0), 0.1, [1]),  # at least one
    ],
)
def test_entropy_places_the_largest_set_under_the_bound(
    entropies: tuple[float, ...], bound: float, chosen: list[int]
) -> None:
    settings = Diffusion(sampler="entropy", entropy_bound=bound, confidence_threshold=0.0)
    assert choose(rows(entropy=entropies), settings, 0, 3) == chosen
    plan = fastdiffuser.need(begin(settings))
    assert plan.reads[0].entropy
    assert plan.reads[0].detail


@pytest.mark.parametrize(
    ("size", "steps", "placed"),
    [(8, None, [1] * 8), (8, 8, [1] * 8), (8, 3, [3, 3, 2]), (8, 1, [8]), (3, 8, [1, 1, 1]), (8, 5, [2, 2, 2, 1, 1])],
)
def test_without_a_threshold_every_step_places_its_share(size: int, steps: int | None, placed: list[int]) -> None:
    state, found = begin(Diffusion(size, None, steps), max_tokens=100), list[int]()
    while len(state.output) < size:
        left = show(state).count("_")
        state, _ = feed(state, *picks(*[5] * left))
        found.append(left - (show(state).count("_") if len(state.output) < size else 0))
    assert found == placed


def test_the_last_step_places_all_that_is_left() -> None:
    state = begin(Diffusion(4, 1.0, steps=2, revision_threshold=0.5))
    state, outcome = feed(state, *picks(5, 5, 5, 5, prob=0.5))
    assert show(state) == "5? _ _ _"
    # The placed slot would have been revised, but nothing is after the last step.
    state, outcome = feed(state, *picks(6, 6, 6, prob=0.5), Row(1, given_prob=0.0))
    assert [token.id for token in outcome.emit] == [5, 6, 6, 6]


def test_a_seed_is_ars_token_and_certain() -> None:
    state = begin(Diffusion(2, 0.0, seed_first=True))
    plan = fastdiffuser.need(state)
    assert (plan.spans, plan.reads) == ((Span((1, 2, 3), 0),), (Read(0, (2,)),))
    state, outcome = feed(state, Row(MASK))  # a causal row may well say the mask id
    assert (outcome.keep, state.output, state.stats.prefills, state.stats.nfe) == (3, (MASK,), 1, 0)
    plan = fastdiffuser.need(state)
    assert plan.spans == (Span((MASK, MASK), 3, True, (), None, (False, True)),)
    assert plan.reads[0].rows == (1,)
    state, outcome = feed(state, Row(6))
    assert (outcome.keep, state.output) == (0, (MASK, 6))
    assert fastdiffuser.need(state).spans == (Span((MASK, 6), 3),)


def test_shifted_rows_predict_the_slot_after_them() -> None:
    state, _ = feed(begin(Diffusion(3, 0.9, revision_threshold=0.5), traits=Traits(MASK, shift=True)), Row(5))
    assert fastdiffuser.need(state).reads[0] == Read(0, (0, 1), shift=1, detail=True, bans_mask=True)
    state, _ = feed(state, *sure((6, 0.1), (7, 0.9)))
    # Slot 2 is placed and may be revised; the seed may not.
    assert fastdiffuser.need(state).reads[0].rows == (0, 1)
    assert fastdiffuser.need(state).reads[0].given == (-1, 7)


def test_a_stop_id_in_mid_block_freezes_what_follows() -> None:
    state = begin(Diffusion(5, 0.9), stop_ids=(STOP,))
    state, outcome = feed(state, *sure((10, 0.1), (11, 0.1), (STOP, 0.9), (13, 0.9), (14, 0.1)))
    assert show(state) == f"_ _ {STOP} - -"
    plan = fastdiffuser.need(state)
    assert plan.reads[0].rows == (0, 1)
    assert plan.spans[0].tokens == (MASK, MASK, STOP, STOP, STOP)
    state, outcome = feed(state, *sure((10, 0.9), (11, 0.9)))
    assert (state.output, outcome.finish) == ((10, 11, STOP), "stop")


def test_an_earlier_stop_id_freezes_more() -> None:
    state, _ = feed(begin(Diffusion(4, 0.9), stop_ids=(STOP,)), *sure((1, 0.1), (2, 0.1), (3, 0.1), (STOP, 0.9)))
    state, _ = feed(state, *sure((1, 0.1), (STOP, 0.9), (3, 0.1)))
    assert show(state) == f"_ {STOP} - -"


def test_a_stop_id_before_min_tokens_stops_nothing() -> None:
    state = begin(Diffusion(4, 0.0), stop_ids=(STOP,), min_tokens=2)
    state, outcome = feed(state, *picks(STOP, 5, STOP, 6))
    assert (state.output, outcome.finish) == ((STOP, 5, STOP), "stop")


def test_doubted_tokens_return_to_masked_a_bounded_number_of_times() -> None:
    state = begin(Diffusion(3, 0.9, revision_threshold=0.5, max_revisions=1))
    state, outcome = feed(state, *sure((10, 0.9), (11, 0.1), (12, 0.9)))
    assert (show(state), outcome.emit) == ("10? _ 12?", ())
    read = fastdiffuser.need(state).reads[0]
    assert (read.rows, read.given) == ((1, 0, 2), (-1, 10, 12))
    state, _ = feed(state, Row(11, 0.1), Row(0, given_prob=0.49), Row(0, given_prob=0.5))
    assert show(state) == "_ 11? 12?"
    state, _ = feed(state, Row(20, 0.9), Row(0, given_prob=0.5), Row(0, given_prob=0.2))
    assert show(state) == "20? 11? _"
    state, _ = feed(state, Row(22, 0.1), Row(0, given_prob=0.0), Row(0, given_prob=0.0))
    assert show(state) == "20? _ 22?"  # slot 0 has had its revision
    state, outcome = feed(state, Row(21, 0.9), Row(0, given_prob=0.0), Row(0, given_prob=0.0))
    assert [(token.id, token.revisions) for token in outcome.emit] == [(20, 1), (21, 1), (22, 1)]
    assert state.stats.revisions == 3


def test_a_doubted_stop_id_thaws_what_followed_and_its_revisions_are_remembered() -> None:
    state = begin(Diffusion(3, 0.9, revision_threshold=0.5, max_revisions=1), stop_ids=(STOP,))
    state, _ = feed(state, *sure((10, 0.1), (11, 0.1), (12, 0.9)))
    state, _ = feed(state, *sure((10, 0.1), (STOP, 0.9)), Row(0, given_prob=0.0))
    assert [slot.revisions for slot in state.block] == [0, 0, 1]
    assert show(state) == f"_ {STOP}? -"
    state, _ = feed(state, Row(10, 0.9), Row(0, given_prob=0.0))
    assert show(state) == "10? _ _"
    assert [slot.revisions for slot in state.block] == [0, 1, 1]


def test_blocks_of_a_block_causal_model_are_full_and_aligned() -> None:
    state = begin(Diffusion(4, 0.0), (1, 2, 3, 4, 5, 6), 4, traits=Traits(MASK, context="block"))
    plan = fastdiffuser.need(state)
    assert plan.spans == (
        Span((1, 2, 3, 4), 0, True),
        Span((5, 6, MASK, MASK), 4, True, ((0, 4),), None, (False, False, True, True)),
    )
    assert plan.reads[0].rows == (2, 3)
    state, outcome = feed(state, *picks(7, 8))
    assert (outcome.keep, state.output) == (4, (7, 8))
    plan = fastdiffuser.need(state)
    assert plan.spans[0] == Span((5, 6, 7, 8), 4, True)
    assert plan.spans[1].sees == ((0, 4),)


def test_long_prompts_of_a_block_causal_model_are_cut_between_blocks() -> None:
    traits = Traits(MASK, context="block")
    state = begin(Diffusion(4, 0.0), tuple(range(15)), 1, traits=traits, prefill_chunk=11)
    plan = fastdiffuser.need(state)
    assert [(span.start, len(span.tokens), span.sees) for span in plan.spans] == [(0, 4, ()), (4, 4, ((0, 4),))]
    assert plan.reads == ()
    state, outcome = feed(state)
    assert (outcome.keep, state.stats.prefills) == (8, 1)
    assert [span.start for span in fastdiffuser.need(state).spans] == [8, 12]


def test_a_viewer_sees_every_step() -> None:
    request = begin(Diffusion(4, 0.9), max_tokens=10, stop_ids=(3,), watch=True).request
    trace = run(request, Script(salt=3))
    frames = [outcome.frame for outcome in trace.outcomes if outcome.frame]
    assert [frame.step for frame in frames] == list(range(1, len(trace.plans) + 1))
    assert {frame.start for frame in frames} <= {3, 7, 11}


PROBS = st.floats(0.001, 0.999)
LIKELY = st.lists(PROBS, min_size=2, max_size=3).map(lambda ps: sorted((p / sum(ps) for p in ps), reverse=True))


def prob_of(row: Row, id: int) -> float:
    return math.exp(dict(row.top)[id]) if id in dict(row.top) else 0.0


@given(
    st.lists(st.tuples(LIKELY, st.integers(0, 3)), min_size=1, max_size=6),
    st.sampled_from(["confidence", "margin", "entropy"]),
    st.one_of(st.none(), PROBS),
)
def test_nothing_is_placed_beyond_the_last_hope(
    slots: list[tuple[list[float], int]], sampler: Any, threshold: float | None
) -> None:
    """Whichever of its tokens, or which other one, a constraint leaves to a slot; the first keeps its pick."""
    settings = Diffusion(8, threshold, sampler=sampler, steps=2 if threshold is None else None)
    rows = [
        Row(0, probs[0], 1, probs[1], 0.5, top=tuple((id, math.log(p)) for id, p in enumerate(probs)))
        for probs, _ in slots
    ]
    taken = [
        row if i == 0 or pick == 0 else row._replace(id=pick, prob=prob_of(row, pick), second_prob=row.prob)
        for i, (row, (_, pick)) in enumerate(zip(rows, slots, strict=True))
    ]
    far = last_hope(list(enumerate(rows)), settings)
    assert max(choose(list(enumerate(taken)), settings, 0, len(rows))) <= far
    if threshold is not None and sampler == "confidence" and far > 0:
        assert rows[far].prob >= min(threshold, rows[0].prob), "and that slot has a reason"
