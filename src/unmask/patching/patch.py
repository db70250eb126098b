"""The surgical patch: mask a part of a file, fill it, judge each filling in a copy, keep the first that may stand.

Nothing here knows a model: who fills a gap is a callable (`Fills`), who judges a text an `Oracle`. The part grows level
by level (`tree.grown`) until something is accepted or the last level is reached.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal, Protocol

from unmask.patching.change import apart, replace_file, unified
from unmask.patching.imports import import_place, imports_of, names_missing
from unmask.patching.judging import Judged, Judgement, compare
from unmask.patching.showing import Shown
from unmask.patching.source import Source
from unmask.patching.tree import grown
from unmask.types import ByteSpan, Oracle, Violation


class VerifierError(RuntimeError):
    """What was to judge the patch could not be run, so that nothing can be accepted."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What a model is to fill. old: what stands there now. count: fillings wanted. choices: if there are any, the
    filling is one of these. context: other files to be seen before the prefix, as far as there is room."""

    prefix: str
    suffix: str
    old: str
    level: str
    count: int
    choices: tuple[str, ...] = ()
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A filling. score: what the model thinks of it, for ranking; None where there was nothing to rank. exact: a hard
    constraint has made it what it is, so not a letter may be taken away."""

    text: str
    score: float | None = None
    exact: bool = False


class Fills(Protocol):
    """Fills a gap: at most `gap.count` candidates, the best first, and how many forwards they took."""

    def __call__(self, gap: Gap) -> tuple[Sequence[Candidate], int]: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate in its place and what came of it. edit: characters taken out and put in."""

    level: str
    span: ByteSpan
    text: str
    score: float | None
    edit: int
    judgement: Judgement
    after: Source


@dataclass(frozen=True, slots=True)
class Patched:
    """The end of a patch.

    status: "accepted"; "rejected": no candidate may stand. trials: all, in order; the last one is the accepted one.
    targets: faults that had to go. chosen: the accepted trial, else the one that came nearest, else None.
    """

    status: Literal["accepted", "rejected"]
    path: str
    before: Source
    targets: tuple[Violation, ...]
    trials: tuple[Trial, ...]
    chosen: Trial | None
    forwards: int
    seconds: float

    @property
    def accepted(self) -> bool:
        return self.status == "accepted"

    @property
    def diff(self) -> str:
        """Unified, of the chosen trial; empty without one."""
        if self.chosen is None:
            return ""
        return unified(self.before.data.decode(), self.chosen.after.data.decode(), self.path)

    @property
    def data(self) -> bytes:
        """The patched file; as it was, where nothing was accepted."""
        return self.chosen.after.data if self.accepted and self.chosen else self.before.data

    def write(self, file: Path, backup: bool = False) -> Path | None:
        """Change the file, whole or not at all. backup: keep the old one beside it, and give its name. ValueError
        without an accepted patch; FileChangedError where the file is no longer the one that was patched."""
        if not self.accepted:
            raise ValueError("no candidate was accepted: there is nothing to write")
        return replace_file(file, self.before.data, self.data, backup)


def patch(
    source: Source,
    span: ByteSpan,
    fills: Fills,
    oracles: Sequence[Oracle],
    *,
    path: str,
    before: Judged,
    targets: Sequence[Violation],
    grow: str | None,
    candidates: int,
    shown: Shown,
) -> Patched:
    """Patch one part of a file.

    oracles: asked in this order, so the quick ones first. before: what they said of the file. targets: faults of these
    that have to go. grow: the largest level that the part may grow to (`tree.LEVELS`); None: it stays. candidates: so
    many at each level. shown: what the model sees beside the file. Raises ValueError for wrong settings.
    """
    if not 1 <= candidates <= 64:
        raise ValueError(f"candidates must be between 1 and 64, got {candidates}")
    begun = time.perf_counter()
    wanted = tuple(targets)
    levels = grown(source, span, grow)
    trials, forwards = list[Trial](), 0
    for gap, place in gaps(source, levels, wanted, candidates, shown):
        found, cost = fills(gap)
        forwards += cost
        for candidate in found[:candidates]:
            if not candidate.exact:
                candidate = replace(candidate, text=shown.unsaid(candidate.text, gap.old))
            trial = tried(source, gap, place, candidate, oracles, before, wanted, path)
            trials.append(trial)
            if trial.judgement.accepted:
                seconds = time.perf_counter() - begun
                return Patched("accepted", path, source, wanted, tuple(trials), trial, forwards, seconds)
    chosen = min(trials, key=distance, default=None)
    return Patched("rejected", path, source, wanted, tuple(trials), chosen, forwards, time.perf_counter() - begun)


def gaps(
    source: Source, levels: Sequence[tuple[str, ByteSpan]], targets: Sequence[Violation], count: int, shown: Shown
) -> list[tuple[Gap, ByteSpan]]:
    """What to fill, one after the other. A name that is missing may be an import that is missing: where there is one
    that leads somewhere, it is tried before another name."""
    made = list[tuple[Gap, ByteSpan]]()
    for name in names_missing(targets):
        if choices := tuple(imports_of(name)):
            place = import_place(source)
            made.append((Gap(*source.seen(place), "", "import", count, choices, shown.context), place))
    for level, place in levels:
        around = shown.before(source, place), source.seen(place)[1]
        made.append((Gap(*around, source.inside(place), level, count, context=shown.context), place))
    return made


def tried(
    source: Source,
    gap: Gap,
    place: ByteSpan,
    candidate: Candidate,
    oracles: Sequence[Oracle],
    before: Judged,
    targets: Sequence[Violation],
    path: str,
) -> Trial:
    after = source.spliced(place, candidate.text)
    span = ByteSpan(place.start, place.end + len(after.data) - len(source.data))
    if after == source:
        judgement = Judgement("unchanged", "the same as before", (), tuple(targets), ())
    else:
        judgement = compare(oracles, before, targets, after, span, path)
    return Trial(gap.level, place, candidate.text, candidate.score, edit(gap.old, candidate.text), judgement, after)


def edit(old: str, new: str) -> int:
    """Characters taken out and put in, by the longest pieces that both have."""
    _, old, new = apart(old, new)
    same = sum(block.size for block in SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks())
    return len(old) + len(new) - 2 * same


def distance(trial: Trial) -> tuple[int, int, int]:
    """How far from acceptance: what could be judged comes before what could not, then by faults, then by the edit."""
    judgement = trial.judgement
    order = ("not mended", "new fault", "unknown", "unchanged").index(judgement.reason or "unknown")
    return len(judgement.remaining) + len(judgement.new), order, trial.edit
