"""Adaptive self-speculation: quadspec's forward, spending rows only where they are worth their time.

Each step maximises expected tokens minus the price of its rows (measured forward times, `Speculation.costs`), with
acceptance learned as it goes. With a draft that never helps it becomes plain AR; evidence fades, so it tries again.
Where the context repeats itself, what followed the last time may be the better draft, and is learned about likewise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate, pairwise

from unmask.decoding.common import prefill, settle, speculation
from unmask.decoding.learning import (
    CONFIDENCE_BINS,
    LOOKUPS,
    accepted_run,
    counted,
    estimate,
    faded,
    judged,
    padded,
    reach,
    trusts,
)
from unmask.decoding.lookup import looked_up
from unmask.decoding.quadspec import Layout, layout_of, plan_of, settle_layout
from unmask.types import Outcome, Plan, Request, Rows, Speculation, State

# Forward times in units of a one-row forward, for when nothing was measured: flat at first, then linear in rows.
DEFAULT_COSTS = ((1, 1.0), (32, 1.4), (256, 6.0))
MASK_CHOICES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
# Where the counts of the draft slots begin.
SLOTS = LOOKUPS + CONFIDENCE_BINS


def start(request: Request) -> State:
    """memory: counts by length of a lookup's match, then by draft confidence, then one per draft slot."""
    slots = speculation(State(request)).draft_block_size
    return State(request, memory=((0.0, 0.0),) * (SLOTS + slots), matcher=request.constraint)


def need(state: State) -> Plan:
    if chunk := prefill(state, len(state.ids)):
        return chunk
    state = better_draft(state)
    return plan_of(state, layout(state))


