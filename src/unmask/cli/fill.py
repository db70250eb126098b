"""`unmask fill`: fill a gap in a file, with what is before and after it in view."""

from __future__ import annotations

import json
import re
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.common import DEFAULT_MODEL, as_json, err, load_model, opened
from unmask.cli.constraining import CONSTRAINTS, SOFT, constrained
from unmask.cli.flags import DECODING, LOADING, Model, TraceFile, flag, with_flags
from unmask.patching.change import replace_file, unified

if TYPE_CHECKING:
    from unmask.lm import Filled

MARKER = "<FILL>"
PANEL = "How to fill"
FILLING: dict[str, Any] = {
    "layout": flag(str, PANEL, "in-place, psm or spm; the best that the model has if not given.", "--layout"),
    "length": flag(int, PANEL, "Exactly so many tokens.", "--length"),
    "candidates": flag(int, PANEL, "Fill so often and take the likeliest in its place.", "--candidates"),
    "heal": flag(bool, PANEL, "The last token before the gap may be written anew.", "--heal/--no-heal"),
    "untrained": flag(
        bool, PANEL, "Let a model that has not learned it continue what is before the gap.", "--untrained"
    ),
    "constrain": flag(
        str, PANEL, "What a hard constraint is about: the text of the gap, or the whole file.", "--constrain"
    ),
}


@with_flags(options=DECODING, loading=LOADING, constraint=CONSTRAINTS | SOFT, filling=FILLING)
def fill(
    file: Annotated[Path, typer.Argument(help="Text file; - reads stdin.")],
    options: dict[str, Any],
    loading: dict[str, Any],
    constraint: dict[str, Any],
    filling: dict[str, Any],
    model: Model = DEFAULT_MODEL,
    marker: Annotated[str | None, typer.Option("--marker", help=f"Text that stands for the gap; {MARKER}.")] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--range", help="Lines 12-15, or 12:5-12:20 with columns from 1, the last left out.", show_default=False
        ),
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Print the change as a unified diff.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Change the file, whole or not at all.")] = False,
    trace: TraceFile = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
) -> None:
    """Fill a gap in a text. Prints what goes into it; the file stays as it is unless --write is given."""
    if marker is not None and place is not None:
        raise ValueError("--marker and --range both say where the gap is: give one")
    if write and str(file) == "-":
        raise ValueError("--write needs a file: stdin cannot be written to")
    if diff and as_object:
        raise ValueError("--diff and --json exclude each other: the JSON has the diff")
    before = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    text = decoded(before, str(file))
    start, stop = marked(text, MARKER if marker is None else marker) if place is None else ranged(text, place)
    options = constrained(options, constraint)
    record = opened(trace)
    lm = load_model(model, **loading)
    lm.trace = record
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = lm.fill(text[:start], text[stop:], **filling, **options)
    for message in told:
        err.print(f"unmask: {message.message}", style="yellow", markup=False, soft_wrap=True)
    after = text[:start] + found.text + text[stop:]
    change = unified(text, after, str(file))
    if write:
        replace_file(file, before, after.encode())
    if as_object:
        print(json.dumps(object_of(found) | {"diff": change, "written": write}))
    elif diff:
        sys.stdout.write(change)
    elif not write:
        sys.stdout.write(found.text if found.text.endswith("\n") else found.text + "\n")
    if not found.ended and not as_object:
        err.print("the gap was not ended by the model: its length or its budget did that", style="dim")


def decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})") from None


def marked(text: str, marker: str) -> tuple[int, int]:
    """Start and end of the one place where the marker stands."""
    if not marker:
        raise ValueError("--marker must not be empty")
    count = text.count(marker)
    if count != 1:
        raise ValueError(f"the marker {marker!r} must stand in the file once, and stands there {count} times")
    start = text.index(marker)
    return start, start + len(marker)


def ranged(text: str, place: str) -> tuple[int, int]:
    """Start and end of LINE-LINE (both whole, without the last line's end) or LINE:COLUMN-LINE:COLUMN."""
    found = re.fullmatch(r"(\d+)(?::(\d+))?(?:-(\d+)(?::(\d+))?)?", place)
    if not found or (found[2] is None) != (found[4] is None) or (found[2] and not found[3]):
        raise ValueError(f"--range must be like 12-15 or 12:5-12:20, got {place!r}")
    rows = text.splitlines(keepends=True)
    first, last = int(found[1]), int(found[3] or found[1])
    if not 1 <= first <= last <= len(rows):
        raise ValueError(f"--range {place}: the file has lines 1 to {len(rows)}")
    offsets = [sum(map(len, rows[:number])) for number in (first - 1, last - 1)]
    widths = [len(rows[number - 1].rstrip("\r\n")) for number in (first, last)]
    if found[2] is None:
        return offsets[0], offsets[1] + widths[1]
    columns = int(found[2]), int(found[4])
    for column, width, line in zip(columns, widths, (first, last), strict=True):
        if not 1 <= column <= width + 1:
            raise ValueError(f"--range {place}: line {line} has columns 1 to {width + 1}")
    start, stop = offsets[0] + columns[0] - 1, offsets[1] + columns[1] - 1
    if start > stop:
        raise ValueError(f"--range {place} ends before it begins")
    return start, stop


def object_of(found: Filled) -> dict[str, Any]:
    """A filling as plain data."""
    return {
        "text": found.text,
        "layout": found.layout,
        "ended": found.ended,
        "trimmed": found.chosen.trimmed,
        "candidates": [
            {"text": one.text, "score": None if one.score is None else asdict(one.score) | {"whole": one.score.whole}}
            for one in found.candidates
        ],
        "generations": [as_json(one) for one in found.chosen.generations],
    }
