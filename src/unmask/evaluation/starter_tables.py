"""The numbers of the starter suite as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from unmask.evaluation.measures import SHARES

COLUMNS = {
    "acceptance_length": "tokens a round",
    "tpf": "tokens a forward",
    "tokens_per_second": "tokens/s",
    "same_as_ar": "same ids as AR",
}
QUALITY = {
    "tpf": "tokens a forward",
    "agreement": "agreement with AR",
    "agreement_prefix": "before the first difference",
    "log_likelihood": "nats a token under AR",
    "repeated": "repeats itself",
}


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `starter.run` found."""
    kinds, level = found["kinds"], found["interval"]
    if found["targets"]:
        yield asked(found["targets"])
    for kind, ways in kinds.items():
        yield table_of(f"{kind}: greedy, {found['exactness']}", COLUMNS, own(ways, diffusers=False), level)
    for kind, ways in {**kinds, "all": found["all"]}.items():
        if rows := own(ways, diffusers=True):
            shown = {"ar": ways["ar"], **{way.removeprefix("fastdiffuser "): rows[way] for way in rows}}
            yield table_of(f"{kind}: fastdiffuser by threshold", QUALITY, shown, level)


def own(ways: dict[str, Any], diffusers: bool) -> dict[str, Any]:
    return {way: numbers for way, numbers in ways.items() if way.startswith("fastdiffuser") == diffusers}


def asked(targets: list[dict[str, Any]]) -> Table:
    """The table of issue 4: per measure and kind what was found, and what was asked for."""
    kinds = list(dict.fromkeys(row["kind"] for row in targets))
    table = Table(title="found, and what was asked for", title_justify="left", caption_justify="left")
    table.caption = "total over total \\[mean of prompts]; at least"
    for heading in ("", "way", *kinds):
        table.add_column(heading, justify="left" if heading in ("", "way") else "right")
    rows = dict[tuple[str, str], list[str]]()
    for row in targets:
        found, mean, least = (shown(row["measure"], row[key]) for key in ("found", "mean", "target"))
        text = f"{found}; {least}: " if found == mean else f"{found} \\[{mean}]; {least}: "
        text += "yes" if row["met"] else "[bold]no[/bold]"
        rows.setdefault((row["measure"], row["way"]), []).append(text)
    for (measure, way), cells in rows.items():
        table.add_row(COLUMNS[measure], way, *cells)
    return table


def table_of(title: str, columns: dict[str, str], rows: dict[str, Any], level: float) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = f"total over total, with {100 * level:.0f} % intervals over samples"
    table.add_column("", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for way, numbers in rows.items():
        table.add_row(way, *(cell(measure, numbers.get(measure)) for measure in columns))
    return table


def cell(measure: str, number: dict[str, Any] | None) -> str:
    """As "4.02 (3.80 to 4.25)"; empty for what was not measured."""
    if number is None:
        return ""
    value, low, high = (shown(measure, number[key]) for key in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


def shown(measure: str, value: float) -> str:
    return f"{100 * value:.1f} %" if measure in SHARES else f"{value:.2f}"
