"""Files of a batch: requests to read, results that grow line by line and outlive a process that is killed.

A line is named by its `custom_id`, or by its number where it has none. It is answered once: what has a result is not
asked again. A last line without its end is what a killed process left behind; it is cut off and asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydantic_core
from filelock import FileLock, Timeout

Key = str | int  # a custom_id, or the number of a line that has none
LONGEST_ID = 512
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of a batch. number: from 1. value: what its JSON says. problem: why it is no JSON, or None."""

    number: int
    value: Any
    problem: str | None = None

    @property
    def custom_id(self) -> str | None:
        """Its name, where that is text of a sensible length."""
        name = self.value.get("custom_id") if isinstance(self.value, dict) else None
        return name if isinstance(name, str) and 0 < len(name) <= LONGEST_ID else None

    @property
    def key(self) -> Key:
        return self.custom_id or self.number


def requests(source: Path) -> Iterator[Asked]:
    """Lines of a batch file, blank ones left out. OSError where it cannot be read."""
    with source.open("rb") as file:
        for number, data in enumerate(file, 1):
            if not data.strip():
                continue
            try:
                yield Asked(number, pydantic_core.from_json(data, allow_inf_nan=False))
            except ValueError as error:
                yield Asked(number, None, str(error))


def keys(source: Path) -> set[Key]:
    """Names of all lines. ValueError where two have one."""
    found = dict[Key, int]()
    for asked in requests(source):
        if asked.key in found:
            lines = f"lines {found[asked.key]} and {asked.number}"
            raise ValueError(f"{source}: custom_id {asked.key!r} is in {lines}: it must be unique")
        found[asked.key] = asked.number
    return set(found)


def key_of(result: Mapping[str, Any]) -> Key:
    """Name of the line that a result is for. KeyError or TypeError where it is something else."""
    name: Key = result["custom_id"] if result["custom_id"] is not None else result["error"]["line"]
    return name


def answered(path: Path) -> dict[Key, bool]:
    """Name -> whether it went well, of all whole lines of a file of results. ValueError where it is something else."""
    found = dict[Key, bool]()
    for asked in requests(path) if path.exists() else ():
        try:
            found[key_of(asked.value)] = asked.value["error"] is None
        except (TypeError, KeyError):
            raise ValueError(f"{path}, line {asked.number}: not a result of a batch; choose another file") from None
    return found


def repair(path: Path) -> None:
    """Cut off a last line that has no end."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = place = file.seek(0, os.SEEK_END)
        whole = 0
        while place and not whole:
            begin = max(place - CHUNK, 0)
            file.seek(begin)
            whole = begin + cut if (cut := file.read(place - begin).rfind(b"\n") + 1) else 0
            place = begin
        if whole != end:
            file.truncate(whole)


class Results:
    """Where results go. done: name -> whether it went well, of lines that have an answer. total: lines there are."""

    def __init__(self, done: Mapping[Key, bool], total: int, good: BinaryIO, bad: BinaryIO) -> None:
        self.done, self.total, self.good, self.bad = done, total, good, bad

    def add(self, result: Mapping[str, Any]) -> None:
        """Write one result, whole. OSError where the disk is full."""
        file = self.good if result["error"] is None else self.bad
        file.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
        file.flush()


def removed(mark: Path) -> None:
    with suppress(OSError):  # some systems keep a file that is open
        mark.unlink(missing_ok=True)


@contextmanager
def opened(source: Path, out: Path, errors: Path | None = None) -> Iterator[Results]:
    """The results of a batch, repaired, and no other process's while they are open.

    errors: where lines go that went wrong; with the others if None. Raises ValueError where two of the files are one,
    where a custom_id is there twice, where another process works on `out` or where it has results of another batch;
    OSError where a file cannot be read or written.
    """
    files = [source, out] if errors is None else [source, out, errors]
    if len({file.resolve() for file in files}) < len(files):
        raise ValueError("the files of a batch must be different ones: " + ", ".join(map(str, files)))
    asked = keys(source)
    mark = out.with_name(out.name + ".lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(mark, timeout=0))
        except Timeout:
            raise ValueError(f"{out}: another process is writing to it") from None
        stack.callback(removed, mark)  # while it is held: who waits for it looks whether it is still there
        done = dict[Key, bool]()
        for path in files[1:]:
            repair(path)
            for key, fine in answered(path).items():
                if key not in asked:
                    raise ValueError(f"{path} answers {key!r}, which is not in {source}: it is of another batch")
                if key in done:
                    raise ValueError(f"{path} answers {key!r} again, which is answered in {out}")
                done[key] = fine
        good = stack.enter_context(out.open("ab"))
        bad = good if errors is None else stack.enter_context(errors.open("ab"))
        yield Results(done, len(asked), good, bad)
        for file in {good, bad}:
            os.fsync(file.fileno())
