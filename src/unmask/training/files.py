"""Folders and files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Left behind by a process that was stopped; removed by the next one that writes the same folder.
UNFINISHED = ".unfinished-"
REPLACED = ".replaced-"


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill; when the block ends well it is on disk and has taken the name of `folder`.

    Raises OSError with a clear line where the disk is full; `folder` is then as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = folder.with_name(UNFINISHED + folder.name), folder.with_name(REPLACED + folder.name)
    if old.exists() and not folder.exists():  # stopped between the two renames below
        old.rename(folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        new.mkdir()
        yield new
        for file in new.iterdir():
            flush(file)
        flush(new)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if "No space left" in str(error):  # an OSError, or safetensors' own error
            raise OSError(errno.ENOSPC, f"disk full: {folder} was not written, what was there is unchanged") from error
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(file: Path, value: Any) -> None:
    """Replace a JSON file by another in one step."""
    new = file.with_name(UNFINISHED + file.name)
    new.write_text(json.dumps(value, indent=1) + "\n")
    flush(new)
    new.replace(file)
