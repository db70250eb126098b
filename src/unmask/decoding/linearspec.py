"""Linear self-speculation: one full forward drafts, one causal forward verifies; the ids are those of AR.

Nemotron-Labs-Diffusion's `linear_spec_generate`, arXiv 2607.05722 section 3.3. With sampling, draft and verifier pick
under the same keyed noise, so a round accepts whenever both distributions lead to the same pick.
"""

from __future__ import annotations

from dataclasses import replace

from unmask.decoding import ar
from unmask.decoding.common import (
    group,
    group_rows,
    make_plan,
    mask_id,
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
    return State(request)


def drafting(state: State) -> bool:
    """Whether the next forward is a draft: a seed is out, more tokens fit, and slots are still masked."""
    if not state.output or state.kept < len(state.request.prompt):
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
    tokens = pending + tuple(slot.token for slot in state.block)
    rows = range(len(pending) - 1, len(tokens))
    return make_plan(state, (Span(tokens, state.kept),), (read_causal(request, 0, rows),))


def draft_plan(state: State) -> Plan:
    traits, slots = state.request.traits, open_draft(state)
    seed = state.ids[-1]
    # The seed's own causal row is needed only where the masks look at it; it is written again by the verifier.
    causal = () if traits.seed == "block" else (Span((seed,), state.kept),)
    span = group(traits, seed, state.kept, len(slots), (), (0, 1))
    lead = len(span.tokens) - len(slots)
    span = replace(
        span,
        tokens=span.tokens[:lead] + tuple(slot.token for slot in slots),
        masked=span.masked[:lead] + tuple(slot.state is MASKED for slot in slots),
    )
    masked = [i for i, slot in enumerate(slots) if slot.state is MASKED]
    detail = speculation(state).draft_threshold > 0 or state.request.watch
    read = Read(len(causal), group_rows(traits, masked), shift=int(traits.shift), detail=detail, bans_mask=True)
    return make_plan(state, (*causal, span), (read,))


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    if drafting(state):
        return consume_draft(state, plan, rows)
    if not state.block:
        return ar.consume(state, plan, rows)
    drafted = [slot.token for slot in state.block]
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
    frame = Frame(step, len(state.ids), tuple(slots))
    return settle(state, plan, keep=0, frame=frame, block=tuple(slots))
