"""Tier C: a small backend with SQLAlchemy under some rules, judged by calling it in the sandbox and by its syntax tree.

A task is drawn from its seed alone. What is asserted is the same under all rules: they are about how it is built.
"""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unmask.evaluation.decay.backend_rules import APP, CREATED, RULES, Code
from unmask.evaluation.decay.backends import SHOWN, Backend, draw, operations, render
from unmask.evaluation.decay.tasks import PADDING, Judged
from unmask.sandbox import Limits, run_python

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jade", "koala", "lotus")
APPS, CALLS = 2, 20  # assertions: so many apps, one after the other, and so many calls of each
LIMITS = Limits(seconds=20.0, memory=1 << 30)
FENCE = "\n```"
Call = tuple[str, dict[str, Any], Any]  # method, arguments, what it has to give back


def calls_of(spec: Backend, random: Random) -> list[Call]:
    """CALLS calls on one App. Nothing is added twice and nothing is taken away, so that the rules change none of it;
    what is not found gives None, and may as well fail."""
    (table, _), ((key, kind, number), (label, amount)) = spec.tables, spec.columns
    first, second = dict[str, dict[str, Any]](), list[dict[str, Any]]()
    keys = random.sample(WORDS, len(WORDS))
    labels = [f"{one} {other}" for one in WORDS for other in WORDS]
    random.shuffle(labels)
    found = list[Call]()
    while len(found) < CALLS:
        operation = random.choice(operations(spec)) if first else operations(spec)[0]
        if operation.name == f"add_{table}":
            if keys:
                row: dict[str, Any] = {
                    key: keys.pop(),
                    kind: random.choice(("new", "old")),
                    number: random.randint(1, 99),
                }
                first[row[key]] = dict(row)
                found.append((operation.name, row, dict(row)))
            continue
        value = random.choice(list(first)) if random.random() < 0.8 else "nowhere"
        arguments: dict[str, Any] = {operation.looks: value} if operation.looks else {}
        own = sorted((row for row in second if row[table] == value), key=lambda row: str(row[label]))
        if operation.verb == "add":
            arguments = {label: labels.pop(), amount: random.randint(1, 99), table: value}
        elif operation.verb == "change":
            arguments[number] = random.randint(1, 99)
        expected: Any = None
        if operation.verb == "count":
            expected = len(second)
        elif value in first:
            if operation.verb == "add":
                second.append(arguments)
            elif operation.verb == "change":
                first[value][number] = arguments[number]
            given = {"add": arguments, "list": own, "total": sum(row[amount] for row in own)}
            expected = given.get(operation.verb, first[value])
        found.append((operation.name, dict(arguments), copied(expected)))
    return found


def copied(value: Any) -> Any:
    """As it is now: rows change later."""
    if isinstance(value, list):
        return [dict(row) for row in value]
    return dict(value) if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True)
