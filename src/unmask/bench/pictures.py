"""Pictures and terminal plots of what was measured.

Pictures need matplotlib (the extra `eval`), which is imported when one is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unmask.bench.roofline import attainable, points
from unmask.bench.roofs import Roof

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 64, 16  # characters of a plot on the terminal


def span(roof: Roof, kind: str, lines: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """FLOPs per byte from left to right: all forwards, and the ridge with some room beside it."""
    seen = [row["intensity"] for row in lines]
    return min([*seen, roof.ridge(kind)]) / 2, max([*seen, roof.ridge(kind)]) * 4


def roofline(roof: Roof, kind: str, lines: Sequence[dict[str, Any]], title: str) -> Figure:
    """The roof of a number format, a mark under it per row count, a dot per forward that was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    left, right = span(roof, kind, lines)
    corners = [left, roof.ridge(kind), right]
    axis.plot(corners, [attainable(roof, kind, x) for x in corners], color="black", label=f"{roof.name}, {kind}")
    floor = [(row["intensity"], row["flops"] / row["floor_seconds"]) for row in lines]
    axis.plot(*zip(*floor, strict=True), "|", color="C0", markersize=9, label="forward at its floor")
    if reached := points(lines):
        axis.plot([x for _, x, _ in reached], [y for _, _, y in reached], "o", color="C1", label="measured")
    for row, (x, y) in zip(lines, floor, strict=True):
        axis.annotate(str(row["rows"]), (x, y), textcoords="offset points", xytext=(0, 8), ha="center", fontsize=8)
    axis.set(xscale="log", yscale="log", title=title, xlabel="FLOPs per byte (rows of the forward above each mark)")
    axis.set_ylabel("FLOP/s")
    axis.margins(y=0.1)
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8, loc="lower right")
    return figure


def first_roof(found: dict[str, Any]) -> Figure:
    """Of what `unmask roofline` writes: its first roof."""
    part = found["roofs"][0]
    roof = Roof(part["name"], part["bandwidth"], part["rates"], part["source"])
    title = f"{found['model']}, {found['dtype']}, a forward after {found['context']} rows"
    return roofline(roof, kind_of(found), part["forwards"], title)


def kind_of(found: dict[str, Any]) -> str:
    """The number format that sets the roof."""
    return "int8" if found["quantize"] == "int8" else str(found["dtype"])


def speeds(found: dict[str, Any]) -> Figure:
    """Of a benchmark: median tokens per second of everything that was timed, one panel per kind of prompt, with the
    least and the most as whiskers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row["kind"] for row in found["medians"]))
    names = list(dict.fromkeys(name_of(row) for row in found["medians"]))
    figure = Figure(figsize=(3 + 3.2 * len(kinds), 1.5 + 0.24 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        rows = [row for row in found["medians"] if row["kind"] == kind]
        places = [names.index(name_of(row)) for row in rows]
        values = [row["speed"] for row in rows]
        around = [[one["speed"] for one in found["samples"] if alike(one, row)] for row in rows]
        low = [value - min(many) for value, many in zip(values, around, strict=True)]
        high = [max(many) - value for value, many in zip(values, around, strict=True)]
        axis.barh(places, values, xerr=[low, high], color="C0", ecolor="0.4", height=0.7)
        axis.set(title=kind, xlabel="tokens/s", yticks=range(len(names)), yticklabels=names)
        axis.grid(alpha=0.3, axis="x")
    axes[0].invert_yaxis()
    return figure


def name_of(row: dict[str, Any]) -> str:
    """What was timed: load, way, and how many requests at a time."""
    return f"{row['load']}, {row['way']}" + (f", {row['batch']} at a time" if row["batch"] > 1 else "")


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("load", "way", "batch", "kind"))


def drawn(roof: Roof, kind: str, lines: Sequence[dict[str, Any]]) -> list[str]:
    """The same in characters, both axes logarithmic: the roof as a line, measured forwards as letters a, b, ..."""
    left, right = span(roof, kind, lines)
    reached = points(lines)
    top = roof.rate(kind)
    bottom = min([attainable(roof, kind, left), *(y for _, _, y in reached)])

    def column(x: float) -> int:
        return round((WIDTH - 1) * math.log(x / left) / math.log(right / left))

    def row(y: float) -> int:
        return round((HEIGHT - 1) * math.log(top / y) / math.log(top / bottom))

    cells = [[" "] * WIDTH for _ in range(HEIGHT)]
    for place in range(WIDTH):
        x = left * (right / left) ** (place / (WIDTH - 1))
        flat = x >= roof.ridge(kind)
        cells[row(attainable(roof, kind, x))][place] = "-" if flat else "/"
    for number, (_, x, y) in enumerate(reached):
        cells[row(y)][column(x)] = chr(ord("a") + number % 26)
    edges = {0: f"{scaled(top)}FLOP/s", HEIGHT - 1: scaled(bottom)}
    text = [f"{edges.get(i, ''):>12} ┤{''.join(line).rstrip()}" for i, line in enumerate(cells)]
    axis = f"{'':>13}└{'─' * WIDTH}"
    marks = f"{'':>14}{left:<8.3g}{'FLOPs per byte':^{WIDTH - 16}}{right:>8.3g}"
    names = ", ".join(f"{chr(ord('a') + i % 26)}: {rows}" for i, (rows, _, _) in enumerate(reached))
    return [*text, axis, marks, *([f"{'':>14}rows of the forward: {names}"] if names else [])]


def scaled(number: float) -> str:
    """As "34.1 G"; the unit follows."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g} "
