"""Patching, as an enforcement of DecayBench: lines that break rules are cut out of a whole answer and filled again.

The rules alone choose what is cut and what may stand. A filling sees the text on both sides where the checkpoint has
learned that; where not, what comes before is continued, and what comes after has a say in where that is cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unmask.evaluation.decay.blame import UNREADABLE, faults_of
from unmask.evaluation.decay.tasks import Task
from unmask.lm import LM
from unmask.lm.filling import IN_PLACE, PREFIX, Filling
from unmask.lm.options import options_of
from unmask.lm.patching import SPARE, VARIETY
from unmask.lm.ranking import scores
from unmask.lm.result import Numbers

# A line is filled so often at most, with so many lines more on each side: greedily, sampled, with its neighbours.
SPREADS = (0, 0, 1)
CUTS = 12  # lines after which a continued prefix may be cut


class Standing(NamedTuple):
    """How well a text obeys its rules; the greater the better. faults: places that break one, times -1, so that a rule
    that is broken in many places can be mended place by place."""

    rules: int
    faults: int


class Patched(NamedTuple):
    """spent: on each filling. scored: cuts that the causal rows had to choose from, counted as a forward each."""

    text: str
    spent: tuple[Numbers, ...]
    scored: int


def patch(
    lm: LM, task: Task, active: Sequence[str], prompt: str, text: str, budget: int, options: Mapping[str, Any]
) -> Patched:
    """Mend an answer line by line, the least tried first, and keep a filling only where the text stands better with it.

    budget: forwards that the fillings may take, prefills not counted. options: of `LM.generate`, for the mode.
    """
    spent, scored, tries = list[Numbers](), 0, Counter[str]()
    layout, standing = layout_of(lm, options["mode"]), standing_of(task, text, active)
    while standing.rules < len(active):
        wrong = {lines_around(text, *place, 0) for place in places(task, text, active)}
        open_ = [(tries[text[start:end]], start, end) for start, end in wrong]
        attempt, start, end = min(open_, default=(len(SPREADS), 0, 0))
        left = budget - scored - sum(one.nfe for one in spent)
        if attempt == len(SPREADS) or affordable(lm, options, layout, left) < 1:
            break
        tries[text[start:end]] += 1
        start, end = lines_around(text, start, end, SPREADS[attempt])
        wanted = 2 * len(lm.tokenizer.encode(text[start:end])) + SPARE
        how = {**options, "stop": task.stops, "max_tokens": min(wanted, affordable(lm, options, layout, left))}
        if SPREADS[attempt] in SPREADS[:attempt]:  # greedily it would be the same again
            how |= {"temperature": VARIETY, "seed": attempt}
        before, after = prompt + text[:start], text[end:] + task.stops[0]
        middles, cost = fillings(lm, before, after, layout, how)
        spent.append(cost)
        # One that ends the answer would obey rules by throwing the rest of it away.
        middles = [middle for middle in middles if not any(stop in f"\n{middle}" for stop in task.stops)]
        stand = {middle: standing_of(task, text[:start] + middle + text[end:], active) for middle in middles}
        best = max(stand.values(), default=standing)
        if best > standing:
            equal = [middle for middle in stand if stand[middle] == best]
            if len(equal) > 1:
                scored += len(equal)
                likely = [score.whole for score in scores(lm, before, equal, after)]
                equal = [equal[likely.index(max(likely))]]
            text, standing = text[:start] + equal[0] + text[end:], best
    return Patched(text, tuple(spent), scored)


def standing_of(task: Task, text: str, active: Sequence[str]) -> Standing:
    return Standing(sum(task.kept(text, active).values()), -len(places(task, text, active)))


def places(task: Task, text: str, active: Sequence[str]) -> list[tuple[int, int]]:
    """Where the text breaks active rules, or cannot be read; in characters."""
    return [(one.start, one.end) for one in faults_of(task, text, True) if one.rule in (*active, UNREADABLE)]


def lines_around(text: str, start: int, end: int, more: int) -> tuple[int, int]:
    """(start, end) of the lines that a place is in, and of so many on each side, without the last line's end."""
    rows = text.split("\n")
    first = max(text.count("\n", 0, start) - more, 0)
    last = text.count("\n", 0, end) + more
    begin = sum(len(row) + 1 for row in rows[:first])
    return begin, begin + len("\n".join(rows[first : last + 1]))


def layout_of(lm: LM, mode: str) -> str:
    """What fills a gap in this mode: causal rows need to have learned gaps for themselves, and a filler has taught no
    others."""
    blocks = lm.traits.gap_adapter is None
    learned = blocks if mode == "fastdiffuser" else lm.traits.gap_causal or mode == "auto"
    return next((layout for layout in lm.filler.layouts if layout != IN_PLACE or learned), PREFIX)


def affordable(lm: LM, options: Mapping[str, Any], layout: str, left: int) -> int:
    """Most tokens of a filling that cannot take more forwards than are left: one a slot, and whole blocks of slots."""
    causal = options["mode"] in ("ar", "self-speculation")
    size = 1 if causal else options.get("block_size") or lm.traits.block_size
    return int((left - CUTS * (layout == PREFIX)) // size * size - 1)


def fillings(lm: LM, before: str, after: str, layout: str, options: Mapping[str, Any]) -> tuple[Sequence[str], Numbers]:
    """What may go between, and what it cost."""
    if layout != PREFIX:
        filled = lm.fill(before, after, layout=layout, **options)
        return [filled.text], filled.stats
    filling = Filling(layout=PREFIX, untrained=True)
    done = lm.finish(lm.submit(*lm.filler.prepare(before, after, options_of(options), filling)))
    rows = done.text.split("\n")
    return ["\n".join(rows[: number + 1]) for number in range(min(len(rows), CUTS))], done.stats