class BackendTask:
    """shots: examples before the task, other tables under other rules."""

    number: int
    seed: int
    shots: int = 2

    rules = tuple(RULES)
    maskable = frozenset(("mapped", "base", "unique", "relationship", "hints", "audit", "plural"))
    stops = (FENCE,)
    max_tokens = 1280

    @property
    def name(self) -> str:
        return f"C/{self.seed}/{self.number}"

    @property
    def spec(self) -> Backend:
        return draw(Random(f"backend {self.seed} {self.number}"))

    @property
    def scripts(self) -> list[list[Call]]:
        return [calls_of(self.spec, Random(f"calls {self.seed} {self.number} {app}")) for app in range(APPS)]

    def prompt(self, active: Sequence[str], padding: int = 0) -> str:
        parts = list[str]()
        for shot in range(self.shots):
            random = Random(f"example {self.seed} {shot}")
            spec, rules = draw(random, SHOWN), random.sample(self.rules, len(self.rules) // 2)
            parts.append(f"{worded(spec, rules, 0)}{render(spec, rules)}{FENCE}\n\n")
        return "".join(parts) + worded(self.spec, active, padding)

    def answer(self, active: Sequence[str]) -> str:
        return render(self.spec, active)

    def read(self, text: str) -> Code | None:
        """None for what is no Python or has no App."""
        try:
            code = Code(self.spec, ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        return code if APP in code.classes else None

    def kept(self, text: str, active: Sequence[str]) -> dict[str, bool]:
        code = self.read(text.split("```")[0])
        return {rule: code is not None and not any(RULES[rule][1](code)) for rule in active}

    def judge(self, text: str, active: Sequence[str]) -> Judged:
        code = text.split("```")[0]
        passed = held(code, self.scripts) if self.read(code) else 0
        return Judged(passed, APPS * CALLS, self.kept(text, active))

    def grammar(self, active: Sequence[str]) -> dict[str, Any]:
        return {"type": "regex", "pattern": pattern(self.spec, active)}


def worded(spec: Backend, active: Sequence[str], padding: int) -> str:
    """The task in words, up to where the code begins."""
    (table, part), ((key, kind, number), (label, amount)) = spec.tables, spec.columns
    first, second = spec.models
    extra = {
        "count": f"count_{part}() returns how many there are of {second}.",
        "total": f"total_{part}({table}) returns the sum of {amount} over those.",
        "change": f"change_{table}({key}, {number}) sets {number} and returns the dict.",
    }

    def lines() -> Iterator[str]:
        yield "Write a backend in one Python file with SQLAlchemy and SQLite in memory."
        yield f"Model {first} has the columns id, {key} (text), {kind} (text), {number} (number)."
        yield f"Model {second} has the columns id, {label} (text), {amount} (number), {spec.link} (of its {table})."
        yield "Each App() has a database of its own. What is not found is None, unless a rule says more. Its methods:"
        yield f"- add_{table}({key}, {kind}, {number}) returns these as a dict."
        yield f"- get_{table}({key}) returns the same dict."
        yield f"- add_{part}({label}, {amount}, {table}), {table} being its {key}, returns these as a dict."
        yield f"- list_{part}({table}) returns a list of such dicts, ordered by {label}."
        yield f"- {extra[spec.extra]}"
        yield f"First come imports, then Base, {first}, {second}, and App last."
        yield "Rules:"
        yield from (f"- {RULES[rule][0](spec)}" for rule in active)
        yield from (f"- {sentence}" for sentence in PADDING[:padding])
        yield "```python\n"

    return "\n".join(lines())


PROGRAM = """{code}

right = 0
for script in {scripts!r}:
    try:
        app = App()
    except Exception:
        continue
    for name, arguments, value in script:
        try:
            right += bool(getattr(app, name)(**arguments) == value)
        except LookupError:
            right += value is None
        except Exception:
            pass
print()
print({word!r}, right)
"""


def held(code: str, scripts: Sequence[Sequence[Call]]) -> int:
    """How many calls give back what they have to, in the sandbox; 0 for a program that does not come to its end."""
    word = secrets.token_hex(8)
    verdict = run_python(PROGRAM.format(code=code, scripts=scripts, word=word), LIMITS)
    said = re.findall(rf"^{word} (\d+)$", verdict.output, flags=re.MULTILINE)
    return int(said[-1]) if verdict.passed and said else 0


# The mask.

IMPORTS = 8  # lines of them, at most
NAME = r"[A-Za-z_][A-Za-z0-9_.]*( as [A-Za-z_][A-Za-z0-9_]*)?"
STRING = r"(\"[ !#-\[\]-~]*\"|'[ -&(-\[\]-~]*')"  # without backslashes
PLAIN = rf"([A-Za-z0-9_.,:=\[\] -]|{STRING})*"
ONCE = rf"{PLAIN}(\({PLAIN}\){PLAIN})*"
GIVEN = rf"{PLAIN}(\({ONCE}\){PLAIN})*"  # arguments of a call, calls among them
WORD = r"([A-Za-z_][A-Za-z0-9_.]*|\"[A-Za-z0-9_.,\[\]| ]+\"|'[A-Za-z0-9_.,\[\]| ]+')"
INNER = rf"{WORD}(\[{WORD}((, | \| ){WORD})*\])?"
ONE_TYPE = rf"{WORD}(\[{INNER}((, | \| ){INNER})*\])?"
TYPE = rf"{ONE_TYPE}( \| {ONE_TYPE})*"
MAPPED = rf"Mapped\[{TYPE}\]"
HINTED = rf"[A-Za-z0-9_]+: {TYPE}( = [A-Za-z0-9_.'\"-]+)?"
FUNCTION = rf"def [A-Za-z0-9_]+\((self(, {HINTED})*|({HINTED}(, {HINTED})*)?)\) -> {TYPE}:( [ -~]*)?"
NO_FUNCTION = r"d([ -df-~][ -~]*)?|de([ -eg-~][ -~]*)?|def([!-~][ -~]*)?"  # what else begins with its first letter


def pattern(spec: Backend, active: Sequence[str]) -> str:
    """All code blocks in the form asked for, that obey those of the active rules that a mask can enforce: imports, the
    base, the two models with their columns in order and nothing else, and then lines of any kind, App among them."""
    imports = rf"((from {NAME} import {NAME}(, {NAME})*|import {NAME})\n){{1,{IMPORTS}}}"
    base = r"class Base\(DeclarativeBase\):\n    pass\n"
    if "base" not in active:
        base = rf"({base}|Base = declarative_base\(\)\n)"
    gap = r"\n{0,2}"
    parts = [imports, base, *(model(spec, number, active) for number in range(2))]
    lines = f"({gap}{line(active)}\n)*"
    return rf"{''.join(part + gap for part in parts)}{lines}{gap}class {APP}:\n{indented(active)}\n{lines}```"


def model(spec: Backend, number: int, active: Sequence[str]) -> str:
    (table, part), ((key, kind, amount), (label, value)) = spec.tables, spec.columns
    own = f"{spec.tables[number]}s" if "plural" in active else "[a-z_]+"
    unique = f"unique=True(, {GIVEN})?" if "unique" in active else ""
    names = ((key, unique), (kind, ""), (amount, "")) if number == 0 else ((label, ""), (value, ""), (spec.link, ""))
    created = column(CREATED, f"(server_)?default=([A-Za-z]|{STRING}){GIVEN}", active)
    first = (f"{part}s", spec.models[1], table, True), (table, spec.models[0], f"{part}s", False)
    link = related(*first[number])
    return "".join(
        (
            rf"class {spec.models[number]}\(Base\):\n",
            rf'    __tablename__ = "{own}"\n',
            *(column(name, needs, active) for name, needs in (("id", ""), *names)),
            created if "audit" in active else f"({created})?",
            link if "relationship" in active else f"({link})?",
        )
    )


def column(name: str, needs: str, active: Sequence[str]) -> str:
    """needs: what must stand among the arguments."""
    given = rf"\(({GIVEN}, )?{needs}\)" if needs else rf"\({GIVEN}\)"
    if "mapped" in active:
        value = rf" = mapped_column{given}"
        return rf"    {name}: {MAPPED}{value if needs else f'({value})?'}\n"
    value = rf" = (mapped_column|Column){given}"
    bare = "" if needs else rf"|: {MAPPED}"
    return rf"    {name}((: {MAPPED})?{value}{bare})\n"


def related(name: str, model: str, other: str, many: bool) -> str:
    kind = rf'list\["{model}"\]' if many else f'"{model}"'
    mapped = rf": Mapped\[{kind}\] = relationship\("
    return rf'    {name}({mapped}| = relationship\("{model}", )back_populates="{other}"\)\n'


def line(active: Sequence[str]) -> str:
    """A line of the free part, without its end: no code block ends in it."""
    first = rf"([!-_a-ce-~][ -~]*|{NO_FUNCTION}|{FUNCTION})" if "hints" in active else "[!-_a-~][ -~]*"
    return rf"({first}|{indented(active)})"


def indented(active: Sequence[str]) -> str:
    inside = rf"([!-ce-~][ -~]*|{NO_FUNCTION}|{FUNCTION})" if "hints" in active else "[!-~][ -~]*"
    return rf"    [ ]*{inside}"
