"""Block diffusion: fill a block of masked slots over several full forwards, then commit it causally.

The commit of a finished block (like the last prompt chunk) rides in the forward of the next block's first denoise.
Nemotron-Labs-Diffusion's `generate`, arXiv 2607.05722 section 3.1; revision and early emission are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from unmask.decoding.common import (
    allowed_at,
    block_size,
    context_spans,
    make_plan,
    mask_id,
    places,
    prefill,
    read_causal,
    settle,
    step_of,
)
from unmask.types import (
    Choices,
    Diffusion,
    Frame,
    IdSet,
    Outcome,
    Plan,
    Read,
    Request,
    Row,
    Rows,
    Slot,
    SlotState,
    Span,
    State,
    Token,
)

MASKED, TENTATIVE, COMMITTED, FROZEN = SlotState.MASKED, SlotState.TENTATIVE, SlotState.COMMITTED, SlotState.FROZEN
# Tokens that a constrained slot proposes, likeliest first.
PROPOSALS = 8


def start(request: Request) -> State:
    return open_block(State(request, matcher=request.constraint), len(request.prompt))


def open_block(state: State, position: int) -> State:
    """A fresh block from absolute `position`. Blocks of a block-causal checkpoint are aligned to position 0, so that
    the first of them may begin inside the prompt; those slots are frozen. Those of a gap are whole, as in training:
    what lies beyond the request's last token is its end, and known."""
    request, size = state.request, block_size(state.request)
    start = position // size * size if request.traits.context == "block" else position
    given = tuple(Slot(token, FROZEN, 1.0) for token in request.prompt[start:])
    unknown = min(size - len(given), limit(request) - position)
    block = given + (Slot(mask_id(request.traits), MASKED),) * unknown
    if request.room and request.traits.gap_end is not None:
        whole = min(size, len(request.prompt) + request.room - position)
        block += (Slot(request.traits.gap_end, FROZEN, 1.0),) * (whole - unknown)
    return replace(state, block=block, block_start=start, block_step=0, way=())


def limit(request: Request) -> int:
    """Absolute position after the last token that the request may emit."""
    return len(request.prompt) + request.max_tokens


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
    row = state.block_start + len(request.suffix)
    if chunk := prefill(state, row):
        return chunk
    context = context_spans(request, state.ids, state.kept, row)
    if wants_seed(state):
        last = len(context[-1].tokens) - 1
        allowed = allowed_at(state, places(state, ()))
        return make_plan(state, context, (read_causal(request, len(context) - 1, (last,), allowed),))
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
        top=request.logprobs if state.matcher is None else max(request.logprobs or 0, PROPOSALS),
        bans_mask=True,
        allowed=allowed_first(state, masked, len(placed)),
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
    if state.matcher is not None:
        far = candidates[-1][0] if last else last_hope(candidates, settings)
        state, candidates = along_the_way(state, candidates, far)
        masked = [i for i, _ in candidates]
    chosen = masked if last or not masked else choose(candidates, settings, state.block_step, len(state.block))
    fixed = settings.revision_threshold is None
    block = list(state.block)
    revisions = 0
    if not last:
        for i, row in zip(placed, rows[len(rows) - len(placed) :], strict=True):
            if row.given_prob < (settings.revision_threshold or 0.0) and block[i].revisions < settings.max_revisions:
                block[i] = Slot(mask_id(state.request.traits), MASKED, revisions=block[i].revisions + 1)
                revisions += 1
    for i, row in candidates:
        if i in chosen:
            status = COMMITTED if fixed else TENTATIVE
            block[i] = Slot(row.id, status, row.prob, block[i].revisions, step, row.logprob, row.top)
    keep, closed = plan.rows - len(state.block), close_at_stop(state, block)
    if state.matcher is not None:
        closed = closed_at_end(state, closed)
    return advance(state, plan, closed, keep=keep, revisions=revisions, denoised=True)


def open_slots(state: State) -> range:
    """Slots that are not emitted yet, up to where a text has ended."""
    first = state.end - state.block_start
    stop = min(len(state.block), limit(state.request) - state.block_start)
    return range(first, next((i for i in range(first, stop) if state.block[i].state is FROZEN), stop))


def allowed_first(state: State, masked: Sequence[int], others: int) -> tuple[IdSet | None, ...]:
    """What may stand in the first masked slot, which is certain: all before it is placed. Later slots: anything."""
    before = [state.block[i].token for i in open_slots(state) if i < masked[0]]
    found = places(state, before)
    if len(found) <= len(before):
        return ()
    return (allowed_at(state, found)[-1], *(None,) * (len(masked) - 1 + others))


