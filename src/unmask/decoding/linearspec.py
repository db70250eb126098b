"""Linear self-speculation: one forward drafts, one causal forward verifies; the ids are those of AR.

Nemotron-Labs-Diffusion's `linear_spec_generate`, arXiv 2607.05722 section 3.3, and one row more: the draft forward is
AR's step too, so the token after the seed is the verifier's own and drafts begin behind it. With sampling, draft and
verifier pick under the same keyed noise, so a round accepts whenever both distributions lead to the same pick.
Where what followed the same tokens before is expected to bring more per forward, a round verifies that at once
(`lookup`): it has no draft forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unmask.decoding import ar
from unmask.decoding.common import (
    allowed_at,
    causal_span,
    group,
    make_plan,
    mask_id,
    places,
    prefill,
    read_causal,
    read_group,
    settle,
    speculation,
    step_of,
    token_of,
)
from unmask.decoding.fastdiffuser import choose
from unmask.decoding.learning import LOOKUPS, accepted_run, counted, estimate, faded, judged, padded, reach, trusts
from unmask.decoding.lookup import looked_up
from unmask.decoding.quadspec import chained
from unmask.types import (
    Diffusion,
    Draft,
    Frame,
    Ids,
    Outcome,
    Plan,
    Request,
    Rows,
    Slot,
    SlotState,
    Speculation,
    State,
)

MASKED, TENTATIVE = SlotState.MASKED, SlotState.TENTATIVE
# Where (tokens, forwards) of the rounds that drafted are counted: behind what is known of lookups.
DRAFTED = LOOKUPS


def start(request: Request) -> State:
    """memory: counts by length of a lookup's match, then of the rounds that drafted."""
    return State(request, memory=((0.0, 0.0),) * (DRAFTED + 1), matcher=request.constraint)


def round_tokens(settings: Speculation, block: int) -> float:
    """Expected tokens of a round of two forwards: AR's, the accepted ones and one more."""
    return 1 + sum(reach(padded(settings.profile, max(block - 2, 0))))


def copied(state: State) -> tuple[Draft, ...]:
    """What is verified without a draft forward: what was looked up, where more tokens are expected of that forward than
    rounds that draft bring per forward."""
    if state.block or not (found := looked_up(state)):
        return ()
    settings = speculation(state)
    usual = estimate(state.memory[DRAFTED], round_tokens(settings, settings.draft_block_size) / 2)
    return found if sum(reach(trusts(state.memory, found))) > usual else ()


def drafting(state: State) -> bool:
    """Whether the next forward is a draft: a seed is out, more tokens fit, and slots are still masked."""
    if not state.output or state.kept < len(state.request.context):
        return False
    if state.block:
        return any(slot.state is MASKED for slot in state.block)
    return masks_after_seed(state) > 1


def masks_after_seed(state: State) -> int:
    """Masks of a new draft, the first of which stands for the verifier's own token: with the seed a block as drafts
    were trained with, and no more than may be emitted beside the verifier's last token."""
    return min(speculation(state).draft_block_size, state.remaining) - 1


def need(state: State) -> Plan:
    if found := copied(state):
        return replace(verify_plan(state, tuple(draft.token for draft in found)), note=found)
    if drafting(state):
        return draft_plan(state)
    if chunk := prefill(state, len(state.ids)):
        return chunk
    return verify_plan(state, tuple(slot.token for slot in state.block))


def verify_plan(state: State, drafted: Ids) -> Plan:
    """AR's step, and behind it what was drafted, as far as a constraint lets it stand."""
    pending = state.ids[state.kept :]
    found = places(state, drafted)
    tokens = pending + (drafted[: len(found) - 1] if found else drafted)
    rows = range(len(pending) - 1, len(tokens))
    reads = (read_causal(state.request, 0, rows, allowed_at(state, found)),)
    return make_plan(state, (causal_span(state.request, tokens, state.place),), reads)


def draft_plan(state: State) -> Plan:
    return redraft_plan(state) if state.block else open_plan(state)


