"""Tier A: a data model in words under some rules, answered by a program of the little language, judged by running it.

A task is drawn from its seed alone: its model, the calls that a right program answers, the examples before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unmask.evaluation.decay.language import Program, ProgramError, Store, Value, parse, plain
from unmask.evaluation.decay.specs import CALLER, RULES, Spec, draw, name_of, render
from unmask.evaluation.decay.tasks import PADDING, Judged

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jade", "koala", "lotus")
CALLS = 20  # assertions of a task


# Behaviour.


def calls_of(spec: Spec, random: Random) -> list[tuple[str, dict[str, Value], Any]]:
    """CALLS calls of the operations with what each has to give back: a row, a number, None. Nothing is added twice, and
    nothing that refers to nothing, so that the rules change none of it. What is missing may fail or give nothing."""
    rows: dict[str, list[dict[str, Value]]] = {table: [] for table in spec.tables}
    found = list[tuple[str, dict[str, Value], Any]]()
    fresh = list(WORDS)
    random.shuffle(fresh)
    while len(found) < CALLS:
        verb, table, key = spec.operations[len(found)] if len(found) < 1 else random.choice(spec.operations)
        name, own = f"{verb}_{table}", spec.columns[spec.tables.index(table)]
        if verb == "count":
            found.append((name, {}, len(rows[table])))
        elif verb == "add":
            row = made(spec, table, rows, fresh, random)
            if row is None:
                continue
            if random.random() < 0.15:  # without one of its first two columns nothing is added
                left_out = own[random.randrange(2)][0]
                found.append((name, {k: v for k, v in row.items() if k != left_out} | {CALLER: "me"}, None))
                continue
            rows[table].append(row)
            found.append((name, {**row, CALLER: "me"}, None))
        else:
            value = random.choice(rows[table])[key] if rows[table] and random.random() < 0.7 else "nowhere"
            row = next((row for row in rows[table] if row[key] == value), None)
            if row is not None and verb == "drop":
                rows[table].remove(row)
            found.append((name, {key: value}, row if verb == "get" else None))
    return found


def made(
    spec: Spec, table: str, rows: dict[str, list[dict[str, Value]]], fresh: list[str], random: Random
) -> dict[str, Value] | None:
    """A new row; None where there is nothing to refer to, or no word left."""
    row = dict[str, Value]()
    for name, kind in spec.columns[spec.tables.index(table)]:
        if "|" in kind:
            row[name] = random.choice(kind.split("|"))
        elif kind != "text":
            row[name] = random.randint(0, 1) if kind == "flag" else random.randint(1, 99)
        elif table == spec.tables[0]:
            if not fresh:
                return None
            row[name] = fresh.pop()
        elif not rows[spec.tables[0]]:
            return None
        else:
            row[name] = random.choice(rows[spec.tables[0]])[spec.key]
    return row


def held(program: Program, calls: Sequence[tuple[str, dict[str, Value], Any]]) -> int:
    """How many of the calls give back what they have to, one after the other on the same tables."""
    store, right = Store(program), 0
    for name, arguments, expected in calls:
        try:
            right += store.call(name, arguments) == expected
        except ProgramError:
            known = any(plain(name) == plain(function) for function in program.functions)
            right += (
                known and expected is None and name.split("_")[0] in ("get", "drop") and is_missing(store, arguments)
            )
    return right


def is_missing(store: Store, arguments: dict[str, Value]) -> bool:
    """Whether no row of any table has these values: then a call that fails is as right as one that gives nothing."""
    return not any(arguments.items() <= row.items() for rows in store.rows.values() for row in rows)


# The task.


@dataclass(frozen=True, slots=True)
class SpecTask:
    """shots: examples before the task, other specs under other rules."""

    number: int
    seed: int
    shots: int = 2

    rules = tuple(RULES)
    maskable = frozenset(("case", "repo", "nesting", "audit", "types", "error", "version"))
    stops = ("\ndone", "\n```")
    max_tokens = 320

    @property
    def name(self) -> str:
        return f"A/{self.seed}/{self.number}"

    @property
    def spec(self) -> Spec:
        return draw(Random(f"spec {self.seed} {self.number}"), evaluation=True)

    def examples(self) -> str:
        parts = list[str]()
        for shot in range(self.shots):
            random = Random(f"example {self.seed} {shot}")
            spec, rules = draw(random, evaluation=False), random.sample(self.rules, len(self.rules) // 2)
            parts.append(f"{worded(spec, rules, 0)}{render(spec, rules)}\n```\n\n")
        return "".join(parts)

    def prompt(self, active: Sequence[str], padding: int = 0) -> str:
        return self.examples() + worded(self.spec, active, padding)

    def answer(self, active: Sequence[str]) -> str:
        return render(self.spec, active)

    def kept(self, text: str, active: Sequence[str]) -> dict[str, bool]:
        spec = self.spec
        try:
            program = parse(text)
        except ProgramError:
            return dict.fromkeys(active, False)
        return {rule: RULES[rule][1](spec, program) for rule in active}

    def judge(self, text: str, active: Sequence[str]) -> Judged:
        calls = calls_of(self.spec, Random(f"calls {self.seed} {self.number}"))
        try:
            passed = held(parse(text), calls)
        except ProgramError:
            passed = 0
        return Judged(passed, CALLS, self.kept(text, active))

    def grammar(self, active: Sequence[str]) -> dict[str, Any]:
        return {"type": "grammar", "syntax": "lark", "text": grammar(self.spec, active)}


def worded(spec: Spec, active: Sequence[str], padding: int) -> str:
    """The task in words, up to where the program begins."""
    lines = ["Task:", "tables"]
    for table, own in zip(spec.tables, spec.columns, strict=True):
        shown = (f"{name} {'text' if '|' in kind else kind}" for name, kind in own)
        lines.append(f"{table}: {', '.join(shown)}")
    lines.append("operations")
    for verb, table, key in spec.operations:
        names = [column for column, _ in spec.columns[spec.tables.index(table)]]
        given = [*names, CALLER] if verb == "add" else [key] if key else []
        lines.append(f"{verb} {table}{': ' + ', '.join(given) if given else ''}")
    lines.append("rules")
    lines += [f"- {RULES[rule][0](spec)}" for rule in active]
    lines += [f"- {sentence}" for sentence in PADDING[:padding]]
    return "\n".join([*lines, "```", ""])


def grammar(spec: Spec, active: Sequence[str]) -> str:
    """Lark text of all programs in the language that obey those of the active rules that a mask can enforce. The names
    of functions are those of the operations; nothing else of the task is in it."""
    repo = '"repo."' if "repo" in active else '"repo."?'
    fails = '" else fail"' if "error" in active else '" else fail"?'
    version = f'"version {spec.version}" NL' if "version" in active else '("version " /[1-9]/ NL)?'
    types = '"int" | "text" | ENUM' if "types" in active else '"int" | "text" | "flag" | ENUM'
    inner = "statement" if "nesting" in active else "(statement | guard)"
    functions = list[str]()
    for operation in dict.fromkeys(spec.operations):
        names = [name_of(operation, True)] + ([] if "case" in active else [name_of(operation, False)])
        for name in names:
            writes = operation[0] in ("add", "drop")
            log = f'" log {name}" NL' if "audit" in active and writes else '(" log " LOGGED NL)?'
            part = "changing" if writes else "reading"
            functions.append(f'"fn {name}" (" " NAME)* NL {part} {log} "end" NL')
    return f"""
start: {version} table+ function+ "done"
table: "table " NAME NL column+
column: " " NAME " " type (" unique")? (" ref " NAME "." NAME)? NL
type: {types}
function: {" | ".join(functions)}
changing: (INDENT guard | INDENT write)
reading: (INDENT {repo} "count " NAME NL) | (INDENT {repo} "get " NAME " " NAME {fails} NL)
guard: "if" (" " NAME)+ NL INDENT {inner} INDENT "end" NL
statement: write
write: ({repo} "add " NAME (" " NAME)+ NL) | ({repo} "drop " NAME " " NAME {fails} NL)
NAME: /[a-z]{{1,12}}/
LOGGED: /[A-Za-z_]{{1,24}}/
ENUM: /[a-z]{{1,8}}(\\|[a-z]{{1,8}}){{1,3}}/
INDENT: /[ ]{{1,3}}/
NL: "\\n"
"""
