"""From what a user asks to what is patched: the part, the oracles that judge, the faults that have to go.

A fault that a report names is looked for again in the file as it is now: only what can be found before can be seen to
be gone afterwards.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from unmask.patching import reports, select
from unmask.patching.judging import INVALID, Judged, judge, severe
from unmask.patching.oracles.commands import SECONDS, Command
from unmask.patching.oracles.python import NOT_PYTHON, Imports, Names
from unmask.patching.oracles.syntax import Syntax
from unmask.patching.oracles.tools import RULES, Mypy, Ruff
from unmask.patching.patch import Fills, Patched, VerifierError, patch
from unmask.patching.showing import Shown, check_shown, shown_of
from unmask.patching.source import Source
from unmask.types import ByteSpan, Oracle, Violation

OWN = "python"  # our own checks, as a place that diagnostics come from
TOOLS = (OWN, *reports.READERS)
RUN = ("pytest", "traceback")  # what is said of a run, which only another run can answer
MOST = 1000  # entries of a report about one file
SELECTORS = ("lines", "range", "symbol", "marker", "from_diagnostic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Where to patch and what may stand; exactly one of SELECTORS is given.

    lines, range, symbol, marker: see `select`. from_diagnostic: one of TOOLS; report: what it said, None to ask it now;
    code: only its findings with this code.
    verify: commands that have to succeed, in a copy of `root` (None: of nothing but the file), each with so many
        `seconds` of processor time; unconfined: outside of the sandbox.
    grow: see `patch`; None: up to a statement for a diagnostic, and not at all for other selectors. candidates: at each
        level.
    oracles: more of them, commands included, asked after our own and before those of `verify`.
    instruction: what is wanted, shown to the model as comments above the part. context: more files that it sees before
        this one, texts by name. Neither is written.
    """

    lines: str | None = None
    range: str | None = None
    symbol: str | None = None
    marker: str | None = None
    from_diagnostic: str | None = None
    report: str | None = None
    code: str | None = None
    verify: tuple[str, ...] = ()
    root: Path | None = None
    seconds: float = SECONDS
    unconfined: bool = False
    grow: str | None = None
    candidates: int = 4
    oracles: tuple[Oracle, ...] = field(default=())
    instruction: str | None = None
    context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [name for name in SELECTORS if getattr(self, name) is not None]
        if len(given) != 1:
            flags = ", ".join(name.replace("_", "-") for name in given) or "none"
            raise ValueError(
                f"say where to patch, once: by lines, range, symbol, marker or from-diagnostic; got {flags}"
            )
        if self.from_diagnostic is not None and self.from_diagnostic not in TOOLS:
            raise ValueError(f"from-diagnostic must be one of {', '.join(TOOLS)}, got {self.from_diagnostic!r}")
        if self.from_diagnostic is None and (self.report is not None or self.code is not None):
            raise ValueError("a report, and a code to select from it, belong to from-diagnostic")
        check_shown(self.instruction, self.context)


@dataclass(frozen=True, slots=True)
class Task:
    """All that `patch` needs but a model."""

    source: Source
    path: str
    span: ByteSpan
    oracles: tuple[Oracle, ...]
    before: Judged
    targets: tuple[Violation, ...]
    grow: str | None
    candidates: int
    shown: Shown

    def run(self, fills: Fills) -> Patched:
        return patch(
            self.source,
            self.span,
            fills,
            self.oracles,
            path=self.path,
            targets=self.targets,
            before=self.before,
            grow=self.grow,
            candidates=self.candidates,
            shown=self.shown,
        )


def task_of(data: bytes, path: str, asked: Asked) -> Task:
    """Find the part and the faults. path: the file's name, relative to the root that commands run in.

    Raises ValueError for a selector that does not fit the file or a fault that is not there; VerifierError where what
    has to judge cannot be run.
    """
    source, oracles = Source.of(data, path), oracles_of(path, asked)
    return task_on(source, path, asked, oracles, judged(source, path, oracles))


def oracles_of(path: str, asked: Asked) -> tuple[Oracle, ...]:
    """All that judge, in the order in which they are asked. ValueError where nobody could tell that a fault is gone."""
    made = tuple(
        Command(command, path, asked.root, seconds=asked.seconds, confined=not asked.unconfined)
        for command in asked.verify
    )
    oracles = (*own_oracles(path, asked.root), *tool_oracles(asked), *asked.oracles, *made)
    if asked.from_diagnostic in RUN and not commands(oracles):
        raise ValueError(
            f"from-diagnostic {asked.from_diagnostic} needs verify: only a run can tell that the fault is gone"
        )
    return oracles


def commands(oracles: Sequence[Oracle]) -> set[str]:
    return {oracle.name for oracle in oracles if isinstance(oracle, Command)}


def judged(source: Source, path: str, oracles: Sequence[Oracle]) -> Judged:
    """What is wrong with a file before anything is changed. VerifierError where an oracle beside our own cannot say."""
    before = judge(oracles, source, ByteSpan(source.first, len(source.data)), path)
    own = {oracle.name for oracle in own_oracles(path, None)}
    for said in before.said:  # of a file that does not parse yet, little can be known
        if said.verdict.status == "unknown" and said.oracle not in own and said.verdict != NOT_PYTHON:
            raise VerifierError(said.verdict.detail)
    return before