def last_hope(candidates: Sequence[tuple[int, Row]], settings: Diffusion) -> int:
    """The last slot that `choose` might place, whatever the constraint makes of the candidates: where it goes by a
    threshold, one that may be so sure, or surer than the first, whose pick is allowed and stays."""
    threshold, margin = settings.confidence_threshold, settings.sampler == "margin"
    if threshold is None or settings.sampler == "entropy":
        return candidates[-1][0]
    bound = min(threshold, certainty(candidates[0][1], settings))

    def most(row: Row) -> float:
        best = math.exp(row.top[0][1]) if row.top else 0.0
        return max(certainty(row, settings), best - row.prob if margin else best)

    return max((i for i, row in candidates if most(row) >= bound), default=candidates[0][0])


def along_the_way(state: State, candidates: Sequence[tuple[int, Row]], far: int) -> tuple[State, list[tuple[int, Row]]]:
    """The likeliest way through the block that the constraint allows, at least up to slot `far` and the last placed
    one, and its masked slots, each with the token of that way as its pick. Whatever is placed of it, the rest can still
    be filled and the text ended in budget."""
    assert state.matcher is not None
    proposed, slots = dict(candidates), open_slots(state)
    reach = max((i + 1 for i in slots if i <= far or state.block[i].state is not MASKED), default=slots.start)
    choices: list[Choices | int] = [proposals(proposed[i]) if i in proposed else state.block[i].token for i in slots]
    first = candidates[0][0] - slots.start
    if 0 <= first < len(choices):
        # All before it is certain, and so is what may stand there: its pick was made among that.
        choices[first] = ((candidates[0][1].id, 0.0),)
    way = state.matcher.fill(choices, state.way, state.remaining, reach - slots.start)
    wanted = state.request.logprobs
    chosen = list[tuple[int, Row]]()
    for i, token in zip(slots, way, strict=False):
        if i in proposed:
            row = proposed[i]
            if token != row.id:
                logprob = dict(row.top).get(token)
                prob = 0.0 if logprob is None else math.exp(logprob)
                row = row._replace(id=token, prob=prob, second_prob=max(0.0, row.prob), logprob=logprob)
            shown = row.top[:wanted] if wanted is not None else ()
            chosen.append((i, row._replace(top=shown, logprob=None if wanted is None else row.logprob)))
    return replace(state, way=way), chosen


def proposals(row: Row) -> list[tuple[int, float]]:
    """Tokens for one slot with their scores: the pick, which sampling may have chosen, counts as much as the best."""
    best = max((logprob for _, logprob in row.top), default=0.0)
    return [(row.id, best), *((token, logprob) for token, logprob in row.top if token != row.id)]


def closed_at_end(state: State, block: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """The block with what follows a text that has ended without a stop id frozen, once all of the text is placed."""
    slots = open_slots(state)
    last = slots.start + len(state.way)
    if last >= slots.stop or any(block[i].state is MASKED for i in range(slots.start, last)):
        return block
    if len(places(state, state.way)) > len(state.way):
        return block  # the way has not been looked for any further, and the text may go on
    return tuple(slot if i < last or i >= slots.stop else slot._replace(state=FROZEN) for i, slot in enumerate(block))


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

    ranked = sorted(candidates, key=lambda pair: -certainty(pair[1], settings))
    if settings.confidence_threshold is None:
        steps = settings.steps or size
        share = max(1, size // steps + (step < size % steps))
        return [i for i, _ in ranked[:share]]
    sure = [i for i, row in ranked if certainty(row, settings) >= settings.confidence_threshold]
    return sure or [ranked[0][0]]


def certainty(row: Row, settings: Diffusion) -> float:
    """What slots are ranked by, where it is not the entropy of their rows."""
    return row.prob - row.second_prob if settings.sampler == "margin" else row.prob


def close_at_stop(state: State, block: list[Slot]) -> tuple[Slot, ...]:
    """Freeze what follows the first placed stop id; thaw it if that token has been revised away."""
    request, given = state.request, max(0, len(state.request.prompt) - state.block_start)
    for i in range(given, min(len(block), limit(request) - state.block_start)):
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
    after = replace(after, way=after.way[len(outcome.emit) :])
    if done and outcome.finish is None:
        after = open_block(after, state.block_start + len(block))
    return after, outcome
