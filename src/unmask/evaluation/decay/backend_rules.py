"""The rules of tier C, each told from the syntax tree alone: its sentence, and the lines of a backend that break it.

A rule is obeyed where no line breaks it. Something that is missing is missing at a line too: where it could have been.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from unmask.evaluation.decay.backends import Backend
from unmask.patching.oracles.orm import Model, called, read, text_of

BASE, FAILURE, APP, CREATED, TABLE = "Base", "NotFound", "App", "created", "__tablename__"
MAKERS = ("sessionmaker", "scoped_session")
STATEMENTS = ("select", "insert", "update", "delete")


@dataclass(frozen=True)
class Code:
    """A backend, or the beginning of one. complete: nothing more comes, so that what is not there is missing."""

    spec: Backend
    module: ast.Module
    complete: bool = True

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """By name, the first of each."""
        found = dict[str, ast.ClassDef]()
        for node in self.module.body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, node)
        return found

    @cached_property
    def models(self) -> dict[str, tuple[ast.ClassDef, Model]]:
        """Those of the two that are there, with what is mapped in them."""
        found = {name: self.classes[name] for name in self.spec.models if name in self.classes}
        return {name: (node, read(node) or Model(name, None)) for name, node in found.items()}

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.module))

    @property
    def calls(self) -> Iterator[ast.Call]:
        return (node for node in self.nodes if isinstance(node, ast.Call))

    def whole(self, node: ast.stmt) -> bool:
        """Whether nothing more can come in a statement of the module."""
        return self.complete or node is not self.module.body[-1]

    def missing(self, name: str) -> Iterator[int]:
        """The line of a class in which, or before which, something is missing in the end."""
        if self.complete:
            node = self.classes.get(name) or self.classes.get(APP)
            yield node.lineno if node else 1


def last_name(node: ast.AST) -> str:
    """`session` of both `session` and `self.session`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def keyword(column: ast.stmt, *names: str) -> ast.expr | None:
    """A keyword of the call that a column is made by."""
    value = column.value if isinstance(column, ast.Assign | ast.AnnAssign) else None
    words = value.keywords if isinstance(value, ast.Call) else []
    return next((word.value for word in words if word.arg in names), None)


def mapped(code: Code) -> Iterator[int]:
    for name in code.spec.models:
        if name not in code.models:
            yield from code.missing(name)
            continue
        columns = code.models[name][1].columns.values()
        for row in columns:
            noted = isinstance(row, ast.AnnAssign) and ast.unparse(row.annotation).split("[")[0].endswith("Mapped")
            if not noted or called(getattr(row, "value", None)) not in ("", "mapped_column"):
                yield row.lineno
        if not columns:
            yield from code.missing(name)


def base(code: Code) -> Iterator[int]:
    own = code.classes.get(BASE)
    if own is None or "DeclarativeBase" not in map(last_name, own.bases):
        made = [n.lineno for n in code.module.body if isinstance(n, ast.Assign) and last_name(n.targets[0]) == BASE]
        yield from made or ([own.lineno] if own else code.missing(code.spec.models[0]))
    for name in code.spec.models:
        if name not in code.models:
            yield from code.missing(name)
        elif BASE not in map(last_name, code.models[name][0].bases):
            yield code.models[name][0].lineno


def unique(code: Code) -> Iterator[int]:
    model, key = code.spec.models[0], code.spec.columns[0][0]
    if model not in code.models:
        yield from code.missing(model)
        return
    node, found = code.models[model]
    column = found.columns.get(key)
    if column is not None:
        word = keyword(column, "unique")
        if isinstance(word, ast.Constant) and word.value is True:
            return
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call) and last_name(one.func) == "UniqueConstraint"]
    if any([text_of(one) for one in call.args] == [key] for call in calls):
        return
    if code.whole(node):
        yield column.lineno if column is not None else node.lineno


def relationship(code: Code) -> Iterator[int]:
    for (model, name), (_, other) in zip(ends(code.spec), reversed(ends(code.spec)), strict=True):
        if model not in code.models:
            yield from code.missing(model)
            continue
        node, found = code.models[model]
        link = found.links.get(name)
        if (link is None and code.whole(node)) or (link is not None and link.other != other):
            yield link.row.lineno if link else node.body[-1].lineno


def ends(spec: Backend) -> tuple[tuple[str, str], tuple[str, str]]:
    """(model, attribute) of both relationships."""
    return (spec.models[0], f"{spec.tables[1]}s"), (spec.models[1], spec.tables[0])


def makes_session(call: ast.Call, makers: set[str]) -> bool:
    """`Session(...)`, `Session.begin(...)`, and the same of what `sessionmaker` has made."""
    made = call.func
    if isinstance(made, ast.Attribute) and made.attr == "begin" and last_name(made.value) in makers:
        return True
    return last_name(made) in makers or called(made) in MAKERS


def makers_of(code: Code) -> set[str]:
    bound = [node for node in code.nodes if isinstance(node, ast.Assign) and called(node.value) in MAKERS]
    return {"Session", *(last_name(target) for node in bound for target in node.targets)}


