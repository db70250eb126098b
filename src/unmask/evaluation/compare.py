"""Two runs of a suite side by side: what changed on the samples that both have, with paired intervals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from unmask.evaluation.bootstrap import LEVEL
from unmask.evaluation.measures import SHARES, compared
from unmask.evaluation.rows import Row, read

FACTORS = dict.fromkeys(SHARES, 100)


def compare(before: Path, after: Path) -> dict[str, Any]:
    """groups: per kind and way of a suite that has these (else one group "all"), each measure before and after.

    before, after: what `unmask eval --out` wrote, or the samples beside it. Raises FileNotFoundError, and ValueError
    for files of other suites or without a sample in common.
    """
    files = [samples_of(path) for path in (before, after)]
    (about_one, one), (about_two, two) = map(read, files)
    suites = about_one.get("suite"), about_two.get("suite")
    if suites[0] != suites[1]:
        raise ValueError(f"{before} is of suite {suites[0]!r} and {after} of {suites[1]!r}")
    ours, theirs = ({row["key"]: row for row in rows} for rows in (one, two))
    common = [key for key in ours if key in theirs]
    if not common:
        raise ValueError(f"{before} and {after} have no sample in common")
    groups = dict[str, list[str]]()
    for key in common:
        groups.setdefault(group_of(ours[key]), []).append(key)
    changed = {
        k: [about_one.get(k), about_two.get(k)]
        for k in {**about_one, **about_two}
        if about_one.get(k) != about_two.get(k)
    }
    return {
        "suite": suites[0],
        "before": before.name,
        "after": after.name,
        "samples": len(common),
        "only_in_one": len(ours.keys() ^ theirs.keys()),
        "changed": changed,
        "interval": LEVEL,
        "groups": {
            name: compared([ours[key] for key in keys], [theirs[key] for key in keys]) for name, keys in groups.items()
        },
    }


def samples_of(path: Path) -> Path:
    """The file of samples that belongs to a file of results, which may be given itself."""
    samples = path.with_suffix(".jsonl")
    if not samples.is_file():
        raise FileNotFoundError(f"no samples {samples} to compare")
    return samples


def group_of(row: Row) -> str:
    return ", ".join(str(row[key]) for key in ("kind", "way") if key in row) or "all"


def tables(found: dict[str, Any]) -> Iterator[Table]:
    for group, measures in found["groups"].items():
        table = Table(title=f"{found['suite']}: {group}", title_justify="left", caption_justify="left")
        table.caption = (
            f"{found['after']} against {found['before']}, {100 * LEVEL:.0f} % intervals of paired differences"
        )
        for heading in ("", found["before"], found["after"], "change", ""):
            table.add_column(heading, justify="right" if heading else "left")
        for name, numbers in measures.items():
            factor = FACTORS.get(name, 1)
            before, after, change, low, high = (
                factor * numbers[key] for key in ("before", "after", "change", "low", "high")
            )
            shown = f"{change:+.2f} ({low:+.2f} to {high:+.2f})"
            table.add_row(
                name.replace("_", " "), f"{before:.2f}", f"{after:.2f}", shown, "sure" if numbers["sure"] else ""
            )
        yield table
