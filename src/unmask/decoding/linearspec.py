"""Linear self-speculation: one full forward drafts, one causal forward verifies; the ids are those of AR.

Nemotron-Labs-Diffusion's `linear_spec_generate`, arXiv 2607.05722 section 3.3. With sampling, draft and verifier pick
under the same keyed noise, so a round accepts whenever both distributions lead to the same pick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unmask.decoding import ar
from unmask.decoding.common import (
    allowed_at,
    group,
    group_rows,
    make_plan,
    mask_id,
    places,
    prefill,
    read_causal,
    settle,
    speculation,
    step_of,
    token_of,
)
from unmask.decoding.fastdiffuser import choose
from unmask.types import Diffusion, Frame, Outcome, Plan, Read, Request, Rows, Slot, SlotState, Span, State

MASKED, TENTATIVE = SlotState.MASKED, SlotState.TENTATIVE


def start(request: Request) -> State:
    return State(request, matcher=request.constraint)


def drafting(state: State) -> bool:
    """Whether the next forward is a draft: a seed is out, more tokens fit, and slots are still masked."""
    if not state.output or state.kept < len(state.request.context):
        return False
    if state.block:
        return any(slot.state is MASKED for slot in state.block)
    return min(speculation(state).draft_block_size, state.remaining) > 1


def open_draft(state: State) -> tuple[Slot, ...]:
    """The slots after the seed: as many as a round may still emit beside the verifier's own token."""
    length = min(speculation(state).draft_block_size, state.remaining) - 1
    return state.block or (Slot(mask_id(state.request.traits), MASKED),) * length


def need(state: State) -> Plan:
    request = state.request
    if drafting(state):
        return draft_plan(state)
    if chunk := prefill(state, len(state.ids)):
        return chunk
    pending = state.ids[state.kept :]
    drafted = tuple(slot.token for slot in state.block)
    found = places(state, drafted)
    tokens = pending + (drafted[: len(found) - 1] if found else drafted)
    rows = range(len(pending) - 1, len(tokens))
    return make_plan(state, (Span(tokens, state.place),), (read_causal(request, 0, rows, allowed_at(state, found)),))


def draft_plan(state: State) -> Plan:
    traits, slots = state.request.traits, open_draft(state)
    seed = state.ids[-1]
    # The seed's own causal row is needed only where the masks look at it; it is written again by the verifier.
    causal = () if traits.seed == "block" else (Span((seed,), state.place),)
    span = group(traits, seed, state.place, len(slots), (), (0, 1))
    lead = len(span.tokens) - len(slots)
    span = replace(
        span,
        tokens=span.tokens[:lead] + tuple(slot.token for slot in slots),
        masked=span.masked[:lead] + tuple(slot.state is MASKED for slot in slots),
    )
    masked = [i for i, slot in enumerate(slots) if slot.state is MASKED]
    detail = speculation(state).draft_threshold > 0 or state.request.watch
    rows, shift = group_rows(traits, masked), int(traits.shift)
    follows = tuple(before(slots, i, seed, masked) for i in masked)
    # What may stand in the first masked slot is known where all before it is; later slots are left to the verifier.
    found = places(state, [slot.token for slot in slots[: masked[0]]])
    known = len(found) == masked[0] + 1
    allowed = (allowed_at(state, found)[-1], *(None,) * (len(masked) - 1)) if known else ()
    read = Read(len(causal), rows, shift=shift, detail=detail, bans_mask=True, follows=follows, allowed=allowed)
    return make_plan(state, (*causal, span), (read,))


def before(slots: Sequence[Slot], i: int, seed: int, masked: Sequence[int]) -> int | tuple[int, int]:
    """What slot i follows: the seed, a token that is drafted already, or what is picked for the slot before it."""
    if i == 0:
        return seed
    return (0, masked.index(i - 1)) if slots[i - 1].state is MASKED else slots[i - 1].token


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    if drafting(state):
        return consume_draft(state, plan, rows)
    if not state.block:
        return ar.consume(state, plan, rows)
    drafted = [slot.token for slot in state.block][: len(rows) - 1]
    accepted = 0
    while accepted < len(drafted) and rows[accepted].id == drafted[accepted]:
        accepted += 1
    emit = [token_of(row, step_of(state)) for row in rows[: accepted + 1]]
    return settle(state, plan, keep=accepted + 1, emit=emit, round=True, block=())


def consume_draft(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    slots, threshold, step = list(open_draft(state)), speculation(state).draft_threshold, step_of(state)
    candidates = list(zip((i for i, slot in enumerate(slots) if slot.state is MASKED), rows, strict=True))
    chosen = [i for i, _ in candidates]
    if threshold > 0:
        chosen = choose(candidates, Diffusion(confidence_threshold=threshold), 0, len(slots))
    for i, row in candidates:
        if i in chosen:
            slots[i] = Slot(row.id, TENTATIVE, row.prob, 0, step)
    frame = Frame(step, state.end, tuple(slots))
    return settle(state, plan, keep=0, frame=frame, block=tuple(slots))
