"""Rooflines and benchmarks as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from unmask.bench.pictures import name_of, scaled
from unmask.bench.roofs import Roof


def grid(title: str, *headings: str, wrap: tuple[int, ...] = (0,)) -> Table:
    """Left-aligned first column, numbers to the right. wrap: columns that may take several lines."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=i not in wrap)
    return table


def limits(roof: Roof) -> Table:
    table = grid(f"{roof.name} ({roof.source})", "", "per second", "FLOPs per byte at the ridge")
    table.add_row("bytes read", f"{scaled(roof.bandwidth)}B", "")
    for kind, rate in roof.rates.items():
        table.add_row(
            f"products, {kind}", f"{scaled(rate)}{'OP' if kind == 'int8' else 'FLOP'}", f"{roof.ridge(kind):.0f}"
        )
    return table


def forwards(lines: Sequence[dict[str, Any]], title: str) -> Table:
    timed = any("seconds" in line for line in lines)
    table = grid(title, "rows", "MB", "GFLOP", "FLOPs/byte", "floor, ms", "set by", *(("here, ms", "x floor") * timed))
    for line in lines:
        cells = [str(line["rows"]), f"{line['bytes'] / 1e6:.1f}", f"{line['flops'] / 1e9:.2f}"]
        cells += [f"{line['intensity']:.1f}", f"{1e3 * line['floor_seconds']:.3g}", line["limit"]]
        if "seconds" in line:
            cells += [f"{1e3 * line['seconds']:.3g}", f"{line['times_floor']:.2f}"]
        table.add_row(*cells)
    return table


def modes(lines: Sequence[dict[str, Any]], title: str) -> Table:
    table = grid(title, "mode", "block", "rows", "floor, ms", "to beat AR", "tokens/s", "x AR")
    table.caption = (
        "every forward at its floor; floor, and tokens to beat AR: of a forward (fastdiffuser) or of a round (the rest)"
    )
    for line in lines:
        speed = [f"{line['tokens_per_second']:.0f}", f"{line['times_ar']:.2f}"] if "times_ar" in line else ["", ""]
        rows = ", ".join(map(str, line["rows"]))
        table.add_row(
            line["mode"], str(line["block"]), rows, f"{1e3 * line['seconds']:.3g}", f"{line['break_even']:.2f}", *speed
        )
    return table


def rooflines(found: dict[str, Any], roofs: Sequence[Roof]) -> Iterator[Table]:
    """All tables of `unmask roofline`."""
    about = f"{found['model']}, {found['dtype']}{', ' + found['quantize'] if found['quantize'] else ''}"
    for roof, part in zip(roofs, found["roofs"], strict=True):
        yield limits(roof)
        yield forwards(part["forwards"], f"{about}: a forward after {found['context']} rows on {roof.name}")
        yield modes(part["modes"], f"what each mode could reach on {roof.name}")


# Heading -> how a row of a benchmark's medians is shown under it; empty where it lacks what that needs.
COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "tok/s": lambda row: f"{row['speed']:.1f}",
    "first ms": lambda row: f"{1e3 * row['first_seconds']:.0f}",
    "p50/p99 ms": lambda row: f"{1e3 * row['wait_p50']:.0f}/{1e3 * row['wait_p99']:.0f}",
    "tpf": lambda row: f"{row['tpf']:.2f}",
    "round": lambda row: f"{row['acceptance_length']:.2f}",
    "as AR": lambda row: f"{100 * row['same_as_ar']:.0f}, {100 * row['agreement_prefix']:.0f} %",
}


def shown(row: dict[str, Any], how: Callable[[dict[str, Any]], str]) -> str:
    try:
        return how(row)
    except KeyError:
        return ""


def benchmark(found: dict[str, Any]) -> Iterator[Table]:
    """All tables of `unmask bench`."""
    if "headline" in found:
        yield goals(found["headline"])
    for kind in dict.fromkeys(row["kind"] for row in found["medians"]):
        yield speeds(kind, [row for row in found["medians"] if row["kind"] == kind])
    yield advised(found)
    if found["absent"]:
        table = grid("not measured", "", "why", wrap=(0, 1))
        for load, why in found["absent"].items():
            table.add_row(load, why)
        yield table


def goals(rows: Sequence[dict[str, Any]]) -> Table:
    table = grid("the goals of issue 6", "", "asked", "found", "least to most", "met", "of", wrap=(0, 5))
    for row in rows:
        asked = f"{'at least' if row['at_least'] else 'at most'} {row['bound']:g}"
        if row["found"] is None:
            table.add_row(row["what"], asked, "", "", "", row["of"])
            continue
        around = f"{row['low']:.2f} to {row['high']:.2f}"
        table.add_row(row["what"], asked, f"{row['found']:.2f}", around, "yes" if row["met"] else "no", row["of"])
    return table


def speeds(kind: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = grid(f"{kind}: medians of {max(row['samples'] for row in rows)}", "", *COLUMNS)
    table.columns[0].min_width = 16
    table.caption = (
        "tok/s: after the first arrival; p50/p99: waits between arrivals;"
        " as AR: answers with the very same ids, and ids before the first difference"
    )
    for row in rows:
        table.add_row(name_of(row), *(shown(row, how) for how in COLUMNS.values()))
    return table


def advised(found: dict[str, Any]) -> Table:
    """What `auto` does from now on, and where AR is the quicker way."""
    table = grid("recommended, and where AR wins", "", "auto takes", "AR from", "AR below, tokens")
    for load, advice in found["advice"].items():
        short = [count for count in found["crossover"][load]["ahead_from"].values() if count is not None]
        requests = advice["ar_from"]
        table.add_row(
            load,
            f"{advice['strategy']} {advice['draft_block_size']}",
            "always" if requests == 1 else f"{requests} at a time" if requests else "not seen",
            f"{min(short):g} to {max(short):g}" if short and max(short) > 1 else "none",
        )
    return table
