"""Suite `patch`: faults put into sound functions, and what it takes to mend them.

Every fault is mended in three ways, with the same number of candidates and the same judges (valid Python, nothing new
that pyflakes finds, and the function's own tests in the sandbox): by a patch of the faulty line, or of what a
diagnostic points to; by AR from that line to the end; by AR anew from the function's signature. The functions are those
of HumanEval (arXiv 2107.03374); models of SQLAlchemy are the suite's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from unmask.evaluation.benchmarks import Task, human_eval
from unmask.evaluation.bootstrap import LEVEL, summary
from unmask.evaluation.mutations import KINDS, Mutation, models, mutations
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.stops import HUMAN_EVAL_STOPS
from unmask.evaluation.suite import Job, Suite
from unmask.lm import LM
from unmask.lm.patching import VARIETY, fills_of
from unmask.patching import Asked, Candidate, Gap, Patched, task_of
from unmask.patching.oracles.orm import SqlAlchemy
from unmask.patching.patch import edit
from unmask.patching.source import Source
from unmask.patching.task import Task as Patch
from unmask.sandbox import Limits, run_python
from unmask.types import ByteSpan, Oracle, Verdict, View, Violation

WAYS = ("patch", "to the end", "anew")
PATH = "solution.py"
TRIES = 4  # faults of one kind that are put into a function until one of them matters
CONTINUED = 256  # tokens that AR may write, unless told


@dataclass(frozen=True, slots=True)
class Settings:
    """limit: so many faults of each kind. candidates: for each way. max_tokens: most of one. seconds, memory: what a
    function's test may use, of processor time and in MiB."""

    limit: int = 10
    candidates: int = 4
    max_tokens: int | None = None
    seconds: float = 5.0
    memory: int = 512

    def __post_init__(self) -> None:
        for name in ("limit", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def limits(self) -> Limits:
        return Limits(seconds=self.seconds, memory=self.memory << 20)


@dataclass(frozen=True, slots=True)
class Passes:
    """An oracle: the function's own test."""

    test: str
    limits: Limits
    name: str = "tests"
    partial: bool = False

    def check(self, view: View) -> Verdict:
        done = run_python(f"{view.text}\n{self.test}", self.limits)
        if done.passed:
            return Verdict("satisfied")
        fault = Violation("the tests fail", ByteSpan(0, len(view.text.encode())), done.status, self.name)
        return Verdict("violated", done.detail, (fault,))


@dataclass(frozen=True, slots=True)
class Case:
    """One fault. source: the sound text; judge: who knows whether a text is sound; start: where its body begins."""

    name: str
    source: Source
    mutation: Mutation
    judge: Oracle
    start: int

    @property
    def faulty(self) -> Source:
        return self.mutation.applied(self.source)

    @property
    def smallest(self) -> int:
        """Characters of the edit that undoes it."""
        span = self.mutation.span
        return edit(self.mutation.new, self.source.data[span.start : span.end].decode())


@dataclass(frozen=True, slots=True)
class Continues:
    """Fillings that never look at what follows: AR from the gap's beginning."""

    lm: LM
    max_tokens: int

    def __call__(self, gap: Gap) -> tuple[Sequence[Candidate], int]:
        prompt = gap.prefix.rstrip("\n")
        made = list[str]()
        forwards = 0
        for number in range(gap.count):
            how = {"temperature": 0.0 if number == 0 else VARIETY, "seed": number, "max_tokens": self.max_tokens}
            done = self.lm.generate(prompt, mode="ar", stop=HUMAN_EVAL_STOPS, **how)
            forwards += done.stats.nfe + done.stats.prefills
            text = prompt + done.text
            made.append(text[len(gap.prefix) :] if text.startswith(gap.prefix) else "")
        return [Candidate(text) for text in dict.fromkeys(made)], forwards


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. Raises ConnectionError where HumanEval cannot be had."""
    return run_on(job, human_eval())


def run_on(job: Job, tasks: Sequence[Task]) -> dict[str, Any]:
    """`run`, on given functions."""
    lm, settings = job.lm, job.settings
    layouts, model = lm.filler.layouts, model_of(lm, job.adapter)
    how = {"layout": layouts[0] if layouts else "prefix", "options": dict(job.options)}
    kept = {name: value for name, value in asdict(settings).items() if name != "limit"}
    about = {"suite": "patch", **model, "how": how, "settings": kept, "traits": asdict(lm.traits)}
    rows = Rows(job.rows, about)
    done = list[Row]()
    for kind in KINDS:
        done += mended(job, kind, tasks, rows, len(done))
    found: dict[str, Any] = {"suite": "patch", **model, **circumstances(lm), "how": how, "settings": asdict(settings)}
    return found | {"interval": LEVEL, "faults": len(done), "results": results(done)}


def mended(job: Job, kind: str, tasks: Sequence[Task], rows: Rows, before: int) -> list[Row]:
    """The first `limit` faults of one kind that matter to the tests, each mended in every way."""
    found, total = list[Row](), job.settings.limit * len(KINDS)
    for name, texts in sources(kind, tasks, job.settings):
        if len(found) == job.settings.limit:
            break
        key = f"{kind}/{name}"
        row = rows.get(key)
        if row is None:
            job.progress(f"{kind}: {name}", before + len(found), total)
            case = case_of(kind, name, *texts)
            row = rows.add(key, {"kind": kind, "no": "fault that matters"} if case is None else measured(job, case))
        if "no" not in row:
            found.append(row)
    return found


def sources(kind: str, tasks: Sequence[Task], settings: Settings) -> Iterator[tuple[str, tuple[str, int, Oracle]]]:
    """(name, (text, where the body begins, who judges it)) of what such a fault may be put into, in a fixed order."""
    if kind == "column":
        for name, text in models():
            yield name, (text, text.index("class Base"), SqlAlchemy())
        return
    for number in np.random.default_rng(KINDS.index(kind)).permutation(len(tasks)).tolist():
        task = tasks[number]
        judge = Passes(f"{task.test}\ncheck({task.entry_point})\n", settings.limits())
        yield task.name, (task.prompt + task.solution, len(task.prompt.encode()), judge)


def case_of(kind: str, name: str, text: str, start: int, judge: Oracle) -> Case | None:
    """A fault that the judge sees, in a text that it finds sound; None where there is none among the first few."""
    source = Source(text.encode())
    for mutation in mutations(source, kind)[:TRIES]:
        case = Case(name, source, mutation, judge, start)
        if judge.check(View.of(case.faulty.text)).status == "violated":
            return case if judge.check(View.of(text)).status == "satisfied" else None
    return None


def measured(job: Job, case: Case) -> Row:
    row: Row = {"kind": case.mutation.kind, "smallest": case.smallest}
    for way in WAYS:
        row[way] = numbers(case, mend(job, case, way), job.settings.candidates)
    return row


def mend(job: Job, case: Case, way: str) -> Patched:
    settings, task = job.settings, task_for(case, job.settings.candidates)
    if way == "patch":
        options = {**job.options, **({} if settings.max_tokens is None else {"max_tokens": settings.max_tokens})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it is untrained is in the results
            fills = fills_of(job.lm, options, untrained=True)
        return task.run(fills)
    source = task.source
    start = source.row(source.line(task.span.start)).start
    if way == "anew":
        shift = len(source.data) - len(case.source.data) if case.mutation.span.start < case.start else 0
        start = case.start + shift
    tests = tuple(fault for fault in task.targets if fault.source == case.judge.name)
    rest = replace(task, span=ByteSpan(start, len(source.data)), targets=tests)
    return rest.run(Continues(job.lm, settings.max_tokens or CONTINUED))


def task_for(case: Case, candidates: int) -> Patch:
    """What is known of a fault: of a missing import its diagnostic, else the line. The judge has to be content."""
    where: dict[str, Any] = {"lines": str(case.mutation.line(case.source))}
    if case.mutation.kind == "import":
        where = {"from_diagnostic": "python", "code": "undefined-name"}
    task = task_of(case.faulty.data, PATH, Asked(**where, oracles=(case.judge,), candidates=candidates))
    failing = (fault for fault in task.before.faults if fault.source == case.judge.name)
    return replace(task, targets=tuple(dict.fromkeys((*task.targets, *failing))), grow=None)


def numbers(case: Case, found: Patched, candidates: int) -> Row:
    """fixed: by one of the first `candidates`; first: by the first one. edit: characters of the accepted change. new:
    whether the first candidate brought a fault that a reader would see without running it."""
    first = found.trials[0] if found.trials else None
    fixed = found.accepted and len(found.trials) <= candidates  # an import and another name are two levels
    seen = [fault for fault in first.judgement.new if fault.source != case.judge.name] if first else []
    row: Row = {"fixed": fixed, "first": bool(first and first.judgement.accepted), "new": bool(seen)}
    row |= {"tries": len(found.trials), "forwards": found.forwards, "seconds": found.seconds}
    if fixed and found.chosen is not None:
        row["edit"] = edit(found.before.text, found.data.decode())
        row["text"] = found.chosen.text
    return row


def results(rows: Sequence[Row]) -> dict[str, Any]:
    """Per way, over all kinds and for each: shares with intervals over faults, the edit over the smallest one."""
    found = dict[str, Any]()
    for kind in ("all", *KINDS):
        chosen = [row for row in rows if kind in ("all", row["kind"])]
        if chosen:
            found[kind] = {way: of_way(chosen, way) for way in WAYS}
    return found


def of_way(rows: Sequence[Row], way: str) -> dict[str, Any]:
    own = [row[way] for row in rows]
    found: dict[str, Any] = {
        name: summary([(float(row[name]), 1.0) for row in own]) for name in ("fixed", "first", "new", "forwards")
    }
    edits = [(float(row[way]["edit"]), float(row["smallest"])) for row in rows if row[way]["fixed"]]
    return found | ({"edit": summary(edits)} if edits else {})


COLUMNS = {
    "fixed": "fixed",
    "first": "by the first",
    "new": "new faults",
    "edit": "edit / smallest",
    "forwards": "forwards",
}


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `run` found."""
    for kind, ways in found["results"].items():
        count = ways[WAYS[0]]["fixed"]["samples"]
        table = Table(title=f"{found['model']}: {kind}, {count} faults", title_justify="left")
        for heading in ("", *COLUMNS.values()):
            table.add_column(heading, justify="right" if heading else "left")
        for way, measures in ways.items():
            table.add_row(way, *(cell(measures.get(name), name) for name in COLUMNS))
        if kind == "all":
            table.caption = f"per cent, with {100 * LEVEL:.0f} % intervals over faults"
        yield table


def cell(number: dict[str, Any] | None, name: str) -> str:
    if number is None:
        return "-"
    share = name in ("fixed", "first", "new")
    value, low, high = ((100 if share else 1) * number[key] for key in ("value", "low", "high"))
    shown = f"{value:.1f}"
    return shown if math.isclose(low, high) else f"{shown} ({low:.1f} to {high:.1f})"


SUITE = Suite(Settings, run, tables, decodes=True)
