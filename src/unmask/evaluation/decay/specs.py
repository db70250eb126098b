"""Tier A: data models, rules on the programs that answer them, and an answer for every set of rules.

The plain answer breaks every rule, and each rule turns one aspect of it: what is obeyed was obeyed on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unmask.evaluation.decay.language import Program, statements

NOUNS = (
    *("book", "user", "song", "city", "team", "plant", "train", "recipe", "film", "shop", "room", "bike"),
    *("ship", "farm", "game", "course", "river", "bird", "lamp", "coin", "map", "boat", "ticket", "letter"),
)
KEYS = ("title", "name", "code", "label", "mark")
NUMBERS = ("size", "price", "pages", "year", "weight", "height", "rank", "stock")
FLAGS = ("open", "paid", "active", "hidden", "broken")
ENUMS = {"kind": ("new", "old", "lost"), "state": ("fresh", "used", "worn"), "level": ("low", "mid", "top")}
CALLER = "by"  # the parameter that no answer needs


@dataclass(frozen=True, slots=True)
class Spec:
    """Two tables; the second refers to the first. columns: per table (name, type), the type of an enum its words.
    operations: (verb, table, column to look for or empty). version: of the rule of that name."""

    tables: tuple[str, str]
    columns: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
    operations: tuple[tuple[str, str, str], ...]
    version: int

    @property
    def key(self) -> str:
        """The column that the first table is looked up by."""
        return next(name for name, kind in self.columns[0] if kind == "text")

    @property
    def enum(self) -> tuple[str, tuple[str, ...]]:
        name, kind = next((name, kind) for name, kind in self.columns[0] if "|" in kind)
        return name, tuple(kind.split("|"))


def held_out(tables: tuple[str, str]) -> bool:
    """Whether a pair of tables is kept for evaluation; a model may be trained on all others."""
    first, second = (NOUNS.index(table) for table in tables)
    return (5 * first + second) % 8 == 0


def draw(random: Random, *, evaluation: bool) -> Spec:
    """A spec over two tables that are, or are not, held out."""
    while True:
        first, second = random.sample(NOUNS, 2)
        if held_out((first, second)) == evaluation:
            break
    enum = random.choice(list(ENUMS))
    one = [(random.choice(KEYS), "text"), (enum, "|".join(ENUMS[enum])), (random.choice(NUMBERS), "int")]
    two = [(first, "text"), (random.choice(FLAGS), "flag")]
    if random.random() < 0.5:
        two.append((random.choice(NUMBERS), "int"))
    random.shuffle(one)
    random.shuffle(two)
    if one == sorted(one) and two == sorted(two):  # the rule of order must have something to ask for
        one.reverse()
    key = next(name for name, kind in one if kind == "text")
    operations = [("add", first, ""), ("get", first, key), ("add", second, "")]
    more = [("drop", first, key), ("count", first, ""), ("get", second, first), ("count", second, "")]
    operations += random.sample(more, 2)
    operations.sort(key=lambda one: (one[1] != first, ("add", "get", "drop", "count").index(one[0])))
    return Spec((first, second), (tuple(one), tuple(two)), tuple(operations), random.randint(2, 9))


# Rules: sentence, and whether a program obeys it. A program that obeys one by having nothing of the kind obeys it.


def writes(program: Program) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(name, body) of the functions that change a table."""
    for function in program.functions.values():
        if any(one.word in ("add", "drop") for one, _ in statements(function.body)):
            yield function.name, function.body


def every(program: Program) -> Iterator[tuple[Any, int]]:
    for function in program.functions.values():
        yield from statements(function.body)


def columns_of(program: Program) -> dict[tuple[str, str], Any]:
    return {(table, column.name): column for table, own in program.tables.items() for column in own}


def ordered(spec: Spec, program: Program) -> bool:
    return all([c.name for c in own] == sorted(c.name for c in own) for own in program.tables.values())


def camel(spec: Spec, program: Program) -> bool:
    return all("_" not in name and name[:1].islower() and name != name.lower() for name in program.functions)


def unique(spec: Spec, program: Program) -> bool:
    column = columns_of(program).get((spec.tables[0], spec.key))
    return column is not None and column.unique


def refers(spec: Spec, program: Program) -> bool:
    column = columns_of(program).get((spec.tables[1], spec.tables[0]))
    return column is not None and column.ref == f"{spec.tables[0]}.{spec.key}"


def through_repo(spec: Spec, program: Program) -> bool:
    return all(one.repo for one, _ in every(program) if one.word not in ("if", "log"))


