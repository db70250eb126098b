"""SQLAlchemy models that agree with each other: read statically, then mapped and created on SQLite in the sandbox.

The static pass names the place of a fault; the run finds what only SQLAlchemy itself knows. Its last word counts: where
it cannot be asked, a text without static faults is "unknown".
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import NamedTuple

from unmask.patching.oracles.python import NOT_PYTHON, source_of, tree_of, verdict
from unmask.patching.source import Source
from unmask.patching.tree import span_of
from unmask.sandbox import Limits, run_python
from unmask.types import ByteSpan, Verdict, View, Violation

MAPPED = {"mapped_column", "Column"}
PLAIN = {"DeclarativeBase", "MappedAsDataclass", "DeclarativeBaseNoMeta", "object"}  # classes without columns
LIMITS = Limits(seconds=20.0, memory=1 << 30, output=16 << 10)


class Link(NamedTuple):
    """A relationship: where it is said, the class it leads to, the name of its other end and where that is said."""

    row: ast.stmt
    target: str | None
    other: str | None
    place: ast.expr | None


@dataclass
class Model:
    """A mapped class as it is written. columns: name -> where it is said. keys: target of a foreign key and where it is
    said. bases: last names of the classes it is made from."""

    name: str
    table: str | None
    bases: tuple[str, ...] = ()
    columns: dict[str, ast.stmt] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    keys: list[tuple[str, ast.expr]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SqlAlchemy:
    """Tables and columns of foreign keys exist, `back_populates` has its other end, mappers configure, tables can be
    created. run: ask SQLAlchemy too, in the sandbox; the text must then stand by itself, without a database."""

    run: bool = True
    name: str = "sqlalchemy"
    partial: bool = False

    def check(self, view: View) -> Verdict:
        tree = tree_of(view)
        if tree is None:
            return NOT_PYTHON
        source = source_of(view)
        models = {model.name: model for model in map(read, classes(tree)) if model is not None}
        if not any(model.table for model in models.values()):
            return Verdict("satisfied", "there are no models in the text")
        found = list(faults(source, models, self.name))
        if found or not self.run:
            return verdict(found)
        return asked(source, view.text, models, self.name)


def classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def called(node: ast.AST | None) -> str:
    """Last name of what is called."""
    return ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""


def read(node: ast.ClassDef) -> Model | None:
    """A class with columns or links, or that such classes may be made from; None for any other."""
    model = Model(node.name, None, tuple(ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases))
    for row in node.body:
        value: ast.expr | None
        kind: ast.expr | None
        if isinstance(row, ast.Assign) and isinstance(row.targets[0], ast.Name):
            name, value, kind = row.targets[0].id, row.value, None
        elif isinstance(row, ast.AnnAssign) and isinstance(row.target, ast.Name):
            name, value, kind = row.target.id, row.value, row.annotation
        else:
            continue
        if name == "__tablename__":
            model.table = text_of(value)
        elif isinstance(value, ast.Call) and called(value) in MAPPED:
            model.columns[(text_of(value.args[0]) if value.args else None) or name] = row
            keys = [call for call in ast.walk(value) if isinstance(call, ast.Call) and called(call) == "ForeignKey"]
            for first in (key.args[0] for key in keys if key.args):
                if (target := text_of(first)) is not None:
                    model.keys.append((target, first))
        elif isinstance(value, ast.Call) and called(value) == "relationship":
            other = next((word.value for word in value.keywords if word.arg == "back_populates"), None)
            model.links[name] = Link(row, target_of(value, kind), text_of(other), other)
        elif kind is not None and value is None and ast.unparse(kind).startswith("Mapped["):
            model.columns[name] = row
    return model if model.table or model.columns or model.links or "DeclarativeBase" in model.bases else None


def text_of(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def target_of(call: ast.Call, kind: ast.expr | None) -> str | None:
    """The class that a relationship leads to: its first argument, or the last name in its annotation."""
    if call.args:
        return text_of(call.args[0]) or (call.args[0].id if isinstance(call.args[0], ast.Name) else None)
    if kind is None:
        return None
    names = [one.id for one in ast.walk(kind) if isinstance(one, ast.Name)]
    names += [part for one in ast.walk(kind) if (part := text_of(one))]
    inner = [name.split("[")[-1].strip("]'\" ") for name in names]
    outer = {"Mapped", "list", "List", "set", "Set", "Optional", "WriteOnlyMapped", "DynamicMapped"}
    return next((name for name in inner if name not in outer), None)


def faults(source: Source, models: dict[str, Model], name: str) -> Iterator[Violation]:
    """What is wrong by the text alone. Where the base of the models comes from another file, so may other models."""
    tables = {model.table: model for model in models.values() if model.table}
    alone = any("DeclarativeBase" in model.bases for model in models.values())
    for model in models.values():
        for target, node in model.keys:
            table, _, column = target.rpartition(".")
            place = span_of(source, node)
            if not column or not table:
                yield Violation(f"foreign key {target!r} must be table.column", place, "foreign-key", name)
            elif table not in tables and alone:
                yield Violation(f"there is no table {table!r}", place, "foreign-key", name)
            elif table in tables and column not in (columns_of(tables[table], models) or {column}):
                yield Violation(f"table {table!r} has no column {column!r}", place, "foreign-key", name)
        for name_of, link in model.links.items():
            if link.target is not None and link.target not in models:
                if alone:
                    text = f"{model.name}.{name_of} leads to {link.target}, which is no model here"
                    yield Violation(text, span_of(source, link.row), "relationship", name)
            elif link.target is not None and link.other is not None and link.place is not None:
                yield from one_sided(source, models[link.target], model, name_of, link.other, link.place, name)


def columns_of(model: Model, models: dict[str, Model]) -> set[str] | None:
    """Its own and those of what it is made from; None where that is in another file."""
    found = set(model.columns)
    for base in model.bases:
        if base in models:
            more = columns_of(models[base], models)
            if more is None:
                return None
            found |= more
        elif base not in PLAIN:
            return None
    return found


def one_sided(
    source: Source, there: Model, here: Model, link: str, other: str, node: ast.expr, name: str
) -> Iterator[Violation]:
    """Of a pair, both ends may be wrong."""
    back = there.links.get(other)
    if back is None:
        text = f"{there.name} has no relationship {other!r}, which {here.name}.{link} names as its other end"
        yield Violation(text, span_of(source, node), "back-populates", name)
    elif back.other is not None and back.other != link:
        ends = tuple(span_of(source, end) for end in (node, back.place) if end is not None)
        text = f"{here.name}.{link} and {there.name}.{other} do not name each other"
        yield Violation(text, ends[0], "back-populates", name, ends, severity=0.5)


PROGRAM = """
import json, sys, types
module = types.ModuleType("models")
sys.modules["models"] = module
said = {{}}
try:
    exec(compile({text!r}, "models.py", "exec"), module.__dict__)
    from sqlalchemy import create_engine, MetaData
    from sqlalchemy.orm import configure_mappers
    configure_mappers()
    datas = {{id(data): data for one in vars(module).values() for data in [getattr(one, "metadata", one)]
             if isinstance(data, MetaData)}}
    for data in datas.values():
        data.create_all(create_engine("sqlite://"))
