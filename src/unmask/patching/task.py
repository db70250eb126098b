"""From what a user asks to what is patched: the part, the oracles that judge, the faults that have to go.

A fault that a report names is looked for again in the file as it is now: only what can be found before can be seen to
be gone afterwards.
"""

from __future__ import annotations

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
from unmask.patching.source import Source
from unmask.types import ByteSpan, Oracle, Violation

OWN = "python"  # our own checks, as a place that diagnostics come from
TOOLS = (OWN, *reports.READERS)
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
        )


def task_of(data: bytes, path: str, asked: Asked) -> Task:
    """Find the part and the faults. path: the file's name, relative to the root that commands run in.

    Raises ValueError for a selector that does not fit the file or a fault that is not there; VerifierError where what
    has to judge cannot be run.
    """
    source = Source.of(data, path)
    tool = asked.from_diagnostic
    made = (
        Command(command, path, asked.root, seconds=asked.seconds, confined=not asked.unconfined)
        for command in asked.verify
    )
    oracles = (*own_oracles(path, asked.root), *tool_oracles(asked), *asked.oracles, *made)
    commands = {oracle.name for oracle in oracles if isinstance(oracle, Command)}
    if tool in ("pytest", "traceback") and not commands:
        raise ValueError(f"from-diagnostic {tool} needs verify: only a run can tell that the fault is gone")
    whole = ByteSpan(source.first, len(source.data))
    before = judge(oracles, source, whole, path)
    own = {oracle.name for oracle in own_oracles(path, None)}
    for said in before.said:  # of a file that does not parse yet, little can be known
        if said.verdict.status == "unknown" and said.oracle not in own and said.verdict != NOT_PYTHON:
            raise VerifierError(said.verdict.detail)
    failing = tuple(fault for fault in before.faults if fault.source in commands)
    invalid = tuple(fault for fault in before.faults if fault.code == INVALID)
    if tool is None:
        span = selected(source, asked)
        named = severe(before, span)
    else:
        span, named = diagnosed(source, path, asked, before, own)
        if tool in ("pytest", "traceback") and not failing:
            raise ValueError(f"the fault is not there: {' and '.join(sorted(commands))} succeeds on {path} as it is")
    targets = tuple(dict.fromkeys((*named, *invalid, *failing)))
    grow = asked.grow or ("stmt" if tool is not None else None)
    return Task(source, path, span, oracles, before, targets, grow, asked.candidates)


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


def diagnosed(
    source: Source, path: str, asked: Asked, before: Judged, own: set[str]
) -> tuple[ByteSpan, tuple[Violation, ...]]:
    """The part that a diagnostic points to, and the faults that it is about."""
    tool = asked.from_diagnostic
    assert tool is not None
    if tool in ("pytest", "traceback"):
        if asked.report is None:
            raise ValueError(f"from-diagnostic {tool} needs its report")
        span = reports.place(source, reports.about(reports.read(tool, asked.report), path, asked.code))
        return span, severe(before, span)
    mine = [fault for fault in before.faults if (fault.source in own if tool == OWN else fault.source == tool)]
    chosen = [fault for fault in mine if asked.code is None or fault.code == asked.code]
    if asked.report is not None:
        if tool == OWN:
            raise ValueError(f"from-diagnostic {OWN} asks our own checks, and takes no report")
        told = reports.about(reports.read(tool, asked.report), path, asked.code)
        chosen = [fault for fault in mine if (fault.code, fault.message) == (told.code, told.message)]
        chosen.sort(key=lambda fault: abs(source.line(fault.span.start) - told.line))
    if not chosen:
        codes = ", ".join(dict.fromkeys(fault.code for fault in mine)) or "nothing"
        raise ValueError(f"the fault is not there: {tool} finds {codes} in {path}")
    first = max(chosen, key=lambda fault: fault.severity) if asked.report is None else chosen[0]
    return widened(source, first.span), (first,)


def widened(source: Source, span: ByteSpan) -> ByteSpan:
    """A place becomes the line that it is in: there is nothing to mask in a place."""
    return span if span.end > span.start else source.row(source.line(span.start))