def session(code: Code) -> Iterator[int]:
    makers = makers_of(code)
    items = [item.context_expr for node in code.nodes if isinstance(node, ast.With) for item in node.items]
    inside = {id(node) for item in items for node in ast.walk(item)}
    made = [call for call in code.calls if makes_session(call, makers)]
    yield from (call.lineno for call in made if id(call) not in inside)
    if not made:
        yield from code.missing(APP)


def repository(code: Code) -> Iterator[int]:
    layer = [node for name, node in code.classes.items() if name.endswith("Repository")]
    below = {id(node) for one in layer for node in ast.walk(one)}
    names = sessions_of(code)
    for call in code.calls:
        on_session = isinstance(call.func, ast.Attribute) and last_name(call.func.value) in names
        query = isinstance(call.func, ast.Name) and call.func.id in STATEMENTS
        if id(call) not in below and (on_session or query):
            yield call.lineno
    if not layer:
        yield from code.missing(APP)


def sessions_of(code: Code) -> set[str]:
    """Names that a session has somewhere."""
    makers, found = makers_of(code), {"session"}
    for node in code.nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and makes_session(node.value, makers):
            found |= {last_name(target) for target in node.targets}
        elif isinstance(node, ast.withitem) and isinstance(node.context_expr, ast.Call) and node.optional_vars:
            if makes_session(node.context_expr, makers):
                found.add(last_name(node.optional_vars))
        elif isinstance(node, ast.arg) and node.annotation is not None and last_name(node.annotation) == "Session":
            found.add(node.arg)
    return found - {""}


def hints(code: Code) -> Iterator[int]:
    for node in code.nodes:
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            given += [one for one in (node.args.vararg, node.args.kwarg) if one is not None]
            bare = [one for one in given if one.annotation is None and one.arg not in ("self", "cls")]
            if bare or node.returns is None:
                yield node.lineno


def text(code: Code) -> Iterator[int]:
    for node in code.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if "text" in names or "sqlite3" in names or getattr(node, "module", "") == "sqlite3":
                yield node.lineno
        elif isinstance(node, ast.Call) and last_name(node.func) in ("text", "exec_driver_sql"):
            yield node.lineno


def select(code: Code) -> Iterator[int]:
    methods = [call for call in code.calls if isinstance(call.func, ast.Attribute)]
    yield from (call.lineno for call in methods if last_name(call.func) == "query")
    if not any(last_name(call.func) == "select" for call in code.calls):
        yield from code.missing(APP)


def error(code: Code) -> Iterator[int]:
    own = code.classes.get(FAILURE)
    raised = [node.exc for node in code.nodes if isinstance(node, ast.Raise) and node.exc is not None]
    names = [last_name(one.func if isinstance(one, ast.Call) else one) for one in raised]
    if own is not None and "LookupError" in map(last_name, own.bases) and FAILURE in names:
        return
    returns = [node for node in code.nodes if isinstance(node, ast.Return)]
    nothing = [node for node in returns if isinstance(node.value, ast.Constant) and node.value.value is None]
    yield from [node.lineno for node in nothing if code.complete] or code.missing(FAILURE)


def audit(code: Code) -> Iterator[int]:
    for name in code.spec.models:
        if name not in code.models:
            yield from code.missing(name)
            continue
        node, found = code.models[name]
        column = found.columns.get(CREATED)
        if column is None and code.whole(node):
            yield node.body[-1].lineno
        elif column is not None and keyword(column, "default", "server_default", "insert_default") is None:
            yield column.lineno


def plural(code: Code) -> Iterator[int]:
    for name, table in zip(code.spec.models, code.spec.tables, strict=True):
        if name not in code.models:
            yield from code.missing(name)
            continue
        node, found = code.models[name]
        if found.table != f"{table}s" and (found.table or code.whole(node)):
            said = [row for row in node.body if isinstance(row, ast.Assign) and last_name(row.targets[0]) == TABLE]
            yield (said or node.body)[0].lineno


RULES: dict[str, tuple[Callable[[Backend], str], Callable[[Code], Iterator[int]]]] = {
    "mapped": (lambda spec: "Columns are made by Mapped and mapped_column, not by Column.", mapped),
    "base": (lambda spec: "Models derive from a class Base that derives from DeclarativeBase.", base),
    "unique": (lambda spec: f"The column {spec.columns[0][0]} of {spec.models[0]} is unique.", unique),
    "relationship": (
        lambda spec: f"{' and '.join('.'.join(one) for one in ends(spec))} are relationships with back_populates.",
        relationship,
    ),
    "repository": (lambda spec: "Only classes named like XRepository make queries or call a session.", repository),
    "session": (lambda spec: "Each session is opened by a with statement.", session),
    "hints": (lambda spec: "All functions have type hints, of the result too.", hints),
    "text": (lambda spec: "No SQL is written as text.", text),
    "select": (lambda spec: "Queries are made with select, not with query.", select),
    "error": (lambda spec: f"What is not found raises {FAILURE}, derived from LookupError.", error),
    "audit": (lambda spec: f"Both models have a column {CREATED}, a DateTime with a default.", audit),
    "plural": (lambda spec: f"The tables are named {spec.tables[0]}s and {spec.tables[1]}s.", plural),
}
