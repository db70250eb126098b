"""Quadratic self-speculation: one forward verifies a draft and drafts anew for every possible acceptance.

Nemotron-Labs-Diffusion, arXiv 2607.05722 section 3: k drafted tokens, k groups of masks. The layout is general (any
set of groups, second-best alternatives beside the draft), so that `adaptivespec` differs only in what it chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unmask.decoding.common import (
    allowed_at,
    causal_span,
    group,
    make_plan,
    places,
    prefill,
    read_causal,
    read_group,
    settle,
    speculation,
    step_of,
    token_of,
)
from unmask.decoding.learning import accepted_run
from unmask.types import Draft, Frame, Outcome, Plan, Request, Rows, Slot, SlotState, State


@dataclass(frozen=True, slots=True)
class Layout:
    """What one step runs: the first `verify` drafted tokens; a group of `masks` for each acceptance in `groups`;
    one-row spans with the second-best token of the draft slots in `alternatives`, each with a group of its own where
    the slot is in `alternative_groups`. A group's first mask stands for the token that the verifier itself settles."""

    verify: int
    masks: int
    groups: tuple[int, ...] = ()
    alternatives: tuple[int, ...] = ()
    alternative_groups: tuple[int, ...] = ()


def start(request: Request) -> State:
    return State(request, matcher=request.constraint)


def layout(state: State) -> Layout:
    """Every acceptance gets its group. Drafts end where the request ends."""
    verify = min(len(state.draft), state.remaining - 1)
    masks = min(speculation(state).draft_block_size, state.remaining - 1)
    return Layout(verify, masks, tuple(range(verify + 1)) if masks > 1 else ())


def need(state: State) -> Plan:
    return prefill(state, len(state.ids)) or plan_of(state, layout(state))


def plan_of(state: State, chosen: Layout) -> Plan:
    """Spans: pending ids and the draft, causal; alternatives, causal; groups, full. Reads in the same order."""
    request, traits = state.request, state.request.traits
    pending = state.ids[state.kept :]
    seed = len(pending) - 1
    tokens = pending + tuple(draft.token for draft in state.draft[: chosen.verify])
    spans = [causal_span(request, tokens, state.place)]
    found = places(state, tokens[len(pending) :])
    reads = [read_causal(request, 0, range(seed, len(tokens)), allowed_at(state, found))]
    for slot in chosen.alternatives:
        before = (0, len(pending) + slot)
        second, left = state.draft[slot].second, state.remaining - slot
        spans.append(causal_span(request, (second,), state.place + before[1], (before,)))
        beside = found[slot].take(second, left) if found else None
        allowed = () if beside is None else (beside.allowed(left - 1),)
        reads.append(read_causal(request, len(spans) - 1, (0,), allowed))
    drafted = range(1, chosen.masks)
    for accepted in chosen.groups:
        at = seed + accepted
        spans.append(group(traits, tokens[at], state.place + at, chosen.masks, ((0, at),), (0, at + 1)))
        reads.append(read_group(traits, len(spans) - 1, drafted, chained((0, accepted), len(reads), len(drafted))))
    for slot in chosen.alternative_groups:
        index, at = 1 + chosen.alternatives.index(slot), len(pending) + slot
        alternative = spans[index].tokens[0]
        spans.append(group(traits, alternative, state.place + at, chosen.masks, ((0, at),), (index, 1)))
        reads.append(read_group(traits, len(spans) - 1, drafted, chained((index, 0), len(reads), len(drafted))))
    return replace(make_plan(state, tuple(spans), tuple(reads)), note=chosen)


def chained(first: tuple[int, int], read: int, rows: int) -> tuple[tuple[int, int], ...]:
    """What each drafted token of a group follows: the verifier's own pick, then one another."""
    return (first, *((read, row) for row in range(rows - 1)))


def layout_of(plan: Plan) -> Layout:
    """The layout that a plan was made from."""
    assert isinstance(plan.note, Layout)
    return plan.note


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    return settle_layout(state, plan, rows) if plan.reads else settle(state, plan, keep=plan.rows)


def settle_layout(state: State, plan: Plan, rows: Rows, **changes: object) -> tuple[State, Outcome]:
    """Accept the matching run, then one token of the verifier's, then one more if that was an alternative."""
    chosen, step, pending = layout_of(plan), step_of(state), len(state.ids) - state.kept
    drafted = state.draft[: chosen.verify]
    picks, rows = rows[: chosen.verify + 1], rows[chosen.verify + 1 :]
    besides, rows = rows[: len(chosen.alternatives)], rows[len(chosen.alternatives) :]
    accepted = accepted_run([draft.token for draft in drafted], picks)
    emit = [token_of(row, step) for row in picks[: accepted + 1]]
    ahead = group_of(chosen.groups, accepted, rows, chosen.masks)
    if accepted in chosen.alternatives and picks[accepted].id == drafted[accepted].second:
        # The verifier chose the second-best token, whose row already says what comes after it. That row's KV does not
        # lead the plan and is not kept: the token is simply pending, and is written by the next step.
        emit.append(token_of(besides[chosen.alternatives.index(accepted)], step))
        others = rows[len(chosen.groups) * (chosen.masks - 1) :] if chosen.groups else rows
        ahead = group_of(chosen.alternative_groups, accepted, others, chosen.masks)
    draft = tuple(Draft(row.id, row.prob, row.second, row.second_prob) for row in ahead)
    slots = tuple(Slot(d.token, SlotState.TENTATIVE, d.prob, 0, step) for d in draft)
    frame = Frame(step, state.end + len(emit), slots)
    after, outcome = settle(
        state, plan, keep=pending + accepted, emit=emit, round=True, frame=frame, draft=draft, **changes
    )
    return obedient(after), outcome


def obedient(state: State) -> State:
    """The state with a draft that a constraint lets stand: no token that may not come or that would end the text."""
    if state.matcher is None:
        return state
    found = places(state, [draft.token for draft in state.draft])
    draft = list[Draft]()
    for i, (place, drafted) in enumerate(zip(found, state.draft[: len(found) - 1], strict=False)):
        second = place.take(drafted.second, state.remaining - i)
        if second is None or second.over(state.remaining - i - 1):
            drafted = drafted._replace(second=-1, second_prob=0.0)
        draft.append(drafted)
    return replace(state, draft=tuple(draft))


def group_of(groups: tuple[int, ...], key: int, rows: Rows, masks: int) -> Rows:
    """Rows of the group for `key`, if there is one; each group was read at masks - 1 rows."""
    if key not in groups:
        return ()
    first = groups.index(key) * (masks - 1)
    return rows[first : first + masks - 1]