def consume(state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
    if not plan.reads:
        return settle(state, plan, keep=plan.rows)
    state = better_draft(state)
    return settle_layout(state, plan, rows, memory=learn(state, layout_of(plan).verify, rows))


def better_draft(state: State) -> State:
    """The state with what was looked up for its draft, where more of that is expected to be accepted."""
    found = looked_up(state)
    if sum(reach(trusts(state.memory, found))) <= sum(reach(trusts(state.memory, state.draft))):
        return state
    return replace(state, draft=found)


def learn(state: State, verify: int, rows: Rows) -> tuple[tuple[float, float], ...]:
    """Counts after a step. Each verified token up to the first rejection is one trial, in the place of its kind and, if
    a model drafted it, at its index.

    What was not verified counts at its index with what it is trusted with, as often as all before it are expected to
    stand: what gets verified is chosen for being sure, and alone would say too much of drafts.
    """
    drafted = state.draft[:verify]
    accepted = accepted_run([draft.token for draft in drafted], rows)
    memory = judged(faded(state.memory), drafted, accepted)
    for i, draft in enumerate(drafted[: accepted + 1]):
        if not draft.matched:
            memory = counted(memory, SLOTS + i, i < accepted, 1.0)
    rest = [draft for draft in state.draft[verify:] if not draft.matched] if accepted == len(drafted) else []
    for i, (before, after) in enumerate(pairwise(reach(trusts(state.memory, rest))), SLOTS + verify):
        memory = counted(memory, i, after, before)
    return memory


def slot_profile(state: State) -> list[float]:
    """Estimated acceptance of draft slot 1, 2, ... given that all before it were accepted."""
    settings = speculation(state)
    counts = state.memory[SLOTS:]
    return list(map(estimate, counts, padded(settings.profile, len(counts))))


@lru_cache(maxsize=64)
def prices(costs: tuple[tuple[int, float], ...], most: int) -> tuple[float, ...]:
    """`price` of 0, 1, ... `most` rows: a step looks up thousands."""
    return tuple(price(costs, rows) for rows in range(most + 1))


@lru_cache(maxsize=64)
def surcharges(settings: Speculation, most: int) -> tuple[float, ...]:
    """`surcharge` of 0, 1, ... `most` rows."""
    return tuple(surcharge(settings, rows) for rows in range(most + 1))


def surcharge(settings: Speculation, rows: int) -> float:
    """What so many rows of a drafter cost beyond the `price` of plain ones, in the same units."""
    if not rows or len(settings.draft_costs) < 2:
        return 0.0
    one = settings.costs[0][1] if len(settings.costs) > 1 else DEFAULT_COSTS[0][1]
    return max(between(settings.draft_costs, rows), 0.0) / one


def price(costs: Sequence[tuple[int, float]], rows: int) -> float:
    """Time of a forward of so many rows in units of a one-row forward: piecewise linear, extended by its last slope."""
    table = costs if len(costs) > 1 else DEFAULT_COSTS
    return between(table, rows) / table[0][1]


def between(table: Sequence[tuple[int, float]], rows: int) -> float:
    i = min(max(bisect_left(table, (rows, 0.0)), 1), len(table) - 1)
    (r0, t0), (r1, t1) = table[i - 1], table[i]
    return t0 + (t1 - t0) * (rows - r0) / (r1 - r0)


def layout(state: State) -> Layout:
    """The draft length, groups and alternatives that maximise expected tokens - price of the rows.

    A token is worth the AR rate: one price unit. A group is worth the tokens its draft is expected to add next time,
    less the price of verifying them then.
    """
    settings, room = speculation(state), state.remaining - 1
    profile = slot_profile(state)
    base = len(state.ids) - state.kept
    lead = 0 if state.request.traits.seed == "causal" else 1
    drafted = state.draft[:room]
    trust = trusts(state.memory, drafted)
    reached = reach(trust)
    gains = expected_gains(settings, profile, room)
    widest = lead + max(masks for masks, _ in gains)
    cost = prices(settings.costs, base + len(drafted) + (len(drafted) + 1) * widest)
    extra = surcharges(settings, (len(drafted) + 1) * widest)
    best, best_value = Layout(0, 0), 1.0 - cost[base]
    for verify in range(len(drafted) + 1):
        now = sum(reached[: verify + 1])
        stops = [reached[j] * (1 - trust[j]) for j in range(verify)] + [reached[verify]]
        order = sorted(range(verify + 1), key=lambda j: -stops[j])
        for masks, gain in gains:
            value, rows = now, base + verify
            for count in range(verify + 2 if masks else 1):
                if count:
                    value += stops[order[count - 1]] * gain
                    rows += lead + masks
                total = value - cost[rows] - extra[count * (lead + masks)]
                if total > best_value + 1e-9:
                    best, best_value = Layout(verify, masks if count else 0, tuple(sorted(order[:count]))), total
    return with_alternatives(state, best, trust, reached, gains, lead)


def expected_gains(settings: Speculation, profile: Sequence[float], room: int) -> list[tuple[int, float]]:
    """(masks of a group, extra tokens its draft brings next step less the price of verifying as many as pay)."""
    reached = reach(profile)
    most = min(settings.draft_block_size, room)
    choices = [masks for masks in MASK_CHOICES if masks <= most] or [0]
    one = price(settings.costs, 1)
    worth = [
        tokens - price(settings.costs, 1 + i) + one for i, tokens in enumerate(accumulate(reached[1:], initial=0.0))
    ]
    return [(masks, max(worth[:masks], default=0.0)) for masks in choices]


def with_alternatives(
    state: State,
    chosen: Layout,
    trust: Sequence[float],
    reached: Sequence[float],
    gains: Sequence[tuple[int, float]],
    lead: int,
) -> Layout:
    """Add second-best tokens, the likeliest to be wanted first, while each is worth its row (and its group's rows)."""
    settings, base = speculation(state), len(state.ids) - state.kept
    group = lead + chosen.masks
    drafting = len(chosen.groups) * group
    rows = base + chosen.verify + drafting
    gain = dict(gains).get(chosen.masks, 0.0)
    # Given a rejection, the runner-up is right about as often as its share of what the draft left over.
    wanted = sorted(
        (
            -reached[j] * (1 - trust[j]) * min(draft.second_prob / max(1 - draft.prob, 1e-6), 1.0) * 0.5,
            j,
        )
        for j, draft in enumerate(state.draft[: chosen.verify])
        if draft.second >= 0
    )
    alone, grouped = list[int](), list[int]()
    for negative, j in wanted[: settings.alternatives]:
        here = price(settings.costs, rows) + surcharge(settings, drafting)
        with_row = -negative - (price(settings.costs, rows + 1) + surcharge(settings, drafting) - here)
        whole = price(settings.costs, rows + 1 + group) + surcharge(settings, drafting + group)
        with_group = -negative * (1 + gain) - (whole - here)
        if max(with_row, with_group) <= 0:
            break
        alone.append(j)
        rows += 1
        if chosen.masks and with_group > with_row:
            grouped.append(j)
            rows += group
            drafting += group
    return Layout(chosen.verify, chosen.masks, chosen.groups, tuple(sorted(alone)), tuple(sorted(grouped)))
