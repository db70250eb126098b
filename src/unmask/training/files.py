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
    new = open_folder(folder)
    try:
        yield new
        close_folder(new, folder)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        raise explained(error, folder) from error


def open_folder(folder: Path) -> Path:
    """An empty folder that will become `folder`; what an earlier, stopped process has left of one is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = folder.with_name(UNFINISHED + folder.name), folder.with_name(REPLACED + folder.name)
    if old.exists() and not folder.exists():  # stopped between the two renames of `close_folder`
        old.rename(folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    return new


def close_folder(new: Path, folder: Path) -> None:
    """Give a filled folder its name."""
    for file in new.iterdir():
        flush(file)
    flush(new)
    old = folder.with_name(REPLACED + folder.name)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def explained(error: BaseException, folder: Path) -> BaseException:
    """A clear line for a full disk (an OSError, or safetensors' own error); any other error as it is."""
    if "No space left" in str(error):
        return OSError(errno.ENOSPC, f"disk full: {folder} was not written, what was there is unchanged")
    return error


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
