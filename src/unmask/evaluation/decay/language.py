"""The little language of tier A: tables and functions over them, read into a tree and interpreted.

version 2                        fn add_book title pages
table book                        if title
 title text unique                 repo.add book title pages
 pages int                        end
table loan                        log add_book
 book text ref book.title        end
 kind new|old                    done
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Value = int | str
Values = Mapping[str, Value]
NAME = re.compile(r"[A-Za-z][A-Za-z_]*")


class ProgramError(ValueError):
    """What is wrong with a program: it cannot be read, or a call of it fails. line: number of the one that cannot be
    read, from 0, blank ones counted."""

    line: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """type: int, text, flag, or the words of an enum joined by bars. ref: table.column, or empty."""

    name: str
    type: str
    unique: bool = False
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """word: if, log, add, get, drop or count. names: what follows it. repo: written with `repo.`. fails: with
    `else fail`. body: of an if."""

    word: str
    names: tuple[str, ...]
    repo: bool = False
    fails: bool = False
    body: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    parameters: tuple[str, ...]
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """version: as written; None without."""

    tables: dict[str, tuple[Column, ...]]
    functions: dict[str, Function]
    version: str | None = None


# Reading.


class Lines:
    """The words of each line, and where the reader is."""

    def __init__(self, text: str) -> None:
        lines = [(number, line) for number, line in enumerate(text.split("\n")) if line.strip()]
        self.rows, self.indented = [line.split() for _, line in lines], [line[0] == " " for _, line in lines]
        self.numbers = [number for number, _ in lines]
        self.at = 0

    def peek(self) -> list[str]:
        return self.rows[self.at] if self.at < len(self.rows) else []

    def take(self) -> list[str]:
        if self.at >= len(self.rows):
            raise ProgramError("the program ends before its end")
        self.at += 1
        return self.rows[self.at - 1]


def parse(text: str) -> Program:
    """The program in a text, with or without its last line `done`. ProgramError where it is none."""
    lines = Lines(text)
    try:
        return program(lines)
    except ProgramError as error:
        error.line = lines.numbers[lines.at - 1] if lines.at else 0
        raise


def program(lines: Lines) -> Program:
    version = None
    tables, functions = dict[str, tuple[Column, ...]](), dict[str, Function]()
    if lines.peek()[:1] == ["version"]:
        version = " ".join(lines.take()[1:])
    while words := lines.peek():
        if words == ["done"]:
            lines.take()
            break
        lines.take()
        if words[0] == "table" and len(words) == 2:
            tables[named(words[1])] = tuple(columns(lines))
        elif words[0] == "fn" and len(words) >= 2:
            functions[named(words[1])] = Function(words[1], tuple(map(named, words[2:])), body(lines))
        else:
            raise ProgramError(f"no table and no function: {' '.join(words)}")
    if lines.peek():
        raise ProgramError("something follows the end")
    return Program(tables, functions, version)


def named(word: str) -> str:
    if not NAME.fullmatch(word):
        raise ProgramError(f"not a name: {word}")
    return word


def columns(lines: Lines) -> Iterator[Column]:
    while lines.at < len(lines.rows) and lines.indented[lines.at]:
        words = lines.take()
        if len(words) < 2:
            raise ProgramError(f"a column without a type: {words[0]}")
        name, kind, *rest = words
        unique = rest[:1] == ["unique"]
        rest = rest[unique:]
        ref = rest[1] if len(rest) == 2 and rest[0] == "ref" else ""
        if (rest and not ref) or not (kind in ("int", "text", "flag") or "|" in kind):
            raise ProgramError(f"not a column: {' '.join(words)}")
        yield Column(named(name), kind, unique, ref)


def body(lines: Lines) -> tuple[Statement, ...]:
    found = list[Statement]()
    while (words := lines.take()) != ["end"]:
        found.append(statement(words, lines))
    return tuple(found)


def statement(words: list[str], lines: Lines) -> Statement:
    word, names = words[0], words[1:]
    if word == "if" and names:
        return Statement("if", tuple(map(named, names)), body=body(lines))
    if word == "log" and len(names) == 1:
        return Statement("log", (named(names[0]),))
    repo, verb = word.startswith("repo."), word.removeprefix("repo.")
    fails = verb in ("get", "drop") and names[-2:] == ["else", "fail"]
    names = names[:-2] if fails else names
    right = {"add": len(names) >= 2, "get": len(names) == 2, "drop": len(names) == 2, "count": len(names) == 1}
    if not right.get(verb, False):
        raise ProgramError(f"no statement: {' '.join(words)}")
    return Statement(verb, tuple(map(named, names)), repo, fails)


def statements(of: tuple[Statement, ...], depth: int = 1) -> Iterator[tuple[Statement, int]]:
    """All statements with how deep they are nested; those of a function itself are at depth 1."""
    for one in of:
        yield one, depth
        yield from statements(one.body, depth + 1)


# Running.

Result = int | dict[str, Value] | None


@dataclass(slots=True)
class Store:
    """Tables with rows, and a program's functions over them."""

    program: Program
    rows: dict[str, list[dict[str, Value]]] = field(default_factory=dict)

    def call(self, name: str, arguments: Values) -> Result:
        """What the function gives back: the row got, the number counted, None for nothing. Names are the same in every
        case, and arguments that it does not take are ignored. ProgramError where there is no such function, or it
        fails."""
        key = plain(name)
        function = next((one for one in self.program.functions.values() if plain(one.name) == key), None)
        if function is None:
            raise ProgramError(f"no function {name}")
        return self.run(function.body, {key: arguments[key] for key in function.parameters if key in arguments})

    def run(self, body: tuple[Statement, ...], given: Values) -> Result:
        result: Result = None
        for one in body:
            if one.word == "if":
                if all(given.get(name, "") != "" for name in one.names):
                    result = self.run(one.body, given)
            elif one.word != "log":
                result = self.do(one, given)
        return result

    def do(self, one: Statement, given: Values) -> Result:
        table, *names = one.names
        if table not in self.program.tables:
            raise ProgramError(f"no table {table}")
        rows = self.rows.setdefault(table, [])
        if one.word == "count":
            return len(rows)
        if missing := next((name for name in names if name not in given), None):
            raise ProgramError(f"no value of {missing}")
        if one.word == "add":
            rows.append(self.checked(table, {name: given[name] for name in names}))
            return None
        key = names[0]
        found = next((row for row in rows if row.get(key) == given[key]), None)
        if found is None and one.fails:
            raise ProgramError(f"not found: {key}")
        if found is not None and one.word == "drop":
            rows.remove(found)
            return None
        return None if found is None else dict(found)

    def checked(self, table: str, row: dict[str, Value]) -> dict[str, Value]:
        """The row; ProgramError where it does not fit its table."""
        own = {column.name: column for column in self.program.tables[table]}
        if own.keys() != row.keys():
            raise ProgramError(f"{table} has other columns")
        for name, value in row.items():
            column = own[name]
            if not fits(value, column.type):
                raise ProgramError(f"{value!r} is not {column.type}")
            if column.unique and any(other[name] == value for other in self.rows[table]):
                raise ProgramError(f"{value!r} is there already")
            if column.ref:
                other, _, key = column.ref.partition(".")
                if all(there.get(key) != value for there in self.rows.get(other, [])):
                    raise ProgramError(f"{value!r} refers to nothing")
        return row


def fits(value: Value, kind: str) -> bool:
    if kind in ("int", "flag"):
        return isinstance(value, int) and (kind == "int" or value in (0, 1))
    return isinstance(value, str) and (kind == "text" or value in kind.split("|"))


def plain(name: str) -> str:
    """A name without its case: addBook and add_book are the same."""
    return name.replace("_", "").lower()
