"""Where a text breaks rules, line by line, for the oracle that has them mended; the judge alone decides at the end.

A text that goes on is looked at up to its last whole line. A whole one that cannot be read obeys no rule, and is blamed
where reading stops.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unmask.evaluation.decay.backend_rules import APP, Code
from unmask.evaluation.decay.backend_rules import RULES as BACKEND_RULES
from unmask.evaluation.decay.backend_tasks import BackendTask
from unmask.evaluation.decay.backends import Backend
from unmask.evaluation.decay.function_tasks import RULES as FUNCTION_RULES
from unmask.evaluation.decay.function_tasks import FunctionTask
from unmask.evaluation.decay.functions import Asked
from unmask.evaluation.decay.language import ProgramError, parse
from unmask.evaluation.decay.spec_tasks import SpecTask
from unmask.evaluation.decay.specs import Spec
from unmask.evaluation.decay.tasks import Task
from unmask.types import ByteSpan, Verdict, View, Violation

UNREADABLE = "unreadable"


class Fault(NamedTuple):
    """rule: that is broken by the characters from start to end; start == end: something is missing there."""

    rule: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RulesOracle:
    """The active rules of a task as an oracle (`types.Oracle`). It has no part in the assertions."""

    task: Task
    active: tuple[str, ...]
    name: str = "rules"
    partial: bool = True

    def check(self, view: View) -> Verdict:
        written = view.text.encode()[slice(*view.written)].decode("utf-8", "replace")
        active = (*self.active, UNREADABLE)
        faults = [fault for fault in faults_of(self.task, written, view.complete) if fault.rule in active]
        if not faults:
            return Verdict("satisfied")
        first = view.written.start

        def span(fault: Fault) -> ByteSpan:
            start, end = (first + len(written[:place].encode()) for place in (fault.start, fault.end))
            return ByteSpan(start, end)

        found = tuple(Violation(f"breaks the rule {one.rule}", span(one), one.rule, self.name) for one in faults)
        return Verdict("violated", found[0].message, found)


def faults_of(task: Task, text: str, complete: bool) -> list[Fault]:
    """All faults, whatever rules are active."""
    seen = text if complete else whole_lines(text)
    if isinstance(task, SpecTask):
        return [*of_program(task.spec, seen), *(unreadable(text) if complete else ())]
    if isinstance(task, BackendTask):
        return list(of_backend(task.spec, seen, complete))
    assert isinstance(task, FunctionTask)
    return list(of_function(task.asked, seen, complete))


def whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def lines_of(text: str) -> list[tuple[int, str]]:
    """(where it starts, line) of each."""
    found, start = list[tuple[int, str]](), 0
    for line in text.split("\n"):
        found.append((start, line))
        start += len(line) + 1
    return found if text and not text.endswith("\n") else found[:-1]


# Tier a.


def unreadable(text: str) -> Iterator[Fault]:
    try:
        parse(text)
    except ProgramError as error:
        yield Fault(UNREADABLE, *shown(lines_of(text), error.line))


def shown(lines: Sequence[tuple[int, str]], number: int) -> tuple[int, int]:
    """Where the words of a line are; of the last one for numbers beyond it."""
    if not lines:
        return 0, 0
    start, line = lines[min(max(number, 0), len(lines) - 1)]
    return start + len(line) - len(line.lstrip()), start + len(line)


@dataclass(slots=True)
class Open:
    """The function that is being read. at: its first line. last: words of the last statement in it."""

    at: tuple[int, int]
    name: str
    parameters: list[str]
    last: list[str]
    used: set[str]
    writes: bool = False
    depth: int = 0


def of_program(spec: Spec, text: str) -> Iterator[Fault]:
    table, column, function = "", "", None
    for number, (start, line) in enumerate(lines_of(text)):
        words, here = line.split(), (start + len(line) - len(line.lstrip()), start + len(line))
        if number == 0 and words != ["version", str(spec.version)]:
            yield Fault("version", *here)
        if not words:
            continue
        if line[0] != " ":
            if function is not None and words == ["end"]:
                yield from of_end(function, here)
            table, column, function = words[1] if words[0] == "table" and words[1:] else "", "", None
            if words[0] == "fn" and words[1:]:
                function = Open(here, words[1], words[2:], [], set())
                if "_" in words[1] or words[1] == words[1].lower():
                    yield Fault("case", start + line.find(words[1]), start + line.find(words[1]) + len(words[1]))
        elif table:
            yield from (Fault(rule, *here) for rule in of_column(spec, table, words, column))
            column = words[0]
        elif function is not None:
            yield from of_statement(function, words, here)


def of_column(spec: Spec, table: str, words: Sequence[str], before: str) -> Iterator[str]:
    """Rules that a column of a table breaks. before: the column ahead of it."""
    kind = words[1] if words[1:] else ""
    if words[0] < before:
        yield "order"
    if kind == "flag":
        yield "types"
    if (table, words[0]) == (spec.tables[0], spec.key) and "unique" not in words:
        yield "unique"
    if (table, words[0]) == (spec.tables[0], spec.enum[0]) and kind != "|".join(spec.enum[1]):
        yield "enum"
    if (table, words[0]) == (spec.tables[1], spec.tables[0]) and f"{spec.tables[0]}.{spec.key}" not in words:
        yield "reference"


def of_statement(function: Open, words: Sequence[str], here: tuple[int, int]) -> Iterator[Fault]:
    word, verb = words[0], words[0].removeprefix("repo.")
    function.used.update(words[1:])
    if word == "end":
        function.depth -= 1
        return
    function.last = list(words)
    if word == "if":
        function.depth += 1
        if function.depth > 1:
            yield Fault("nesting", *here)
    elif word != "log":
        function.writes = function.writes or verb in ("add", "drop")
        if verb == word:
            yield Fault("repo", here[0], here[0] + len(word))
        if verb in ("get", "drop") and list(words[-2:]) != ["else", "fail"]:
            yield Fault("error", *here)


def of_end(function: Open, here: tuple[int, int]) -> Iterator[Fault]:
    """Rules that a whole function breaks."""
    if function.writes and function.last != ["log", function.name]:
        yield Fault("audit", *here)
    if set(function.parameters) - function.used:
        yield Fault("unused", *function.at)


# Tier b.


def of_function(asked: Asked, text: str, complete: bool) -> Iterator[Fault]:
    code = text.split("```")[0]
    lines, more = lines_of(code), "" if complete else filled(code)
    module = read(code + more, lines)
    if isinstance(module, Fault):
        if complete:
            yield module
        return
    node = next((one for one in module.body if isinstance(one, ast.FunctionDef) and one.name == asked.name), None)
    if node is None:
        return
    broken = {rule for rule, (_, obeys) in FUNCTION_RULES.items() if not obeys(asked, node, module)}
    if not complete:  # what is missing may still come, and what has come stays wrong
        broken &= {"hints", "tame", "snake", "lines", "module"} | ({"docstring"} if not more else set())
    returns = [one.lineno for one in ast.walk(node) if isinstance(one, ast.Return)] or [node.end_lineno or node.lineno]
    stored = [one for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
    odd = [one.lineno for one in stored if one.id != one.id.lower()]
    places = {
        "hints": [node.lineno],
        "docstring": [node.body[0].lineno],
        "helper": returns[-1:],
        "tame": [node.body[-1].lineno],
        "error": [node.body[0].lineno],
        "snake": odd,
        "lines": [node.end_lineno or node.lineno],
        "module": [1],
        "result": returns,
        "single": returns[1:] or returns,
    }
    yield from (
        Fault(rule, *shown(lines, number - 1)) for rule in FUNCTION_RULES if rule in broken for number in places[rule]
    )


def filled(code: str) -> str:
    """What lets a text be read whose last line so far opens a block."""
    opened = code.rstrip().rpartition("\n")[2] if code.rstrip().endswith(":") else ""
    return f"{' ' * (len(opened) - len(opened.lstrip()) + 4)}pass\n" if opened else ""


def read(code: str, lines: Sequence[tuple[int, str]]) -> ast.Module | Fault:
    """The syntax tree, or where reading stops."""
    try:
        return ast.parse(code)
    except SyntaxError as error:
        return Fault(UNREADABLE, *shown(lines, (error.lineno or 1) - 1))
    except (ValueError, RecursionError, MemoryError):
        return Fault(UNREADABLE, *shown(lines, 0))


# Tier c.


def of_backend(spec: Backend, text: str, complete: bool) -> Iterator[Fault]:
    code = text.split("```")[0]
    lines = lines_of(code)
    module = read(code if complete else code + filled(code), lines)
    if isinstance(module, Fault):
        if complete:
            yield module
        return
    backend = Code(spec, module, complete)
    if complete and APP not in backend.classes:
        yield Fault(UNREADABLE, *shown(lines, len(lines)))
    for rule, (_, breaking) in BACKEND_RULES.items():
        yield from (Fault(rule, *shown(lines, number - 1)) for number in dict.fromkeys(breaking(backend)))
