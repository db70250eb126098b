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


def replace_file(file: Path, before: bytes, after: bytes) -> None:
    """Write the file, whole or not at all, with the rights it has; a link stays one.

    FileChangedError where it is no longer what was read.
    """
    target = file.resolve()
    with NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}-", delete=False) as part:
        try:
            part.write(after)
            part.flush()
            os.fsync(part.fileno())
            os.chmod(part.name, target.stat().st_mode)
            if target.read_bytes() != before:
                raise FileChangedError(f"{file} has changed since it was read: nothing is written")
            os.replace(part.name, target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
