"""Quality against speed: score beside tokens per forward and per second of every way that was run, and its area.

It measures nothing: it reads what the suites starter and humaneval have written (`unmask eval --curve FILE ...`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA, WORST = 3.0, 5.0  # of AUP: how much a loss weighs, and how many points of a hundred may be lost
AR = "ar"


class Point(NamedTuple):
    """One way to decode, on one set of prompts. family: ways that differ in a threshold alone. score: in per cent.

    tokens_per_second: None where several answers were in hand at once (`--at-once`).
    """

    group: str
    family: str
    way: str
    score: float
    low: float
    high: float
    tpf: float
    tokens_per_second: float | None


def curves(files: Sequence[Path]) -> dict[str, Any]:
    """groups: per set of prompts (kind, or benchmark and model) what the score is, its points, and per family of ways
    the area under score over tpf.

    Raises FileNotFoundError, and ValueError for a file of another suite or without a score.
    """
    points, scores = list[Point](), dict[str, str]()
    for file in files:
        found = read(file)
        score, own = of_starter(found) if found["suite"] == "starter" else of_humaneval(found)
        points += own
        scores |= {point.group: score for point in own}
    groups = dict[str, Any]()
    for group, score in scores.items():
        mine = [point for point in points if point.group == group]
        best, families = max(point.score for point in mine), list(dict.fromkeys(point.family for point in mine))
        split = {family: [point for point in mine if point.family == family] for family in families}
        groups[group] = {
            "score": score,
            "points": [point._asdict() for point in mine],
            "areas": {family: {"aup": aup(own, best), "mean": mean_score(own)} for family, own in split.items()},
        }
    return {"suite": "curve", "files": [file.name for file in files], "alpha": ALPHA, "worst": WORST, "groups": groups}


def read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        suite = found["suite"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no result that `unmask eval --out` wrote") from error
    if suite not in ("starter", "humaneval"):
        raise ValueError(f"a curve needs results of the suites starter or humaneval, {file} is of {suite!r}")
    return dict(found)


def of_starter(found: dict[str, Any]) -> tuple[str, list[Point]]:
    """Score: agreement with AR's greedy text, which is 1 for AR itself; of lossless ways the share of equal texts."""
    points = list[Point]()
    for kind in (kind for kind in {**found["kinds"], "all": found["all"]} if "alone" not in kind):
        ways = found["all"] if kind == "all" else found["kinds"][kind]
        sure = {"value": 1.0, "low": 1.0, "high": 1.0}
        for way, numbers in ways.items():
            score = sure if way == AR else numbers.get("agreement") or numbers["same_as_ar"]
            points.append(point_of(f"{found['model']}, {kind}", way, score, numbers))
    return "agreement with AR's greedy text", points


def of_humaneval(found: dict[str, Any]) -> tuple[str, list[Point]]:
    decoding, adapter = found["decoding"], found["adapter"]
    threshold = (decoding["settings"] or {}).get("confidence_threshold")
    way = decoding["strategy"] if threshold is None else f"{decoding['strategy']} {threshold:g}"
    group = f"{found['model']}{', ' + adapter['name'] if adapter else ''}, {found['tasks']} tasks of HumanEval"
    return "pass@1", [point_of(group, way, found["results"]["passed"], found["results"])]


def point_of(group: str, way: str, score: dict[str, float], numbers: dict[str, Any]) -> Point:
    family = way.rsplit(" ", 1)[0] if way.startswith("fastdiffuser ") else way
    value, low, high = (100 * score[key] for key in ("value", "low", "high"))
    seconds = numbers.get("tokens_per_second")
    return Point(group, family, way, value, low, high, numbers["tpf"]["value"], seconds["value"] if seconds else None)


def aup(points: Sequence[Point], best: float) -> float:
    """Accuracy under parallelism (Qian et al. 2026, d3LLM), in per cent times tokens per forward.

    Of points (tpf r_i, score y_i) by rising tpf: r_1 y_1 + sum over i > 1 of (r_i - r_{i-1}) (y_i W(y_i) + y_{i-1}
    W(y_{i-1})) / 2 with W(y) = min(exp(-3 (1 - y / best)), 1); points more than 5 below y_1 do not count.
    best: the best score of any way on these prompts.
    """
    ordered = sorted(points, key=lambda point: point.tpf)
    counted = [point for point in ordered if point.score >= ordered[0].score - WORST]
    weighted = [
        point.score * min(math.exp(-ALPHA * (1 - point.score / best)), 1.0) if best > 0 else 0.0 for point in counted
    ]
    total = counted[0].tpf * counted[0].score
    for i in range(1, len(counted)):
        total += (counted[i].tpf - counted[i - 1].tpf) * (weighted[i] + weighted[i - 1]) / 2
    return total


def mean_score(points: Sequence[Point]) -> float:
    """Area under score over tpf by trapezoids, divided by the width from the slowest to the fastest point: the mean
    score, in per cent, over the speeds that were measured. Of one point, its score."""
    ordered = sorted(points, key=lambda point: point.tpf)
    width = ordered[-1].tpf - ordered[0].tpf
    if width <= 0:
        return sum(point.score for point in ordered) / len(ordered)
    return sum((b.tpf - a.tpf) * (a.score + b.score) / 2 for a, b in pairwise(ordered)) / width


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """A table per group: points, and the areas beside the first of each family."""
    for group, numbers in found["groups"].items():
        table = Table(title=f"{group}: {numbers['score']}", title_justify="left", caption_justify="left")
        table.caption = "area: AUP (mean score), over tokens a forward"
        for heading in ("", "score", "tokens a forward", "tokens/s", "area"):
            table.add_column(heading, justify="right" if heading else "left")
        shown = set[str]()
        for point in numbers["points"]:
            area = numbers["areas"][point["family"]]
            text = "" if point["family"] in shown else f"{area['aup']:.1f} ({area['mean']:.1f} %)"
            shown.add(point["family"])
            score = f"{point['score']:.1f} %"
            if point["low"] < point["high"]:
                score += f" ({point['low']:.1f} to {point['high']:.1f})"
            seconds = point["tokens_per_second"]
            table.add_row(point["way"], score, f"{point['tpf']:.2f}", "" if seconds is None else f"{seconds:.1f}", text)
        yield table


def picture(found: dict[str, Any]) -> Figure:
    """Score over tokens per forward (left) and per second (right), a row per group, a line per family; AR is a ring."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = found["groups"]
    figure = Figure(figsize=(11, 4.0 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (group, numbers) in zip(figure.subplots(len(groups), 2, squeeze=False), groups.items(), strict=True):
        for axis, speed in zip(axes, ("tpf", "tokens_per_second"), strict=True):
            for number, family in enumerate(numbers["areas"]):
                own = [point for point in numbers["points"] if point["family"] == family and point[speed] is not None]
                own.sort(key=lambda point: float(point["tpf"]))
                values = [point["score"] for point in own]
                around = [[p["score"] - p["low"] for p in own], [p["high"] - p["score"] for p in own]]
                fill = "none" if family == AR else "full"
                speeds = [point[speed] for point in own]
                style: dict[str, Any] = {"fmt": "o-", "color": f"C{number}", "markersize": 4, "linewidth": 1}
                axis.errorbar(speeds, values, around, fillstyle=fill, capsize=2, label=family, **style)
            axis.set(title=group, ylabel=f"{numbers['score']}, per cent")
            axis.set_xlabel("tokens per forward" if speed == "tpf" else "tokens per second")
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=8)
    return figure
