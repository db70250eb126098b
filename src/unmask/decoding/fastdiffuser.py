"""Block diffusion: fill a block of masked slots over several full forwards, then commit it causally.

The commit of a finished block (like the last prompt chunk) rides in the forward of the next block's first denoise.
Nemotron-Labs-Diffusion's `generate`, arXiv 2607.05722 section 3.1; revision and early emission are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unmask.decoding.common import (
    block_size,
    context_spans,
    make_plan,
    mask_id,
    prefill,
    read_causal,
    settle,
    step_of,
)
from unmask.types import Diffusion, Frame, Outcome, Plan, Read, Request, Row, Rows, Slot, SlotState, Span, State, Token

MASKED, TENTATIVE, COMMITTED, FROZEN = SlotState.MASKED, SlotState.TENTATIVE, SlotState.COMMITTED, SlotState.FROZEN


def start(request: Request) -> State:
    return open_block(State(request), len(request.prompt))


def open_block(state: State, position: int) -> State:
    """A fresh block from absolute `position`. Blocks of a block-causal checkpoint are aligned to position 0, so that
    the first of them may begin inside the prompt; those slots are frozen."""
    request, size = state.request, block_size(state.request)
    start = position // size * size if request.traits.context == "block" else position
    given = tuple(Slot(token, FROZEN, 1.0) for token in request.prompt[start:])
    unknown = min(size - len(given), len(request.prompt) + request.max_tokens - position)
    masked = (Slot(mask_id(request.traits), MASKED),) * unknown
    return replace(state, block=given + masked, block_start=start, block_step=0)


def settings_of(state: State) -> Diffusion:
    return state.request.settings if isinstance(state.request.settings, Diffusion) else Diffusion()


def wants_seed(state: State) -> bool:
    """Whether slot 0 waits for the AR prediction: by choice, or because shifted logits have no row for it."""
    seeded = settings_of(state).seed_first or state.request.traits.shift
    return seeded and state.block[0].state is MASKED and state.block_start > 0


def asked(state: State) -> tuple[list[int], list[int]]:
    """Slots whose rows are read: those to place, and those placed that may be revised."""
    first = 1 if state.request.traits.shift else 0
    masked = [i for i, slot in enumerate(state.block) if slot.state is MASKED]
    if settings_of(state).revision_threshold is None:
        return masked, []
    return masked, [i for i, slot in enumerate(state.block) if slot.state is TENTATIVE and i >= first]


def need(state: State) -> Plan:
    request = state.request
    if chunk := prefill(state, state.block_start):
        return chunk
    context = context_spans(request, state.ids, state.kept, state.block_start)
    if wants_seed(state):
        return make_plan(state, context, (read_causal(request, len(context) - 1, (len(context[-1].tokens) - 1,)),))
    masked, placed = asked(state)
    block = Span(
        tuple(slot.token for slot in state.block),
        state.block_start,
        full=True,
        sees=tuple((i, len(span.tokens)) for i, span in enumerate(context)),
        adapter=request.traits.denoise_adapter,
        masked=tuple(slot.state is MASKED for slot in state.block),
    )
    shift = int(request.traits.shift)
    read = Read(
        len(context),
        tuple(i - shift for i in masked + placed),
        shift=shift,
        given=(-1,) * len(masked) + tuple(state.block[i].token for i in placed) if placed else (),
        detail=True,
        entropy=settings_of(state).sampler == "entropy",
        top=request.logprobs,
        bans_mask=True,
    )
    return make_plan(state, (*context, block), (read,))


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    if not plan.reads:
        return settle(state, plan, keep=plan.rows)
    step = step_of(state)
    if wants_seed(state):
        slot = Slot(rows[0].id, COMMITTED, rows[0].prob, 0, step, rows[0].logprob, rows[0].top)
        seeded = close_at_stop(state, [slot, *state.block[1:]])
        return advance(state, plan, seeded, keep=plan.rows, revisions=0, denoised=False)
    masked, placed = asked(state)
    settings = settings_of(state)
    candidates = list(zip(masked, rows[: len(masked)], strict=True))
    last = settings.steps is not None and state.block_step + 1 >= settings.steps
    chosen = masked if last else choose(candidates, settings, state.block_step, len(state.block))
    fixed = settings.revision_threshold is None
    block = list(state.block)
    revisions = 0
    if not last:
        for i, row in zip(placed, rows[len(masked) :], strict=True):
            if row.given_prob < (settings.revision_threshold or 0.0) and block[i].revisions < settings.max_revisions:
                block[i] = Slot(mask_id(state.request.traits), MASKED, revisions=block[i].revisions + 1)
                revisions += 1
    for i, row in candidates:
        if i in chosen:
            status = COMMITTED if fixed else TENTATIVE
            block[i] = Slot(row.id, status, row.prob, block[i].revisions, step, row.logprob, row.top)
    keep = plan.rows - len(state.block)
    return advance(state, plan, close_at_stop(state, block), keep=keep, revisions=revisions, denoised=True)


def choose(candidates: Sequence[tuple[int, Row]], settings: Diffusion, step: int, size: int) -> list[int]:
    """Which of the (slot, row) candidates to place now; at least one. Ties go to the smallest slot."""
    if settings.sampler == "entropy":
        ranked = sorted(candidates, key=lambda pair: pair[1].entropy)
        total, count = 0.0, 0
        for _, row in ranked:
            # Entropies ascend, so the newest is the largest: the bound is the sum of all the others.
            if count and total > settings.entropy_bound:
                break
            total, count = total + row.entropy, count + 1
        return [i for i, _ in ranked[:count]]

    def score(row: Row) -> float:
        return row.prob - row.second_prob if settings.sampler == "margin" else row.prob

    ranked = sorted(candidates, key=lambda pair: -score(pair[1]))
    if settings.confidence_threshold is None:
        steps = settings.steps or size
        share = max(1, size // steps + (step < size % steps))
        return [i for i, _ in ranked[:share]]
    sure = [i for i, row in ranked if score(row) >= settings.confidence_threshold]
    return sure or [ranked[0][0]]


def close_at_stop(state: State, block: list[Slot]) -> tuple[Slot, ...]:
    """Freeze what follows the first placed stop id; thaw it if that token has been revised away."""
    request, given = state.request, max(0, len(state.request.prompt) - state.block_start)
    for i in range(given, len(block)):
        is_placed = block[i].state in (TENTATIVE, COMMITTED)
        output_index = state.block_start + i - len(request.prompt)
        if is_placed and block[i].token in request.stop_ids and output_index >= request.min_tokens:
            frozen = (Slot(block[i].token, FROZEN, revisions=slot.revisions) for slot in block[i + 1 :])
            return (*block[: i + 1], *frozen)
        if block[i].state is FROZEN:
            block[i] = Slot(mask_id(request.traits), MASKED, revisions=block[i].revisions)
    return tuple(block)


def advance(
    state: State, plan: Plan, block: tuple[Slot, ...], *, keep: int, revisions: int, denoised: bool
) -> tuple[State, Outcome]:
    """Emit what is certain from the left; when nothing is masked any more, the block is done and the next one opens."""
    done = all(slot.state is not MASKED for slot in block)
    if done:
        block = tuple(slot._replace(state=COMMITTED) if slot.state is TENTATIVE else slot for slot in block)
    emit = list[Token]()
    for slot in block[len(state.request.prompt) + len(state.output) - state.block_start :]:
        if slot.state is not COMMITTED:
            break
        emit.append(Token(slot.token, slot.step, slot.logprob, slot.top, slot.confidence, slot.revisions))
    frame = Frame(step_of(state), state.block_start, block)
    after, outcome = settle(
        state,
        plan,
        keep=keep,
        emit=emit,
        frame=frame,
        revisions=revisions,
        block=block,
        block_step=state.block_step + denoised,
    )
    if done and outcome.finish is None:
        after = open_block(after, state.block_start + len(block))
    return after, outcome
