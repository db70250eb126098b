"""What oracles say of a file before and after a change, and whether the change may stand.

It may if what was to be mended is gone, the file is valid, and no oracle finds anything that it had not found before.
Faults are told apart by what they say, not by where they are: lines move.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unmask.patching.source import Source, touches
from unmask.types import ByteSpan, Oracle, Verdict, View, Violation

INVALID = "invalid-syntax"
SEVERE = 1.0  # from here on a fault in a part that is to be patched is a reason to patch it
Key = tuple[str, str, str]
Reason = Literal["", "unchanged", "not mended", "new fault", "unknown"]


def key_of(fault: Violation) -> Key:
    return fault.source, fault.code, re.sub(r"\bline \d+", "line", fault.message)


@dataclass(frozen=True, slots=True)
class Written:
    """An oracle about the new text alone: nothing that stood there before excuses what it finds."""

    oracle: Oracle

    @property
    def name(self) -> str:
        return self.oracle.name

    @property
    def partial(self) -> bool:
        return self.oracle.partial

    def check(self, view: View) -> Verdict:
        said = self.oracle.check(view)
        here = tuple(fault for fault in said.violations if touches(fault.span, view.written))
        return Verdict("satisfied") if said.violations and not here else said._replace(violations=here)


@dataclass(frozen=True, slots=True)
class Said:
    """The verdict of one oracle; spans are bytes of the file."""

    oracle: str
    verdict: Verdict

    @property
    def keys(self) -> Counter[Key]:
        return Counter(key_of(fault) for fault in self.verdict.violations)


@dataclass(frozen=True, slots=True)
class Judged:
    """What each of the oracles said of a file, in their order."""

    said: tuple[Said, ...]

    @property
    def faults(self) -> tuple[Violation, ...]:
        return tuple(fault for one in self.said for fault in one.verdict.violations)


def ask(oracle: Oracle, source: Source, span: ByteSpan, path: str | None) -> Said:
    """One verdict. An oracle that fails is "unknown"."""
    shift = source.first  # an oracle sees no byte order mark
    try:
        said = oracle.check(View(source.text, ByteSpan(span.start - shift, span.end - shift), path=path))
    except Exception as error:
        said = Verdict("unknown", f"{oracle.name} failed: {type(error).__name__}: {error}")
    return Said(oracle.name, said._replace(violations=tuple(fault.moved(shift) for fault in said.violations)))


def judge(oracles: Sequence[Oracle], source: Source, span: ByteSpan, path: str | None) -> Judged:
    """Of a file as it is; what is about new text has nothing to say of it."""
    silent = Verdict("satisfied")
    return Judged(
        tuple(
            Said(oracle.name, silent) if isinstance(oracle, Written) else ask(oracle, source, span, path)
            for oracle in oracles
        )
    )


def severe(judged: Judged, span: ByteSpan) -> tuple[Violation, ...]:
    """Faults in a part that are reason enough to patch it."""
    return tuple(one for one in judged.faults if one.severity >= SEVERE and touches(one.span, span))


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a change may stand; if not, why (reason, and detail in words). mended: of the targets. new: faults that
    were not there before."""

    reason: Reason
    detail: str
    mended: tuple[Violation, ...]
    remaining: tuple[Violation, ...]
    new: tuple[Violation, ...]

    @property
    def accepted(self) -> bool:
        return not self.reason


def compare(
    oracles: Sequence[Oracle],
    before: Judged,
    targets: Sequence[Violation],
    after: Source,
    span: ByteSpan,
    path: str | None,
) -> Judgement:
    """Ask the oracles, in their order, of a changed file, up to the first that speaks against it.

    span: of the new text. targets: faults of `before` that have to go.
    """
    mended, remaining = list[Violation](), list[Violation]()
    for oracle, old in zip(oracles, before.said, strict=True):
        said, old_keys = ask(oracle, after, span, path), old.keys
        if said.verdict.status == "unknown":
            return Judgement("unknown", said.verdict.detail, tuple(mended), tuple(remaining), ())
        mine = [fault for fault in targets if fault in old.verdict.violations]
        left = list[Violation]()
        for key, wanted in Counter(key_of(fault) for fault in mine).items():
            stay = max(said.keys[key] - (old_keys[key] - wanted), 0)
            left += [fault for fault in mine if key_of(fault) == key][:stay]
        remaining += left
        mended += [fault for fault in mine if fault not in left]
        fresh = list((said.keys - old_keys).elements())
        new = [fault for fault in said.verdict.violations if key_of(fault) in fresh]
        if old.verdict.status == "unknown":  # what was there before is not known: only what is in the new text counts
            new = [fault for fault in new if touches(fault.span, span)]
        new += [f for f in said.verdict.violations if f.code == INVALID and f not in new]
        if left:
            return Judgement("not mended", left[0].message, tuple(mended), tuple(remaining), tuple(new))
        if new:
            return Judgement("new fault", new[0].message, tuple(mended), tuple(remaining), tuple(new))
    return Judgement("", "", tuple(mended), tuple(remaining), ())
