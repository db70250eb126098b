"""Small faults put into sound code: what a patch has to undo. Each is one place, its text before and after.

Kinds: a wrong operator, a wrong name, swapped arguments, a missing import, a wrong column of a model, a dropped line.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unmask.patching.source import Source
from unmask.patching.tree import parsed, span_of, suites
from unmask.types import ByteSpan


@dataclass(frozen=True, slots=True)
class Mutation:
    """span: of the sound text; new: what stands there afterwards."""

    kind: str
    span: ByteSpan
    new: str

    def applied(self, source: Source) -> Source:
        return Source(source.data[: self.span.start] + self.new.encode() + source.data[self.span.end :])

    def line(self, source: Source) -> int:
        """The line of the fault, before and after."""
        return source.line(self.span.start)


OTHERS = {
    **{"+": "-", "-": "+", "*": "+", "//": "/", "/": "//", "%": "*", "**": "*"},
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "and": "or", "or": "and"},
    **{"in": "not in", "+=": "-=", "-=": "+=", "*=": "+=", "//=": "/="},
}
OPERATOR = re.compile(rb"\*\*|//=?|[-+*]=|[<>=!]=|[-+*/%<>]|\b(?:and|or|in)\b")


def operators(source: Source, tree: ast.Module) -> Iterator[Mutation]:
    """What stands between two operands."""
    for node in inside(tree):
        pairs = list[tuple[ast.expr, ast.expr]]()
        if isinstance(node, ast.BinOp):
            pairs = [(node.left, node.right)]
        elif isinstance(node, ast.Compare):
            pairs = list(zip([node.left, *node.comparators], node.comparators, strict=False))
        elif isinstance(node, ast.BoolOp):
            pairs = list(zip(node.values, node.values[1:], strict=False))
        elif isinstance(node, ast.AugAssign):
            pairs = [(node.target, node.value)]
        for left, right in pairs:
            start, end = span_of(source, left).end, span_of(source, right).start
            found = list(OPERATOR.finditer(source.data, start, end))
            if len(found) == 1 and (other := OTHERS.get(found[0].group().decode())):
                yield Mutation("operator", ByteSpan(*found[0].span()), other)


def names(source: Source, tree: ast.Module) -> Iterator[Mutation]:
    """A local name where another one of the same function belongs."""
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef):
            own = [one.arg for one in scope.args.args]
            own += [one.id for one in ast.walk(scope) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
            for node in (node for row in scope.body for node in ast.walk(row)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in own:
                    for other in dict.fromkeys(own):
                        if other != node.id:
                            yield Mutation("name", span_of(source, node), other)


def arguments(source: Source, tree: ast.Module) -> Iterator[Mutation]:
    """The first two arguments of a call, swapped."""
    for node in inside(tree):
        if isinstance(node, ast.Call) and len(node.args) >= 2:
            first, second = (span_of(source, one) for one in node.args[:2])
            texts = [source.data[one.start : one.end].decode() for one in (first, second)]
            between = source.data[first.end : second.start].decode()
            if texts[0] != texts[1] and "\n" not in "".join([*texts, between]):
                yield Mutation("argument", ByteSpan(first.start, second.end), texts[1] + between + texts[0])


def imports(source: Source, tree: ast.Module) -> Iterator[Mutation]:
    """A line of imports at the top that is not there."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) and node.end_lineno == node.lineno:
            row = source.row(node.lineno)
            yield Mutation("import", ByteSpan(row.start, min(row.end + 1, len(source.data))), "")


def lines(source: Source, tree: ast.Module) -> Iterator[Mutation]:
    """A statement of one line that is not there; its line is empty."""
    for block in suites(tree):
        for node in block if len(block) > 1 and block is not tree.body else ():
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if node.end_lineno == node.lineno and not text and not isinstance(node, ast.Pass):
                row = source.row(node.lineno)
                if row.start + node.col_offset == source.indent(node.lineno).end and node.end_col_offset == (
                    row.end - row.start
                ):
                    yield Mutation("line", row, "")


KEY = re.compile(rb"ForeignKey\(\"(?P<table>\w+)\.(?P<column>\w+)\"\)|back_populates=\"(?P<link>\w+)\"")


def columns(source: Source, tree: ast.Module) -> Iterator[Mutation]:
    """A column, table or other end that a model names and that is not there."""
    for found in KEY.finditer(source.data):
        for part in ("table", "column", "link"):
            if found.group(part) is not None:
                word = found.group(part).decode()
                other = word.removesuffix("s") if word.endswith("s") else f"{word}s"
                yield Mutation("column", ByteSpan(*found.span(part)), other)


MAKERS: dict[str, Callable[[Source, ast.Module], Iterator[Mutation]]] = {
    "operator": operators,
    "name": names,
    "argument": arguments,
    "import": imports,
    "column": columns,
    "line": lines,
}
KINDS = tuple(MAKERS)


def inside(tree: ast.Module) -> Iterator[ast.AST]:
    """What stands in the bodies of functions, in the order of the text."""
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef):
            yield from (node for row in scope.body for node in ast.walk(row))


def mutations(source: Source, kind: str, seed: int = 0) -> list[Mutation]:
    """All faults of one kind that a text could have, in an order without order; none in one that does not parse."""
    tree = parsed(source)
    found = list(dict.fromkeys(MAKERS[kind](source, tree))) if tree is not None else []
    random.Random(seed).shuffle(found)
    return found


# Models whose columns are put wrong: sound, each for itself.
HEAD = """from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


"""
PAIRS = (
    ("User", "users", "Post", "posts", "author"),
    ("Team", "teams", "Player", "players", "team"),
    ("Order", "orders", "Item", "items", "order"),
    ("Shelf", "shelves", "Book", "books", "shelf"),
    ("Country", "countries", "City", "cities", "country"),
    ("Album", "albums", "Track", "tracks", "album"),
    ("Course", "courses", "Lesson", "lessons", "course"),
    ("Author", "authors", "Poem", "poems", "author"),
)


def models() -> list[tuple[str, str]]:
    """(name, text) of files of models: one side has many of the other."""
    return [(f"models/{many}", HEAD + pair(one, ones, many, manies, link)) for one, ones, many, manies, link in PAIRS]


def pair(one: str, ones: str, many: str, manies: str, link: str) -> str:
    return f'''class {one}(Base):
    __tablename__ = "{ones}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40))
    {manies}: Mapped[list["{many}"]] = relationship(back_populates="{link}")


class {many}(Base):
    __tablename__ = "{manies}"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(40))
    {link}_id: Mapped[int] = mapped_column(ForeignKey("{ones}.id"))
    {link}: Mapped["{one}"] = relationship(back_populates="{manies}")
'''
