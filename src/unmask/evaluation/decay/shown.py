"""DecayBench for people: tables, and a picture of the three shares by level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"raw": "assertions that hold (raw A%)", "satisfied": "rules obeyed (V%)", "strict": "strict A%"}
HYPOTHESES = {
    "H1": "masks take away most decay of V%, little of raw A%",
    "H2": "re-masking beats best-of-n at equal forwards",
    "H3": "diffusion decays less than AR",
}


def percent(number: dict[str, Any] | None) -> str:
    """As "40.2 % (30.0 to 51.1)"; empty for what was not measured."""
    if number is None:
        return ""
    value, low, high = (100 * number[key] for key in ("value", "low", "high"))
    return f"{value:.1f} %" if low == high else f"{value:.1f} % ({low:.1f} to {high:.1f})"


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `suite.run` found."""
    settings = found["settings"]
    for measure, title in TITLES.items():
        levels = [level for level in settings["levels"] if level in (0, settings["levels"][-1]) or level % 2 == 0]
        table = table_of(f"tier {settings['tier']}, {found['tasks']} tasks: {title}, by number of rules")
        for heading in (*map(str, levels), "decay", "per rule"):
            table.add_column(heading, justify="right")
        for way, numbers in found["ways"].items():
            values = [f"{100 * numbers['levels'][measure][str(level)]['value']:.0f} %" for level in levels]
            slope = numbers["slope"].get(measure)
            per_rule = "" if slope is None else f"{100 * slope['value']:+.1f}"
            table.add_row(way, *values, percent(numbers["decay"].get(measure)), per_rule)
        yield table
    table = table_of("what an answer costs")
    for heading in ("forwards", "tokens", "answers"):
        table.add_column(heading, justify="right")
    for way, numbers in found["ways"].items():
        spent = numbers["spent"]
        cells = [f"{spent[name]:.1f}" for name in ("nfe", "tokens", "tried")]
        table.add_row(way, *cells)
    yield table
    if found["rules"]:
        table = table_of("what a rule changes, in pairs that differ in it alone")
        for heading in ("obeyed", "raw A%", "strict A%", "pairs"):
            table.add_column(heading, justify="right")
        for rule, numbers in found["rules"].items():
            table.add_row(rule, *(percent(numbers[m]) for m in ("kept", "raw", "strict")), str(numbers["pairs"]))
        yield table
    table = table_of("hypotheses")
    for heading in ("", "of", "verdict", "why"):
        table.add_column(heading)
    for name, title in HYPOTHESES.items():
        for row in found["hypotheses"][name] or [{"of": "", "verdict": "not measured", "why": ""}]:
            table.add_row(name, title, row["of"], row["verdict"], row["why"])
    yield table


def table_of(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    return table


def picture(found: dict[str, Any]) -> Figure | None:
    """Raw A%, V% and strict A% over the number of rules, a line per way. None for one level."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = found["settings"]["levels"]
    if len(levels) < 2:
        return None
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (measure, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
        for number, (way, numbers) in enumerate(found["ways"].items()):
            own = [numbers["levels"][measure][str(level)] for level in levels]
            style = "o-" if way.startswith("ar") else "s--"
            axis.plot(levels, [100 * one["value"] for one in own], style, color=f"C{number}", markersize=3, label=way)
            low, high = ([100 * one[end] for one in own] for end in ("low", "high"))
            axis.fill_between(levels, low, high, color=f"C{number}", alpha=0.08, linewidth=0)
        axis.set(title=title, xlabel="rules", ylabel="per cent", ylim=(-3, 103))
        axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    return figure
