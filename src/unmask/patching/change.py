"""A change as others read it and as it reaches the disk: a unified diff, and a write that is whole or not at all."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

CONTEXT = 3  # rows around a change, as is usual
HUNK = re.compile(r"@@ -(\d+)(,\d+)? \+(\d+)(,\d+)? @@")
Piece = TypeVar("Piece", bound=Sequence[Any])


class FileChangedError(ValueError):
    """The file is no longer what was read."""


def unified(before: str, after: str, name: str) -> str:
    """As `git apply` and `patch` read it. Only LF ends a line there: the CR of a CRLF is part of the line."""
    first, old, new = apart(rows(before), rows(after), CONTEXT)
    made = list(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=CONTEXT))
    made[2:] = [moved(row, first) if row.startswith("@@") else row for row in made[2:]]
    return "".join(row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in made)


def apart(old: Piece, new: Piece, around: int = 0) -> tuple[int, Piece, Piece]:
    """(where it begins, old, new) of what lies between the equal beginnings and ends, and so many pieces `around` it.

    What compares them afterwards takes time that grows with the square of their size.
    """
    least = min(len(old), len(new))
    first = next((at for at in range(least) if old[at] != new[at]), least)
    last = next((at for at in range(least - first) if old[-1 - at] != new[-1 - at]), least - first)
    first, last = max(first - around, 0), max(last - around, 0)
    return first, old[first : len(old) - last], new[first : len(new) - last]  # type: ignore[return-value]


def moved(header: str, by: int) -> str:
    """The header of a hunk of a text with so many more rows before it."""
    return HUNK.sub(lambda hit: f"@@ -{int(hit[1]) + by}{hit[2] or ''} +{int(hit[3]) + by}{hit[4] or ''} @@", header)


def rows(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def replace_file(file: Path, before: bytes, after: bytes, backup: bool = False) -> Path | None:
    """Write the file, whole or not at all, with the rights it has; a link stays one.

    backup: keep what it was beside it, under a name that is free, and give that name. FileChangedError where the file
    is no longer what was read.
    """
    target = file.resolve()
    old: Path | None = None
    with NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}-", delete=False) as part:
        try:
            part.write(after)
            part.flush()
            os.fsync(part.fileno())
            os.chmod(part.name, target.stat().st_mode)
            if target.read_bytes() != before:
                raise FileChangedError(f"{file} has changed since it was read: nothing is written")
            old = kept(target, before) if backup else None
            os.replace(part.name, target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            if old is not None:
                old.unlink(missing_ok=True)
            raise
    return old


def kept(target: Path, data: bytes) -> Path:
    """A copy as NAME.orig, or NAME.orig2 and so on: what is there already stays."""
    number, rights = 1, stat.S_IMODE(target.stat().st_mode)
    while True:
        copy = target.with_name(f"{target.name}.orig{number if number > 1 else ''}")
        try:  # with these rights from the beginning: who may not read the file may not read the copy
            made = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, rights)
        except FileExistsError:
            number += 1
            continue
        try:
            with os.fdopen(made, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(copy, rights)  # what the umask has taken away
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        return copy
