"""Several faults of one file, mended one after the other: after each change the tool is asked anew.

So no place goes stale, and a fault that went with another is not mended twice. What cannot be mended is passed over,
unless its line changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmask.patching.change import replace_file, unified
from unmask.patching.judging import Judged, Key, key_of
from unmask.patching.patch import Fills, Patched
from unmask.patching.source import Source
from unmask.patching.task import RUN, Asked, Task, aimed, commands, findings, judged, not_there, oracles_of, widened
from unmask.types import Oracle, Violation

Mark = tuple[Key, bytes]  # a fault and the line that it is in, by which it is known again


@dataclass(frozen=True, slots=True)
class Mended:
    """The end of a series. patches: of every fault that was taken up, in order. after: the file with all that were
    accepted. left: what the tool finds there still, and commands that still fail."""

    path: str
    before: Source
    after: Source
    patches: tuple[Patched, ...]
    left: tuple[Violation, ...]

    @property
    def mended(self) -> int:
        return sum(one.accepted for one in self.patches)

    @property
    def accepted(self) -> bool:
        """Whether anything was mended."""
        return self.mended > 0

    @property
    def status(self) -> Literal["accepted", "rejected"]:
        return "accepted" if self.accepted else "rejected"

    @property
    def diff(self) -> str:
        """Unified, of all that was accepted; where nothing was, of the candidate that came nearest for the first."""
        if not self.accepted:
            return self.patches[0].diff
        return unified(self.before.data.decode(), self.after.data.decode(), self.path)

    def write(self, file: Path, backup: bool = False) -> Path | None:
        """As `Patched.write`."""
        if not self.accepted:
            raise ValueError("no candidate was accepted: there is nothing to write")
        return replace_file(file, self.before.data, self.after.data, backup)


@dataclass(frozen=True, slots=True)
class Series:
    """All that the faults of one tool need but a model. first: the task of the first one; most: so many are tried."""

    first: Task
    asked: Asked
    most: int

    def run(self, fills: Fills) -> Mended:
        """A fault may be mended though a command fails before and after: it is told in `left`."""
        task, path, oracles = self.first, self.first.path, self.first.oracles
        source, before = task.source, task.before
        done, passed = list[Patched](), set[Mark]()
        while True:
            found = task.run(fills)
            done.append(found)
            if found.accepted:
                source = Source(found.data)
                before = judged(source, path, oracles)
            else:
                passed.add(mark(source, task.targets[0]))
            following = task_of_next(source, path, self.asked, oracles, before, passed)
            if following is None or len(done) == self.most:
                break
            task = following
        left = findings(source, path, self.asked, before)
        left += [fault for fault in before.faults if fault.source in commands(oracles)]
        return Mended(path, self.first.source, source, tuple(done), tuple(left))


def series_of(data: bytes, path: str, asked: Asked, most: int) -> Series:
    """As `task_of`, for as many as `most` faults of one tool. ValueError for a selector of one place, and for reports
    of runs, of which another run would have to tell more."""
    if most < 1:
        raise ValueError(f"max_faults must be at least 1, got {most}")
    if asked.from_diagnostic is None or asked.from_diagnostic in RUN:
        raise ValueError("max_faults (--max) needs from-diagnostic python, ruff or mypy, which can be asked again")
    source, oracles = Source.of(data, path), oracles_of(path, asked)
    before = judged(source, path, oracles)
    first = task_of_next(source, path, asked, oracles, before, ())
    if first is None:
        raise not_there(path, asked, before)
    return Series(first, asked, most)


def task_of_next(
    source: Source, path: str, asked: Asked, oracles: tuple[Oracle, ...], before: Judged, passed: Collection[Mark]
) -> Task | None:
    """Of the first fault that was not passed over."""
    for fault in findings(source, path, asked, before):
        if mark(source, fault) not in passed:
            return aimed(source, path, asked, oracles, before, widened(source, fault.span), (fault,))
    return None


def mark(source: Source, fault: Violation) -> Mark:
    row = source.row(source.line(fault.span.start))
    return key_of(fault), source.data[row.start : row.end].strip()
