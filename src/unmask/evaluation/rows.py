"""The samples of a run as JSON lines: written one by one, found again by their keys, so that a run can go on.

The first line says what the samples are of. A file of something else is never added to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Rows:
    """Samples in a file. about: plain data that has to be the same for all of them."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Read what is there. Raises ValueError for a file about something else or that is broken before its end."""
        self.path, self._found = path, dict[str, Row]()
        here = json.loads(json.dumps(about))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"about": here}) + "\n", encoding="utf-8")
            return
        there, rows = read(path)
        if other := next((key for key in {**there, **here} if there.get(key) != here.get(key)), None):
            raise ValueError(
                f"{path} has samples of another run ({other}: {there.get(other)!r} there, {here.get(other)!r} now):"
                " give another --out, or remove it"
            )
        self._found = {row["key"]: row for row in rows}
        with path.open("rb+") as file:  # a last line that was cut off would join the next one
            whole = file.read()
            file.truncate(whole.rfind(b"\n") + 1)

    def get(self, key: str) -> Row | None:
        return self._found.get(key)

    def add(self, key: str, row: Row) -> Row:
        """Write a sample, to the disk before anything else is done."""
        row = {"key": key, **row}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._found[key] = row
        return row


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """(what the file is about, its samples); the last line may be cut off. ValueError for any other file."""
    lines = path.read_text(encoding="utf-8").split("\n")
    try:
        first, *rest = parsed(lines[:-1])
        return dict(first["about"]), [row for row in rest if row["key"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of samples that `unmask eval` wrote") from error


def parsed(lines: list[str]) -> Iterator[Row]:
    yield from (dict(json.loads(line)) for line in lines)
