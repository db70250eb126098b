"""A change as others read it and as it reaches the disk: a unified diff, and a write that is whole or not at all."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from tempfile import NamedTemporaryFile


class FileChangedError(ValueError):
    """The file is no longer what was read."""


def unified(before: str, after: str, name: str) -> str:
    """As `git apply` and `patch` read it. Only LF ends a line there: the CR of a CRLF is part of the line."""
    old, new = rows(before), rows(after)
    made = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in made)


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
    number = 1
    while True:
        copy = target.with_name(f"{target.name}.orig{number if number > 1 else ''}")
        try:
            with copy.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            number += 1
        else:
            os.chmod(copy, target.stat().st_mode)
            return copy
