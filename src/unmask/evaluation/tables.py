"""The numbers of a suite as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

BAR = 20  # characters of a full bar


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `diffusion.evaluate` found."""
    figures = found["figures"]
    yield likelihoods(found)
    yield shares("masked-token accuracy by mask ratio", "up to", figures["accuracy_by_ratio"])
    places = [[place, value] for place, value in enumerate(figures["accuracy_by_position"], 1)]
    yield shares("masked-token accuracy by place in the block", "place", places)
    slots = [[slot, value] for slot, value in enumerate(figures["acceptance"], 1)]
    table = shares("acceptance: a draft's slot holds AR's token", "slot", slots)
    table.caption = f"expected acceptance length: {figures['tokens_per_round']:.2f} tokens a round"
    yield table
    if found["generation"]:
        yield modes(found["generation"])


def likelihoods(found: dict[str, Any]) -> Table:
    figures, change = found["figures"], found["ar_change"]
    table = Table(title=f"{found['model']}: {found['tokens']} held-out tokens", title_justify="left")
    for heading in ("", "nats per token", "perplexity"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("AR", f"{figures['ar_nll']:.4f}", f"{figures['ar_ppl']:.3f}")
    table.add_row("diffusion NELBO (an upper bound)", f"{figures['nelbo']:.4f}", f"{figures['nelbo_ppl']:.3f}")
    if change is not None:
        name = found["against"]["model"] if found["against"] else "its frozen base"
        table.add_row(f"AR against {name}", "", f"{100 * change:+.2f} %")
    table.caption = f"AR: {figures['bits_per_byte']:.4f} bits per byte"
    return table


def shares(title: str, heading: str, rows: list[list[Any]]) -> Table:
    """Rows of (what, share, count if there is one), with bars."""
    table = Table(title=title, title_justify="left")
    table.add_column(heading, justify="right")
    table.add_column("share", justify="right")
    table.add_column("", width=BAR)
    for what, share, *count in rows:
        table.add_row(str(what), f"{share:.3f}", "█" * round(BAR * share), *([f"{count[0]} rows"] if count else []))
    return table


def modes(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="greedy generation", title_justify="left")
    for heading in ("mode", "tokens a forward", "tokens a round", "tokens/s", "same ids as AR"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for row in rows:
        length = row["acceptance_length"]
        table.add_row(
            row["mode"],
            f"{row['tpf']:.2f}",
            "" if length is None else f"{length:.2f}",
            f"{row['tokens_per_second']:.1f}",
            f"{100 * row['same_as_ar']:.0f} %",
        )
    return table
