"""Several faults of one file, mended one after the other: after each change the tool is asked anew.

So no place goes stale, and a fault that went with another is not mended twice. What cannot be mended is passed over,
unless its line changes. What a report names is followed through the changes: it says nothing of the file as it is then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmask.patching.change import replace_file, unified
from unmask.patching.judging import Judged, Key, key_of
from unmask.patching.patch import Fills, Patched, VerifierError
from unmask.patching.source import Source, touches
from unmask.patching.task import RUN, Asked, Task, aimed, commands, findings, judged, not_there, oracles_of, widened
from unmask.types import ByteSpan, Oracle, Violation

# A fault, the line that it is in, and how many such there are before it: by these it is known again.
Mark = tuple[Key, bytes, int]


@dataclass(frozen=True, slots=True)
class Mended:
    """The end of a series. patches: of every fault that was taken up, in order. after: the file with all that were
    accepted. left: what the tool finds there still, and commands that still fail. stopped: why the series has ended
    early, with what is left unknown; empty where it has not."""

    path: str
    before: Source
    after: Source
    patches: tuple[Patched, ...]
    left: tuple[Violation, ...]
    stopped: str = ""

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
    """All that the faults of one tool need but a model. first: the task of the first one; named: all that there are
    now; most: so many are tried."""

    first: Task
    asked: Asked
    named: tuple[Violation, ...]
    most: int

    def run(self, fills: Fills) -> Mended:
        """A fault may be mended though a command fails before and after: it is told in `left`. Where what has to judge
        cannot be run any more, the series stops with what was accepted up to then."""
        task, path, oracles = self.first, self.first.path, self.first.oracles
        source, before, named = task.source, task.before, self.named
        done, passed = list[Patched](), set[Mark]()
        while True:
            found = task.run(fills)
            done.append(found)
            if found.accepted:
                source = Source(found.data)
                try:
                    before = judged(source, path, oracles)
                except VerifierError as error:
                    return Mended(path, self.first.source, source, tuple(done), (), str(error))
                if self.asked.report is None:
                    named = tuple(findings(source, path, self.asked, before))
                else:
                    named = followed(named, found, before.faults)
            else:
                passed.add(next(mark for mark, fault in marked(source, named) if fault == task.targets[0]))
            following = task_of_next(source, path, self.asked, oracles, before, named, passed)
            if following is None or len(done) == self.most:
                break
            task = following
        failing = (fault for fault in before.faults if fault.source in commands(oracles))
        return Mended(path, self.first.source, source, tuple(done), (*named, *failing))


def series_of(data: bytes, path: str, asked: Asked, most: int) -> Series:
    """As `task_of`, for as many as `most` faults of one tool. ValueError for a selector of one place, and for reports
    of runs, of which another run would have to tell more."""
    if most < 1:
        raise ValueError(f"max_faults must be at least 1, got {most}")
    if asked.from_diagnostic is None or asked.from_diagnostic in RUN:
        raise ValueError("max_faults (--max) needs from-diagnostic python, ruff or mypy, which can be asked again")
    source, oracles = Source.of(data, path), oracles_of(path, asked)
    before = judged(source, path, oracles)
    named = tuple(findings(source, path, asked, before))
    first = task_of_next(source, path, asked, oracles, before, named, ())
    if first is None:
        raise not_there(path, asked, before)
    return Series(first, asked, named, most)


def task_of_next(
    source: Source,
    path: str,
    asked: Asked,
    oracles: tuple[Oracle, ...],
    before: Judged,
    named: Sequence[Violation],
    passed: Collection[Mark],
) -> Task | None:
    """Of the first fault that was not passed over."""
    for mark, fault in marked(source, named):
        if mark not in passed:
            return aimed(source, path, asked, oracles, before, widened(source, fault.span), (fault,))
    return None


def marked(source: Source, faults: Sequence[Violation]) -> list[tuple[Mark, Violation]]:
    """Each fault with what it is known by."""
    made, seen = list[tuple[Mark, Violation]](), Counter[tuple[Key, bytes]]()
    for fault in faults:
        row = source.row(source.line(fault.span.start))
        alike = key_of(fault), source.data[row.start : row.end].strip()
        made.append(((*alike, seen[alike]), fault))
        seen[alike] += 1
    return made


def followed(named: Sequence[Violation], found: Patched, faults: Sequence[Violation]) -> tuple[Violation, ...]:
    """Those that are left of the named faults after an accepted patch, as they are then: moved with the text around
    them, or, where that was replaced, the next in the new text that says the same."""
    assert found.chosen is not None
    place, by = found.chosen.span, len(found.data) - len(found.before.data)
    new = ByteSpan(place.start, place.end + by)
    known = {(key_of(fault), fault.span.start): fault for fault in faults}
    inside = [fault for fault in faults if touches(fault.span, new)]
    left = list[Violation | None]()
    for fault in named:
        if fault in found.targets:
            continue
        if fault.span.start >= place.end or fault.span.end <= place.start:
            start = fault.span.start + by * (fault.span.start >= place.end)
            left.append(known.get((key_of(fault), start)))
        else:
            alike = (one for one in inside if key_of(one) == key_of(fault) and one not in left)
            left.append(next(alike, None))
    return tuple(dict.fromkeys(fault for fault in left if fault is not None))