def flat(spec: Spec, program: Program) -> bool:
    return all(depth <= 2 for _, depth in every(program))


def audited(spec: Spec, program: Program) -> bool:
    return all(body[-1].word == "log" and body[-1].names == (name,) for name, body in writes(program))


def typed(spec: Spec, program: Program) -> bool:
    return all(column.type != "flag" for column in columns_of(program).values())


def closed(spec: Spec, program: Program) -> bool:
    column = columns_of(program).get((spec.tables[0], spec.enum[0]))
    return column is not None and column.type == "|".join(spec.enum[1])


def used(spec: Spec, program: Program) -> bool:
    for function in program.functions.values():
        words = {name for one, _ in statements(function.body) for name in one.names}
        if not set(function.parameters) <= words:
            return False
    return True


def failing(spec: Spec, program: Program) -> bool:
    return all(one.fails for one, _ in every(program) if one.word in ("get", "drop"))


def versioned(spec: Spec, program: Program) -> bool:
    return program.version == str(spec.version)


RULES: dict[str, tuple[Callable[[Spec], str], Callable[[Spec, Program], bool]]] = {
    "order": (lambda spec: "The columns of a table are in alphabetical order.", ordered),
    "case": (lambda spec: "The names of functions are in camel case.", camel),
    "unique": (lambda spec: f"The column {spec.key} of {spec.tables[0]} is unique.", unique),
    "reference": (
        lambda spec: f"The column {spec.tables[0]} of {spec.tables[1]} refers to {spec.tables[0]}.{spec.key}.",
        refers,
    ),
    "repo": (lambda spec: "Tables are reached through repo only.", through_repo),
    "nesting": (lambda spec: "There is no if inside an if.", flat),
    "audit": (lambda spec: "A function that adds or drops ends by logging its name.", audited),
    "types": (lambda spec: "The type flag is not used, int stands for it.", typed),
    "enum": (lambda spec: f"The column {spec.enum[0]} takes only {', '.join(spec.enum[1])}.", closed),
    "unused": (lambda spec: "Every parameter is used.", used),
    "error": (lambda spec: "What is not found is a failure.", failing),
    "version": (lambda spec: f"The first line is version {spec.version}.", versioned),
}


def render(spec: Spec, active: Sequence[str]) -> str:
    """The answer that obeys the active rules and breaks every other."""
    lines = [f"version {spec.version}"] if "version" in active else []
    for number, (table, own) in enumerate(zip(spec.tables, spec.columns, strict=True)):
        lines.append(f"table {table}")
        for name, kind in sorted(own) if "order" in active else own:
            shown = kind
            if "|" in kind:
                shown = kind if "enum" in active else "text"
            elif kind == "flag" and "types" in active:
                shown = "int"
            marks = " unique" if "unique" in active and number == 0 and name == spec.key else ""
            if "reference" in active and number == 1 and name == spec.tables[0]:
                marks = f" ref {spec.tables[0]}.{spec.key}"
            lines.append(f" {name} {shown}{marks}")
    for operation in spec.operations:
        lines += function(spec, operation, active)
    return "\n".join([*lines, "done"])


def function(spec: Spec, operation: tuple[str, str, str], active: Sequence[str]) -> Iterator[str]:
    verb, table, key = operation
    name, repo = name_of(operation, "case" in active), "repo." if "repo" in active else ""
    own = [column for column, _ in spec.columns[spec.tables.index(table)]]
    if verb == "add":
        caller = [] if "unused" in active else [CALLER]
        yield " ".join(["fn", name, *own, *caller])
        add = f"{repo}add {table} {' '.join(own)}"
        first, second = own[:2]
        guards = [f" if {first} {second}"] if "nesting" in active else [f" if {first}", f"  if {second}"]
        yield from guards
        yield " " * (1 + len(guards)) + add
        yield from (" " * depth + "end" for depth in range(len(guards), 0, -1))
    else:
        yield " ".join(["fn", name, *([key] if key else [])])
        fails = " else fail" if "error" in active and verb in ("get", "drop") else ""
        yield f" {repo}{verb} {table}{' ' + key if key else ''}{fails}"
    if "audit" in active and verb in ("add", "drop"):
        yield f" log {name}"
    yield "end"


def name_of(operation: tuple[str, str, str], camel_case: bool) -> str:
    verb, table, _ = operation
    return f"{verb}{table.capitalize()}" if camel_case else f"{verb}_{table}"
