"""What the samples of DecayBench say: levels, decay, slope and area per way, what each rule costs, the hypotheses.

Intervals are percentiles of the bootstrap over tasks, with all samples of a task together (`bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unmask.evaluation.bootstrap import Floats, difference, draws_of, interval, summary
from unmask.evaluation.rows import Row

MEASURES = ("raw", "satisfied", "strict", "joint")
FLOOR = 0.05  # below this there is nothing that could decay


def of_tasks(rows: Sequence[Row], measure: str) -> list[tuple[float, float]]:
    """(sum, count) of each task, in the order of their names."""
    tasks = dict[str, list[float]]()
    for row in rows:
        tasks.setdefault(row["task"], []).append(float(row[measure]))
    return [(sum(values), len(values)) for _, values in sorted(tasks.items())]


class Curve:
    """A measure by level, for bootstrap: sums and counts [tasks, levels]."""

    def __init__(self, rows: Sequence[Row], measure: str) -> None:
        self.levels = sorted({row["level"] for row in rows})
        pairs = [of_tasks([row for row in rows if row["level"] == level], measure) for level in self.levels]
        self.counts = np.asarray(pairs, dtype=np.float64).transpose(1, 0, 2)  # [tasks, levels, (sum, count)]

    def means(self) -> Floats:
        """[1 + draws, levels]; the first row is of all tasks as they are."""
        whole = self.counts.sum(axis=0)[None]
        drawn = self.counts[draws_of(len(self.counts))].sum(axis=1)
        both = np.concatenate([whole, drawn])
        return np.asarray(both[..., 0] / both[..., 1])

    def decay(self) -> Floats:
        means = self.means()
        return np.asarray(means[:, 0] - means[:, -1])

    def slope(self) -> Floats:
        """Least squares, per rule."""
        centred = np.asarray(self.levels) - np.mean(self.levels)
        return np.asarray(self.means() @ centred / (centred @ centred))

    def area(self) -> Floats:
        """Mean over the levels, by trapezoids."""
        means, widths = self.means(), np.diff(self.levels)
        return np.asarray((means[:, 1:] + means[:, :-1]) / 2 @ widths / widths.sum())


def number(values: Floats) -> dict[str, Any]:
    """The first value, and the interval of the others. "sure": it leaves 0 out."""
    low, high = interval(values[1:])
    return {"value": float(values[0]), "low": low, "high": high, "sure": low > 0 or high < 0}


def of_way(rows: Sequence[Row]) -> dict[str, Any]:
    """levels: per measure and level its mean; decay, slope, area: per measure, where there are two levels; spent: what
    an answer costs."""
    levels = sorted({row["level"] for row in rows})
    found: dict[str, Any] = {"levels": {}, "decay": {}, "slope": {}, "area": {}}
    for measure in MEASURES:
        per_level = {level: [row for row in rows if row["level"] == level] for level in levels}
        found["levels"][measure] = {str(level): summary(of_tasks(own, measure)) for level, own in per_level.items()}
        if len(levels) > 1:
            curve = Curve(rows, measure)
            found["decay"][measure] = number(curve.decay())
            found["slope"][measure] = number(curve.slope())
            found["area"][measure] = number(curve.area())
    spent = ("nfe", "tokens", "tried")
    return found | {"spent": {name: float(np.mean([row[name] for row in rows])) for name in spent}}


def marginal(rows: Sequence[Row]) -> dict[str, Any]:
    """Per rule: how much higher each measure is with it than without, in pairs that differ in nothing else (the same
    task and order, one level lower, the rule being the last one added); over the ways."""
    places = {(row["task"], row["order"], row["way"], row["level"]): row for row in rows}
    pairs = dict[str, list[tuple[Row, Row]]]()
    for (task, order, way, level), row in places.items():
        before = places.get((task, order, way, level - 1))
        if before is not None:
            pairs.setdefault(row["active"][-1], []).append((before, row))
    found = dict[str, Any]()
    for rule, both in sorted(pairs.items()):
        changes = [{"task": b["task"], **{m: float(b[m]) - float(a[m]) for m in ("raw", "strict")}} for a, b in both]
        kept = [{"task": b["task"], "kept": b["kept"][rule]} for _, b in both]
        found[rule] = {m: summary(of_tasks(changes, m)) for m in ("raw", "strict")} | {"pairs": len(both)}
        found[rule]["kept"] = summary(of_tasks(kept, "kept"))
    return found


def of_length(rows: Sequence[Row], padded: Sequence[Row]) -> dict[str, Any]:
    """Raw A% under as many sentences that ask for nothing as there are rules at most, against none, per way."""
    found = dict[str, Any]()
    for way in dict.fromkeys(row["way"] for row in padded):
        before = of_tasks([row for row in rows if row["way"] == way and row["level"] == 0], "raw")
        after = of_tasks([row for row in padded if row["way"] == way], "raw")
        if len(before) == len(after):
            found[way] = difference(before, after)
    return found


# The hypotheses of the reference, section 5.2, stated before anything was measured.


def hypotheses(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """H1: masks take away most of the decay of V%, and little of that of raw A%. H2: oracle re-masking beats best-of-n
    at equal forwards on strict A%. H3: strict A% decays less in diffusion than in AR. Each per mode or enforcement:
    what was found, and whether it holds, fails or is undecided."""
    ways = {(row["mode"], row["enforcement"]) for row in rows}
    modes, enforcements = sorted({mode for mode, _ in ways}), sorted({name for _, name in ways})

    def of(mode: str, enforcement: str) -> list[Row]:
        return [row for row in rows if (row["mode"], row["enforcement"]) == (mode, enforcement)]

    found: dict[str, list[dict[str, Any]]] = {"H1": [], "H2": [], "H3": []}
    for mode in modes:
        if {(mode, "prompt"), (mode, "mask")} <= ways:
            found["H1"].append({"of": mode, **first(of(mode, "prompt"), of(mode, "mask"))})
        if {(mode, "best-of-n"), (mode, "remask")} <= ways:
            found["H2"].append({"of": mode, **second(of(mode, "best-of-n"), of(mode, "remask"))})
    for enforcement in enforcements:
        if {("ar", enforcement), ("fastdiffuser", enforcement)} <= ways:
            found["H3"].append({"of": enforcement, **third(of("ar", enforcement), of("fastdiffuser", enforcement))})
    return found


def first(prompt: Sequence[Row], mask: Sequence[Row]) -> dict[str, Any]:
    """Most: at least half of it, surely something. Little: not that."""
    obeyed, right = (compared(prompt, mask, measure, Curve.decay) for measure in ("satisfied", "raw"))
    if obeyed is None or right is None:
        return {"verdict": "undecided", "why": "one level only"}
    numbers = {"decay_of_satisfied_taken_away": obeyed, "decay_of_raw_taken_away": right}
    lost = {measure: number(Curve(prompt, measure).decay()) for measure in ("satisfied", "raw")}
    if not lost["satisfied"]["low"] > 0:
        return numbers | {"verdict": "undecided", "why": "V% does not surely decay under the prompt alone"}

    def most(taken: dict[str, Any], of: dict[str, Any]) -> bool:
        return bool(taken["low"] > 0 and taken["value"] >= of["value"] / 2)

    holds = most(obeyed, lost["satisfied"]) and not most(right, lost["raw"])
    return numbers | {"verdict": "holds" if holds else "fails", "why": ""}


def second(best: Sequence[Row], remask: Sequence[Row]) -> dict[str, Any]:
    level = max(row["level"] for row in best)
    pairs = [of_tasks([row for row in rows if row["level"] == level], "strict") for rows in (best, remask)]
    change = difference(*pairs)
    spent = [float(np.mean([row["nfe"] for row in rows if row["level"] == level])) for rows in (best, remask)]
    found = {"gain_in_strict": change, "forwards": spent, "verdict": verdict(change["low"], change["high"])}
    return found | {"why": f"{spent[1]:.0f} forwards against {spent[0]:.0f}"}


def third(ar: Sequence[Row], diffusion: Sequence[Row]) -> dict[str, Any]:
    less = compared(ar, diffusion, "strict", Curve.decay)
    if less is None:
        return {"verdict": "undecided", "why": "one level only"}
    starts = [float(Curve(rows, "strict").means()[0, 0]) for rows in (ar, diffusion)]
    if min(starts) < FLOOR:
        return {"less_decay": less, "verdict": "undecided", "why": f"less than {100 * FLOOR:.0f} % right without rules"}
    return {"less_decay": less, "verdict": verdict(less["low"], less["high"]), "why": ""}


def verdict(low: float, high: float) -> str:
    return "holds" if low > 0 else "fails" if high < 0 else "undecided"


def compared(
    one: Sequence[Row], two: Sequence[Row], measure: str, of: Callable[[Curve], Floats]
) -> dict[str, Any] | None:
    """How much smaller a number of `two` is than that of `one`, drawn over the same tasks; None for one level."""
    if len({row["level"] for row in one}) < 2:
        return None
    return number(of(Curve(one, measure)) - of(Curve(two, measure)))
