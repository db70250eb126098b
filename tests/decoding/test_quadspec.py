"""Quadratic and adaptive self-speculation: what one forward runs and what comes of its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.decoding.scripted import feed, picks
from unmask.decoding import adaptivespec, auto, quadspec
from unmask.decoding.adaptivespec import SLOTS, price
from unmask.decoding.learning import CONFIDENCE_BINS, FADE, LOOKUPS, bin_of, estimate, reach
from unmask.decoding.quadspec import Layout, plan_of, settle_layout
from unmask.types import Draft, Read, Request, Row, Rows, Span, Speculation, State, Traits

MASK, STOP = 99, 7
CAUSAL = Traits(MASK, seed="causal")


def drafted(*tokens: int, prob: float = 1.0, seconds: tuple[int, ...] = ()) -> tuple[Draft, ...]:
    seconds = seconds or (-1,) * len(tokens)
    return tuple(Draft(token, prob, second, 1 - prob) for token, second in zip(tokens, seconds, strict=True))


def midway(*draft: Draft, name: str = "quadspec", size: int = 3, max_tokens: int = 20, **fields: Any) -> State:
    """Prompt (1, 2, 3) kept, token 5 pending, a draft to check."""
    settings = fields.pop("settings", Speculation(size))
    request = Request((1, 2, 3), max_tokens, name, settings, **({"traits": CAUSAL} | fields))
    start = adaptivespec.start(request) if name == "adaptivespec" else quadspec.start(request)
    return replace(start, kept=3, output=(5,), draft=draft)


def test_the_prompt_and_the_first_draft_are_one_forward() -> None:
    state = quadspec.start(Request((1, 2, 3), 20, "quadspec", Speculation(3), traits=CAUSAL))
    plan = quadspec.need(state)
    assert plan.spans == (Span((1, 2, 3), 0), Span((MASK,) * 3, 3, True, ((0, 3),), None, (True,) * 3))
    # The first mask stands for the token that the causal row settles.
    assert plan.reads == (Read(0, (2,)), Read(1, (1, 2), 0, detail=True, bans_mask=True, follows=((0, 0), (1, 0))))
    state, outcome = feed(state, Row(5), Row(6, 0.9, 8, 0.1), Row(7, 0.8, 9, 0.2))
    assert (outcome.keep, state.output) == (3, (5,))
    assert state.draft == (Draft(6, 0.9, 8, 0.1), Draft(7, 0.8, 9, 0.2))


def test_every_acceptance_has_its_group() -> None:
    plan = quadspec.need(midway(*drafted(6, 7)))
    masks, unknown = (MASK,) * 3, (True,) * 3
    assert plan.spans == (
        Span((5, 6, 7), 3),
        Span(masks, 4, True, ((0, 1),), None, unknown),
        Span(masks, 5, True, ((0, 2),), None, unknown),
        Span(masks, 6, True, ((0, 3),), None, unknown),
    )
    assert [read.rows for read in plan.reads] == [(0, 1, 2), (1, 2), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("traits", "group", "rows"),
    [
        (Traits(MASK), Span((6, MASK, MASK), 4, True, ((0, 1),), None, (False, True, True)), (2,)),
        (Traits(MASK, shift=True), Span((6, MASK, MASK), 4, True, ((0, 1),), None, (False, True, True)), (1,)),
        (Traits(MASK, seed="copy"), Span((6, MASK, MASK), 4, True, ((0, 2),), None, (False, True, True)), (2,)),
        (CAUSAL, Span((MASK, MASK), 5, True, ((0, 2),), None, (True, True)), (1,)),
    ],
)
def test_where_a_group_sees_its_seed(traits: Traits, group: Span, rows: tuple[int, ...]) -> None:
    plan = quadspec.need(midway(*drafted(6), size=2, traits=traits))
    assert plan.spans[2] == group
    assert plan.reads[2].rows == rows


@pytest.mark.parametrize(
    ("verified", "emitted", "draft"),
    [
        ((8, 0, 0), (8,), (10, 11)),
        ((6, 8, 0), (6, 8), (20, 21)),
        ((6, 7, 8), (6, 7, 8), (30, 31)),
        ((8, 7, 8), (8,), (10, 11)),
    ],
)
def test_the_group_of_what_was_accepted_is_the_next_draft(
    verified: tuple[int, ...], emitted: tuple[int, ...], draft: tuple[int, ...]
) -> None:
    state, outcome = feed(midway(*drafted(6, 7)), *picks(*verified, 10, 11, 20, 21, 30, 31))
    assert tuple(token.id for token in outcome.emit) == emitted
    assert outcome.keep == len(emitted)
    assert tuple(d.token for d in state.draft) == draft
    assert quadspec.need(state).spans[0] == Span((emitted[-1], *draft), 3 + len(emitted))


def test_a_stop_id_in_the_draft_ends_the_request_there() -> None:
    state, outcome = feed(midway(*drafted(STOP, 6), stop_ids=(STOP,)), *picks(STOP, 6, 8, *range(6)))
    assert (state.output, outcome.finish, outcome.keep) == ((5, STOP), "stop", 2)


def test_drafts_and_masks_end_where_the_request_ends() -> None:
    plan = quadspec.need(midway(*drafted(6, 7), max_tokens=4))
    assert [len(span.tokens) for span in plan.spans] == [3, 2, 2, 2]
    plan = quadspec.need(midway(*drafted(6, 7), max_tokens=3))
    assert [len(span.tokens) for span in plan.spans] == [2]  # one mask alone drafts nothing
    state, outcome = feed(midway(*drafted(6, 7), max_tokens=2), Row(6))
    assert (state.output, outcome.finish, outcome.keep) == ((5, 6), "length", 1)


# The second-best token of draft slot 0, which is 8, runs beside the draft 6, 7.
BESIDE = Layout(verify=2, masks=2, groups=(0,), alternatives=(0,), alternative_groups=(0,))


def beside(traits: Traits = CAUSAL) -> State:
    return midway(*drafted(6, 7, seconds=(8, 9)), traits=traits)


def test_an_alternative_runs_beside_the_slot_it_may_replace() -> None:
    plan = plan_of(beside(), BESIDE)
    unknown = (True, True)
    assert plan.spans == (
        Span((5, 6, 7), 3),
        Span((8,), 4, sees=((0, 1),)),
        Span((MASK,) * 2, 4, True, ((0, 1),), None, unknown),
        Span((MASK,) * 2, 5, True, ((0, 1), (1, 1)), None, unknown),
    )
    assert [(read.span, read.rows) for read in plan.reads] == [(0, (0, 1, 2)), (1, (0,)), (2, (1,)), (3, (1,))]
    assert plan_of(beside(Traits(MASK)), BESIDE).spans[3].sees == ((0, 1),)
    assert plan_of(beside(Traits(MASK, seed="copy")), BESIDE).spans[3].sees == ((0, 1), (1, 1))


@pytest.mark.parametrize(
    ("verified", "emitted", "keep", "draft"),
    [
        ((8, 0, 0), (8, 20), 1, (40,)),  # the alternative: its row gives one token more, and its group the draft
        ((4, 0, 0), (4,), 1, (30,)),
        ((6, 9, 0), (6, 9), 2, ()),  # the runner-up of slot 1 did not run
        ((6, 7, 4), (6, 7, 4), 3, ()),
    ],
)
def test_an_alternative_that_is_right_gives_two_tokens_and_keeps_one_row(
    verified: tuple[int, ...], emitted: tuple[int, ...], keep: int, draft: tuple[int, ...]
) -> None:
    state = beside()
    after, outcome = settle_layout(state, plan_of(state, BESIDE), picks(*verified, 20, 30, 40))
    assert tuple(token.id for token in outcome.emit) == emitted
    assert (outcome.keep, after.kept) == (keep, 3 + keep)
    assert tuple(d.token for d in after.draft) == draft
    # What has no row yet is written by the next forward.
    assert plan_of(after, Layout(0, 0)).spans[0].tokens == emitted[keep - 1 :]


def adaptive(*draft: Draft, costs: tuple[tuple[int, float], ...], alternatives: int = 2, size: int = 8) -> State:
    settings = Speculation(size, costs=costs, alternatives=alternatives)
    return midway(*draft, name="adaptivespec", max_tokens=100, settings=settings)


FREE, STEEP, FAIR = ((1, 1.0), (2, 1.0)), ((1, 1.0), (2, 2.0)), ((1, 1.0), (11, 1.5))


def test_rows_are_spent_where_they_are_worth_it() -> None:
    draft = drafted(6, 7, 8, prob=0.9)
    assert adaptivespec.layout(adaptive(*draft, costs=STEEP)) == Layout(0, 0)
    free = adaptivespec.layout(adaptive(*draft, costs=FREE))
    assert (free.verify, free.masks, free.groups) == (3, 8, (0, 1, 2, 3))
    fair = adaptivespec.layout(adaptive(*draft, costs=FAIR))
    assert fair.verify == 3
    assert set(fair.groups) < {0, 1, 2, 3}
    assert 3 in fair.groups, "the likeliest acceptance has no draft to go on with"


def test_an_unlikely_draft_is_not_verified() -> None:
    assert adaptivespec.layout(adaptive(*drafted(6, 7, prob=0.01), costs=FAIR)).verify == 0


def test_alternatives_go_to_the_least_certain_slots() -> None:
    draft = (Draft(6, 0.99, 16, 0.01), Draft(7, 0.5, 17, 0.5), Draft(8, 0.9, 18, 0.05))
    assert adaptivespec.layout(adaptive(*draft, costs=FREE, alternatives=1)).alternatives == (1,)
    assert adaptivespec.layout(adaptive(*draft, costs=FREE, alternatives=0)).alternatives == ()
    assert adaptivespec.layout(adaptive(*draft, costs=STEEP)).alternatives == ()
    alone = tuple(d._replace(second=-1) for d in draft)
    assert adaptivespec.layout(adaptive(*alone, costs=FREE)).alternatives == ()


def test_at_the_end_nothing_is_run_that_cannot_be_emitted() -> None:
    draft = drafted(6, 7, 8, prob=0.5, seconds=(16, 17, 18))
    state = midway(*draft, name="adaptivespec", max_tokens=3, settings=Speculation(8, costs=FREE))
    chosen = adaptivespec.layout(state)
    assert (chosen.verify, chosen.groups, chosen.alternatives) == (1, (), (0,))
    state, outcome = feed(state, Row(16), Row(0), Row(9))
    assert (state.output, outcome.finish, outcome.keep) == ((5, 16, 9), "length", 1)


def learned(state: State, rows: Rows) -> dict[int, tuple[float, float]]:
    memory = adaptivespec.learn(state, 2, rows)
    return {place: count for place, count in enumerate(memory) if count != (0.0, 0.0)}


def test_it_learns_from_every_slot_up_to_the_first_rejection() -> None:
    state = adaptive(*drafted(6, 7, prob=0.9), costs=FREE)
    sure = LOOKUPS + bin_of(0.9)
    first, second = SLOTS, SLOTS + 1
    assert learned(state, picks(6, 7, 8)) == {sure: (2, 2), first: (1, 1), second: (1, 1)}
    assert learned(state, picks(6, 8, 8))[second] == (0, 1)
    assert learned(state, picks(8, 7, 8)) == {sure: (0, 1), first: (0, 1)}
    faded = adaptivespec.learn(replace(state, memory=((1.0, 2.0),) * 16, draft=()), 0, picks(8))
    assert faded == ((FADE, 2 * FADE),) * 16
    looked_up = adaptive(
        *(draft._replace(matched=3 + i) for i, draft in enumerate(drafted(6, 7, prob=0.9))), costs=FREE
    )
    third = 2
    assert learned(looked_up, picks(6, 7, 8)) == {third: (1, 1), third + 1: (1, 1)}
    far = replace(state, draft=(state.draft[0]._replace(matched=99),))
    assert learned(far, picks(8)) == {LOOKUPS - 1: (0, 1)}
    assert [bin_of(p) for p in (0.0, 0.124, 0.125, 1.0)] == [0, 0, 1, CONFIDENCE_BINS - 1]


def test_what_was_not_verified_counts_with_its_trust() -> None:
    """Else drafts would be thought as good as the few tokens of them that were sure enough to be looked at."""
    state = adaptive(*drafted(6, 7, prob=0.9), costs=FREE)
    counts = adaptivespec.learn(state, 0, picks(8))[SLOTS : SLOTS + 2]
    assert counts[0] == pytest.approx((0.9, 1.0))
    assert counts[1] == pytest.approx((0.81, 0.9))
    accepted = adaptivespec.learn(state, 1, picks(6, 8))
    assert accepted[SLOTS] == (1, 1)
    assert accepted[SLOTS + 1] == pytest.approx((0.9, 1.0))
    assert adaptivespec.learn(state, 1, picks(8, 8))[SLOTS + 1] == (0, 0)  # nothing is known behind a rejection


def test_estimates_start_at_the_prior_and_follow_the_counts() -> None:
    assert estimate((0, 0), 0.7) == pytest.approx(0.7)
    assert estimate((97, 97), 0.7) == pytest.approx(0.991)
    assert estimate((0, 97), 0.7) == pytest.approx(0.021)
    assert reach([0.5, 0.5]) == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(("rows", "expected"), [(1, 1.0), (2, 1.25), (3, 1.5), (5, 2.5), (8, 4.0)])
def test_prices_are_piecewise_linear_in_units_of_one_row(rows: int, expected: float) -> None:
    assert price(((1, 2.0), (3, 3.0), (5, 5.0)), rows) == pytest.approx(expected)


def test_auto_follows_the_measured_costs() -> None:
    traits, sure = Traits(MASK), (0.95,)
    assert auto.choose(traits, Speculation(16, costs=STEEP, profile=sure)) == ("adaptivespec", 16)
    assert auto.choose(traits, Speculation(16, costs=FREE, profile=sure)) == ("adaptivespec", 16)
    # 4 tokens take a draft and a verify.
    assert auto.linear_rate(Speculation(costs=FREE, profile=(1.0,)), 4) == 2.0
    # Few rows are free and many are dear: two small forwards beat one large one.
    cliff = ((1, 1.0), (33, 1.0), (34, 20.0), (64, 40.0))
    assert auto.choose(traits, Speculation(32, costs=cliff, profile=sure)) == ("linearspec", 32)
    assert auto.choose(traits, Speculation(8, costs=cliff, profile=sure))[1] == 8


def test_what_a_drafter_costs_beyond_its_rows_is_spent_only_where_it_pays() -> None:
    """Rows are free, but a drafter's are not: groups go, and the draft that is there is still verified."""
    draft = drafted(6, 7, prob=0.9)
    assert adaptivespec.layout(adaptive(*draft, costs=FREE)).groups
    dear = Speculation(8, costs=FREE, draft_costs=((1, 50.0), (9, 50.0)))
    state = adaptive(*draft, costs=FREE)
    chosen = adaptivespec.layout(replace(state, request=replace(state.request, settings=dear)))
    assert chosen == Layout(2, 0)
    assert adaptivespec.surcharge(Speculation(costs=((1, 2.0), (9, 2.0)), draft_costs=((1, 1.0), (5, 3.0))), 3) == 1.0
    assert adaptivespec.surcharge(dear, 0) == 0
    assert auto.linear_rate(dear, 8) < auto.linear_rate(replace(dear, draft_costs=()), 8) / 2
