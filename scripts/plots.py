"""Draw the pictures of docs/ from benchmarks/results/. Usage: python scripts/plots.py (needs the extra `eval`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unmask.evaluation.pictures import quality_over_speed

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


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in (("small_conversion", small_conversion), ("starter", quality_over_speed)):
        if (file := RESULTS / f"{name}.json").exists():
            figure = draw(json.loads(file.read_text(encoding="utf-8")))
            if figure is not None:
                figure.savefig(IMAGES / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