def task_on(source: Source, path: str, asked: Asked, oracles: tuple[Oracle, ...], before: Judged) -> Task:
    """`task_of`, of a file that was judged."""
    tool = asked.from_diagnostic
    failing = tuple(fault for fault in before.faults if fault.source in commands(oracles))
    invalid = tuple(fault for fault in before.faults if fault.code == INVALID)
    if tool is None:
        span = selected(source, asked)
        named = severe(before, span)
    elif tool in RUN:
        span = reported(source, path, asked)
        named = severe(before, span)
        if not failing:
            raise ValueError(
                f"the fault is not there: {' and '.join(sorted(commands(oracles)))} succeeds on {path} as it is"
            )
    else:
        found = findings(source, path, asked, before)
        if not found:
            raise not_there(path, asked, before)
        span, named = widened(source, found[0].span), (found[0],)
    targets = tuple(dict.fromkeys((*named, *invalid, *failing)))
    return aimed(source, path, asked, oracles, before, span, targets)


def aimed(
    source: Source,
    path: str,
    asked: Asked,
    oracles: tuple[Oracle, ...],
    before: Judged,
    span: ByteSpan,
    targets: tuple[Violation, ...],
) -> Task:
    grow = asked.grow or ("stmt" if asked.from_diagnostic is not None else None)
    shown = shown_of(path, asked.instruction, asked.context)
    return Task(source, path, span, oracles, before, targets, grow, asked.candidates, shown)


def own_oracles(path: str, root: Path | None) -> tuple[Oracle, ...]:
    """Those that cost next to nothing, of Python files."""
    if PurePath(path).suffix not in (".py", ".pyi"):
        return ()
    return Syntax(), Names(), Imports(modules_in(root, path))


def modules_in(root: Path | None, path: str) -> frozenset[str]:
    """Top names that are importable because of where a file lies: what is beside it and beside its packages."""
    if root is None:
        return frozenset()
    folders = [root, root / "src", *(root / part for part in PurePath(path).parents)]
    found = {item for folder in folders if folder.is_dir() for item in folder.iterdir()}
    return frozenset(item.stem for item in found if item.suffix in (".py", ".pyi") or item.is_dir())


def tool_oracles(asked: Asked) -> tuple[Oracle, ...]:
    if asked.from_diagnostic == "ruff":
        code = () if asked.code is None else (asked.code,)
        told = () if asked.report is None else tuple(one.code for one in reports.ruff(asked.report))
        codes = tuple(one for one in dict.fromkeys((*code, *told)) if one[:1].isupper())  # not "invalid-syntax"
        return (Ruff((*RULES, *codes)),)
    return (Mypy(asked.root),) if asked.from_diagnostic == "mypy" else ()


def selected(source: Source, asked: Asked) -> ByteSpan:
    ways: dict[str, Any] = {
        "lines": select.lines,
        "range": select.ranged,
        "symbol": select.symbol,
        "marker": select.marker,
    }
    name = next(name for name in ways if getattr(asked, name) is not None)
    span: ByteSpan = ways[name](source, getattr(asked, name))
    return span


def reported(source: Source, path: str, asked: Asked) -> ByteSpan:
    """The part that the report of a run points to."""
    assert asked.from_diagnostic is not None
    if asked.report is None:
        raise ValueError(f"from-diagnostic {asked.from_diagnostic} needs its report")
    return reports.place(source, reports.about(reports.read(asked.from_diagnostic, asked.report), path, asked.code)[0])


def findings(source: Source, path: str, asked: Asked, before: Judged) -> list[Violation]:
    """What a tool that can be asked finds in the file, the first to mend first: in the order of the report if there is
    one, else of the file, and what is graver first."""
    tool, mine = asked.from_diagnostic, said_by(path, asked, before)
    if asked.report is None:
        chosen = [fault for fault in mine if asked.code is None or fault.code == asked.code]
        return sorted(dict.fromkeys(chosen), key=lambda fault: (-fault.severity, fault.span.start))
    if tool is None or tool == OWN:
        raise ValueError(f"from-diagnostic {OWN} asks our own checks, and takes no report")
    told = list(dict.fromkeys(reports.about(reports.read(tool, asked.report), path, asked.code)))
    if len(told) > MOST:
        raise ValueError(f"the report has {len(told)} entries about {path}, more than the {MOST} that are looked for")
    return again(source, mine, told)


def said_by(path: str, asked: Asked, before: Judged) -> list[Violation]:
    tool, own = asked.from_diagnostic, {oracle.name for oracle in own_oracles(path, None)}
    return [fault for fault in before.faults if (fault.source in own if tool == OWN else fault.source == tool)]


def not_there(path: str, asked: Asked, before: Judged) -> ValueError:
    codes = ", ".join(dict.fromkeys(fault.code for fault in said_by(path, asked, before))) or "nothing"
    return ValueError(f"the fault is not there: {asked.from_diagnostic} finds {codes} in {path}")


def again(source: Source, faults: Sequence[Violation], told: Sequence[reports.Report]) -> list[Violation]:
    """The fault that each entry of a report means, where there is one: of those that say the same the nearest to it
    that no entry before it means."""
    alike = defaultdict[tuple[str, str], list[Violation]](list)
    for fault in sorted(faults, key=start_of):
        alike[fault.code, fault.message].append(fault)
    found = list[Violation]()
    for one in told:
        if same := alike[one.code, one.message]:
            where = source.near(one.line, one.column or 1)
            at = bisect_left(same, where, key=start_of)
            if at == len(same) or (at > 0 and where - start_of(same[at - 1]) <= start_of(same[at]) - where):
                at -= 1
            found.append(same.pop(at))
    return found


def start_of(fault: Violation) -> int:
    return fault.span.start


def widened(source: Source, span: ByteSpan) -> ByteSpan:
    """A place becomes the line that it is in: there is nothing to mask in a place."""
    return span if span.end > span.start else source.row(source.line(span.start))