except BaseException as error:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "models.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    said = {{"kind": type(error).__name__, "text": str(error).splitlines()[0] if str(error) else "", "line": line}}
print("\\n" + json.dumps(said))
"""


def asked(source: Source, text: str, models: dict[str, Model], name: str) -> Verdict:
    """What SQLAlchemy says of it."""
    if find_spec("sqlalchemy") is None:
        return Verdict("unknown", "sqlalchemy is not installed")
    done = run_python(PROGRAM.format(text=text.replace("\r\n", "\n")), LIMITS)
    rows = done.output.strip().splitlines()
    try:
        said = json.loads(rows[-1]) if done.passed and rows else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return Verdict("unknown", f"the models could not be run: {done.status} {done.detail}".strip())
    if not said:
        return Verdict("satisfied")
    if said["kind"] in ("ImportError", "ModuleNotFoundError"):
        return Verdict("unknown", f"the models do not stand by themselves: {said['text']}")
    message = f"{said['kind']}: {said['text']}"
    spans = blamed(source, said, models)
    fault = Violation(message, spans[0], "mapping", name, spans if len(spans) > 1 else ())
    return Verdict("violated", message, (fault,))


def blamed(source: Source, said: dict[str, object], models: dict[str, Model]) -> tuple[ByteSpan, ...]:
    """Attributes that the message names as Class.attribute or in quotes; else the line it came from; else all of it."""
    text = str(said["text"])
    found = list[ByteSpan]()
    for model in models.values():
        for name, row in [*model.columns.items(), *((link, one.row) for link, one in model.links.items())]:
            if f"{model.name}.{name}" in text or (model.name in text and f"'{name}'" in text):
                found.append(span_of(source, row))
    if not found and isinstance(said["line"], int) and 1 <= said["line"] <= len(source.rows):
        found.append(source.row(said["line"]))
    return tuple(dict.fromkeys(found)) or (ByteSpan(0, len(source.data)),)
