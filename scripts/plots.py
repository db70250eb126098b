"""Draw the pictures of docs/: from benchmarks/results/, and who sees whom from the code itself.

Usage: python scripts/plots.py (needs the extra `eval`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unmask.bench.pictures import first_roof, speeds
from unmask.evaluation import curve
from unmask.evaluation.decay import shown
from unmask.evaluation.pictures import quality_over_speed
from unmask.view import visibility

ROOT = Path(__file__).parent.parent
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"


def small_conversion(found: dict[str, Any]) -> Figure:
    """Acceptance by draft slot and masked-token accuracy by mask ratio, one line per variant."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, row in found["rows"].items():
        style = "--" if "AR" in name else "-"
        slots = range(1, len(row["acceptance"]) + 1)
        left.plot(slots, row["acceptance"], style, marker="o", markersize=3, linewidth=1, label=name)
        ratios = [str(bucket) for bucket, _, _ in row["accuracy_by_ratio"]]
        shares = [share for _, share, _ in row["accuracy_by_ratio"]]
        right.plot(ratios, shares, style, marker="o", markersize=3, linewidth=1, label=name)
    left.set(title="acceptance: the slot holds AR's token", xlabel="draft slot", ylabel="share", ylim=(0, None))
    right.set(title="masked-token accuracy", xlabel="mask ratio of the block, up to", ylabel="share", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    right.legend(fontsize=8)
    return figure


def acceptance(found: dict[str, Any]) -> Figure | None:
    """Of the starter suite: tokens per draft and verify round, and tokens per forward, by kind of text and variant.

    None where no speculation was run.
    """
    kinds = found["kinds"]
    ways = [way for way in found["all"] if all(kind.get(way, {}).get("acceptance_length") for kind in kinds.values())]
    ways = [way for way in ways if way != "ar"]
    if not ways:
        return None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, measure in zip(figure.subplots(1, 2), ("acceptance_length", "tpf"), strict=True):
        for number, way in enumerate(ways):
            rows = [ways_of[way][measure] for ways_of in kinds.values()]
            values = [row["value"] for row in rows]
            ends = [
                [v - row["low"] for v, row in zip(values, rows, strict=True)],
                [row["high"] - v for v, row in zip(values, rows, strict=True)],
            ]
            places = [kind + 0.8 * number / len(ways) for kind in range(len(rows))]
            axis.bar(places, values, 0.75 / len(ways), yerr=ends, error_kw={"linewidth": 0.8}, label=way)
        axis.axhline(1.0, color="black", linewidth=0.8)  # AR
        axis.set_xticks([kind + 0.3 for kind in range(len(kinds))], list(kinds), fontsize=8)
        axis.grid(axis="y", alpha=0.3)
    left, right = figure.axes
    left.set(title="tokens per draft and verify round", ylabel="tokens (the line: AR)")
    right.set(title="tokens per forward", ylabel="tokens (the line: AR)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(ways) + 1, fontsize=8)
    return figure


def slots(found: dict[str, Any]) -> Figure | None:
    """Of the starter suite: how often linearspec's draft was taken up to each of its slots, and each slot where all
    before it were taken, a line per kind of text. None where it was not run.
    """
    lines = {kind: row for kind, row in found.get("slots", {}).items() if row["rounds"] and row["taken"]}
    if not lines:
        return None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for kind, row in lines.items():
        rounds, label = [row["rounds"], *row["taken"]], f"{kind}, {row['rounds']} rounds"
        places = range(1, len(rounds))
        left.plot(places, [taken / rounds[0] for taken in rounds[1:]], "o-", markersize=3, linewidth=1, label=label)
        reached = [place for place in places if rounds[place - 1]]
        shares = [rounds[place] / rounds[place - 1] for place in reached]
        right.plot(reached, shares, "o-", markersize=3, linewidth=1, label=label)
    left.set(title="linearspec takes the draft up to this slot", ylabel="share of the rounds")
    right.set(title="... where it took all before it", ylabel="share of the rounds that came so far")
    for axis in (left, right):
        axis.set(xlabel="draft slot", ylim=(0, 1.03))
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    visibility.picture().savefig(IMAGES / "visibility.png", dpi=90, bbox_inches="tight")
    drawn: list[tuple[str, str, Callable[[dict[str, Any]], Figure | None]]] = [
        ("small_conversion", "small_conversion", small_conversion),
        ("starter", "starter", quality_over_speed),
        ("acceptance", "starter", acceptance),
        ("slots", "starter", slots),
        ("roofline", "roofline", first_roof),
        ("headline", "headline", speeds),
        ("curve", "curve", curve.picture),
        *((name, name, shown.picture) for name in ("decay-a", "decay-b", "decay-c")),
    ]
    for image, results, draw in drawn:
        if (file := RESULTS / f"{results}.json").exists():
            figure = draw(json.loads(file.read_text(encoding="utf-8")))
            if figure is not None:
                figure.savefig(IMAGES / f"{image}.png", dpi=110)


if __name__ == "__main__":
    main()