def open_plan(state: State) -> Plan:
    """AR's step, and a group of masks behind the seed: the same as quadspec's for an accepted run of none."""
    request, masks = state.request, masks_after_seed(state)
    seed = state.ids[-1]
    spans = (causal_span(request, (seed,), state.place), group(request.traits, seed, state.place, masks, (), (0, 1)))
    verifier = read_causal(request, 0, (0,), allowed_at(state, places(state, ())))
    draft = read_group(request.traits, 1, range(1, masks), chained((0, 0), 1, masks - 1))
    return make_plan(state, spans, (verifier, draft))


def redraft_plan(state: State) -> Plan:
    """The slots that are still masked once more, with what is drafted in its place (`draft_threshold`)."""
    traits, slots = state.request.traits, state.block
    seed = state.ids[-1]
    # The seed's own causal row is needed only where the masks look at it; the verifier writes it to stay.
    own = () if traits.seed == "block" else (causal_span(state.request, (seed,), state.place),)
    span = group(traits, seed, state.place, len(slots), (), (0, 1))
    lead = len(span.tokens) - len(slots)
    span = replace(
        span,
        tokens=span.tokens[:lead] + tuple(slot.token for slot in slots),
        masked=span.masked[:lead] + tuple(slot.state is MASKED for slot in slots),
    )
    masked = [i for i, slot in enumerate(slots) if slot.state is MASKED]
    follows = tuple(before(slots, i, seed, masked) for i in masked)
    # What may stand in the first masked slot is known where all before it is; later slots are left to the verifier.
    found = places(state, [slot.token for slot in slots[: masked[0]]])
    known = len(found) == masked[0] + 1
    allowed = (allowed_at(state, found)[-1], *(None,) * (len(masked) - 1)) if known else ()
    return make_plan(state, (*own, span), (replace(read_group(traits, len(own), masked, follows), allowed=allowed),))


def before(slots: Sequence[Slot], i: int, seed: int, masked: Sequence[int]) -> int | tuple[int, int]:
    """What slot i follows: the seed, a token that is drafted already, or what is picked for the slot before it."""
    if i == 0:
        return seed
    return (0, masked.index(i - 1)) if slots[i - 1].state is MASKED else slots[i - 1].token


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    if isinstance(plan.note, tuple):
        return consume_copied(state, plan, plan.note, rows)
    if drafting(state):
        after, outcome = consume_draft(state, plan, rows)
    elif state.block:
        accepted = accepted_run([slot.token for slot in state.block][: len(rows) - 1], rows)
        after, outcome = settle_run(state, plan, accepted, rows, block=())
    else:
        after, outcome = ar.consume(state, plan, rows)
    if not state.output:  # the prompt is no round
        return after, outcome
    memory = counted(faded(state.memory), DRAFTED, len(outcome.emit), 1.0)
    return replace(after, memory=memory), outcome


def consume_copied(state: State, plan: Plan, found: tuple[Draft, ...], rows: Rows) -> tuple[State, Outcome]:
    """A round of one forward."""
    accepted = accepted_run([draft.token for draft in found], rows)
    memory = judged(faded(state.memory), found, accepted)
    return settle_run(state, plan, accepted, rows, round=True, memory=memory)


def settle_run(state: State, plan: Plan, accepted: int, rows: Rows, **changes: Any) -> tuple[State, Outcome]:
    """The accepted run, and the verifier's token behind it."""
    emit = [token_of(row, step_of(state)) for row in rows[: accepted + 1]]
    return settle(state, plan, keep=accepted + 1, emit=emit, **changes)


def consume_draft(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    """Slots of the likeliest rows take their tokens: all of them, or with a threshold those that reach it."""
    threshold, step = speculation(state).draft_threshold, step_of(state)
    emit = [] if state.block else [token_of(rows[0], step)]
    slots = list(state.block) or [Slot(mask_id(state.request.traits), MASKED)] * (masks_after_seed(state) - 1)
    masked = [i for i, slot in enumerate(slots) if slot.state is MASKED]
    candidates = list(zip(masked, rows[len(emit) :], strict=True))
    chosen = masked
    if threshold > 0:
        chosen = choose(candidates, Diffusion(confidence_threshold=threshold), 0, len(slots))
    for i, row in candidates:
        if i in chosen:
            slots[i] = Slot(row.id, TENTATIVE, row.prob, 0, step)
    frame = Frame(step, state.end + len(emit), tuple(slots))
    return settle(state, plan, keep=len(emit), emit=emit, round=bool(emit), frame=frame, block=tuple(slots))
