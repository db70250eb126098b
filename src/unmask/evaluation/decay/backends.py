"""Tier C: two tables and five operations that a small backend has to serve, and an answer for every set of rules.

The plain answer breaks every rule, and each rule turns one aspect of it: what is obeyed was obeyed on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

NOUNS = (
    *("artist", "author", "bike", "camera", "club", "course", "doctor", "drone", "editor", "farm", "film", "game"),
    *("garden", "hotel", "lamp", "league", "library", "market", "museum", "parcel", "planet", "printer", "river"),
    *("sailor", "school", "server", "singer", "station", "studio", "theatre", "tower", "trainer", "vendor", "village"),
)
SHOWN = ("pilot", "driver", "nurse", "ship", "train", "flight")  # for the examples before a task
PARTS = ("visit", "ticket", "order", "report", "photo", "letter", "repair", "lesson", "booking", "review", "event")
KEYS = ("title", "name", "code", "serial", "email")
KINDS = ("kind", "state", "colour", "region")
NUMBERS = ("year", "size", "rank", "weight", "height")
LABELS = ("label", "topic", "place", "note", "day")
AMOUNTS = ("price", "minutes", "score", "pages", "copies")
EXTRA = ("count", "total", "change")


@dataclass(frozen=True, slots=True)
class Backend:
    """A table and one whose rows each belong to a row of the first. columns: of the first table, the one it is looked
    up by, another text, a number; of the second, the one its rows are ordered by and a number. extra: the operation
    beside the four that all have, one of EXTRA."""

    tables: tuple[str, str]
    columns: tuple[tuple[str, str, str], tuple[str, str]]
    extra: str

    @property
    def models(self) -> tuple[str, str]:
        """Names of the classes."""
        return self.tables[0].capitalize(), self.tables[1].capitalize()

    @property
    def link(self) -> str:
        """The column of the second table that refers to the first."""
        return f"{self.tables[0]}_id"


@dataclass(frozen=True, slots=True)
class Operation:
    """verb: add, get, list or one of EXTRA. parameters: (name, type). looks: the parameter that a row of the first
    table is looked up by, which may not be there; empty where nothing is. gives: type of what comes back."""

    verb: str
    name: str
    parameters: tuple[tuple[str, str], ...]
    looks: str
    gives: str


def draw(random: Random, nouns: Sequence[str] = NOUNS) -> Backend:
    tables = random.choice(nouns), random.choice(PARTS)
    first = random.choice(KEYS), random.choice(KINDS), random.choice(NUMBERS)
    return Backend(tables, (first, (random.choice(LABELS), random.choice(AMOUNTS))), random.choice(EXTRA))


def operations(spec: Backend) -> tuple[Operation, ...]:
    (table, part), ((key, kind, number), (label, amount)) = spec.tables, spec.columns
    last = {
        "count": Operation("count", f"count_{part}", (), "", "int"),
        "total": Operation("total", f"total_{part}", ((table, "str"),), table, "int"),
        "change": Operation("change", f"change_{table}", ((key, "str"), (number, "int")), key, "dict"),
    }
    return (
        Operation("add", f"add_{table}", ((key, "str"), (kind, "str"), (number, "int")), "", "dict"),
        Operation("get", f"get_{table}", ((key, "str"),), key, "dict"),
        Operation("add", f"add_{part}", ((label, "str"), (amount, "int"), (table, "str")), table, "dict"),
        Operation("list", f"list_{part}", ((table, "str"),), table, "list"),
        last[spec.extra],
    )


# The answer that obeys the active rules and breaks every other.


def render(spec: Backend, active: Sequence[str]) -> str:
    parts = (imports, base, models, failure, repository, app)
    return "\n\n".join("\n".join(made) for part in parts if (made := list(part(spec, active))))


def imports(spec: Backend, active: Sequence[str]) -> Iterator[str]:
    if "audit" in active:
        yield "from datetime import datetime"
    core = {"ForeignKey", "create_engine"}
    orm = {"Session", "DeclarativeBase" if "base" in active else "declarative_base"}
    core |= {"select"} if "select" in active else set()
    core |= set() if "text" in active else {"text"}
    if "mapped" in active:
        orm |= {"Mapped", "mapped_column"}
    else:
        core |= {"Column", "Integer", "String"} | ({"DateTime"} if "audit" in active else set())
    orm |= {"relationship"} if "relationship" in active else set()
    yield f"from sqlalchemy import {', '.join(sorted(core))}"
    yield f"from sqlalchemy.orm import {', '.join(sorted(orm))}"


def base(spec: Backend, active: Sequence[str]) -> Iterator[str]:
    yield from ("class Base(DeclarativeBase):", "    pass") if "base" in active else ("Base = declarative_base()",)


def models(spec: Backend, active: Sequence[str]) -> Iterator[str]:
    (table, part), ((key, kind, number), (label, amount)) = spec.tables, spec.columns
    plural = "s" if "plural" in active else ""

    def column(name: str, type_: str, more: str = "") -> str:
        if "mapped" in active:
            return f"    {name}: Mapped[{type_}] = mapped_column({more})"
        kinds = {"str": "String", "int": "Integer", "datetime": "DateTime"}
        return f"    {name} = Column({', '.join(filter(None, (kinds[type_], more)))})"

    def related(name: str, model: str, other: str, many: bool) -> str:
        if "mapped" in active:
            kind = f'list["{model}"]' if many else f'"{model}"'
            return f'    {name}: Mapped[{kind}] = relationship(back_populates="{other}")'
        return f'    {name} = relationship("{model}", back_populates="{other}")'

    audit = [column("created", "datetime", "default=datetime.now")] if "audit" in active else []
    yield f"class {spec.models[0]}(Base):"
    yield f'    __tablename__ = "{table}{plural}"'
    yield column("id", "int", "primary_key=True")
    yield column(key, "str", "unique=True" if "unique" in active else "")
    yield from (column(kind, "str"), column(number, "int"), *audit)
    if "relationship" in active:
        yield related(f"{part}s", spec.models[1], table, many=True)
    yield ""
    yield f"class {spec.models[1]}(Base):"
    yield f'    __tablename__ = "{part}{plural}"'
    yield column("id", "int", "primary_key=True")
    yield from (column(label, "str"), column(amount, "int"))
    yield column(spec.link, "int", f'ForeignKey("{table}{plural}.id")')
    yield from audit
    if "relationship" in active:
        yield related(table, spec.models[0], f"{part}s", many=False)


def failure(spec: Backend, active: Sequence[str]) -> Iterator[str]:
    if "error" in active:
        yield from ("class NotFound(LookupError):", "    pass")


def repository(spec: Backend, active: Sequence[str]) -> Iterator[str]:
    if "repository" not in active:
        return
    yield f"class {spec.models[0]}Repository:"
    hinted = "hints" in active
    yield f"    def __init__(self, session{': Session' * hinted}){' -> None' * hinted}:"
    yield "        self.session = session"
    for operation in operations(spec):
        yield ""
        yield signature(operation, active)
        yield from (f"        {line}" for line in body(spec, operation, "self.session", active))


def app(spec: Backend, active: Sequence[str]) -> Iterator[str]:
    layered, opened = "repository" in active, "session" in active
    yield "class App:"
    yield "    def __init__(self) -> None:" if "hints" in active else "    def __init__(self):"
    engine = "self.engine" if opened else "engine"
    yield f'        {engine} = create_engine("sqlite://")'
    yield f"        Base.metadata.create_all({engine})"
    held = f"{spec.tables[0]}s"
    if not opened:
        made = f"{spec.models[0]}Repository(Session(engine))"
        opening = f"self.{held} = {made}" if layered else "self.session = Session(engine)"
        yield f"        {opening}"
    for operation in operations(spec):
        yield ""
        yield signature(operation, active)
        if layered:
            holder = f"{spec.models[0]}Repository(session)" if opened else f"self.{held}"
            given = ", ".join(name for name, _ in operation.parameters)
            lines = [f"return {holder}.{operation.name}({given})"]
        else:
            lines = list(body(spec, operation, "session" if opened else "self.session", active))
        if opened:
            lines = ["with Session(self.engine) as session:", *(f"    {line}" for line in lines)]
        yield from (f"        {line}" for line in lines)


def signature(operation: Operation, active: Sequence[str]) -> str:
    hints = "hints" in active
    given = ["self", *(f"{name}: {kind}" if hints else name for name, kind in operation.parameters)]
    may_miss = operation.looks and "error" not in active
    result = f" -> {operation.gives}{' | None' if may_miss else ''}" if hints else ""
    return f"    def {operation.name}({', '.join(given)}){result}:"


def body(spec: Backend, operation: Operation, session: str, active: Sequence[str]) -> Iterator[str]:
    """What an operation does, with the expression of a session."""
    (table, _), ((key, kind, number), (label, amount)) = spec.tables, spec.columns
    first, second = spec.models
    if operation.looks:
        yield f"found = {rows(session, first, f'{key}={operation.looks}', '', active)}.first()"
        yield "if found is None:"
        yield f"    raise NotFound({operation.looks})" if "error" in active else "    return None"
    if operation.verb in ("list", "total"):
        order = (f"{second}.{label}" if "text" in active else f'text("{label}")') if operation.verb == "list" else ""
        yield f"rows = {rows(session, second, f'{spec.link}=found.id', order, active)}.all()"
    given = ", ".join(f'"{name}": {name}' for name, _ in operation.parameters)
    if operation.name == f"add_{table}":
        yield f"{session}.add({first}({', '.join(f'{one}={one}' for one in (key, kind, number))}))"
        yield f"{session}.commit()"
        yield f"return {{{given}}}"
    elif operation.verb == "add":
        yield f"{session}.add({second}({label}={label}, {amount}={amount}, {spec.link}=found.id))"
        yield f"{session}.commit()"
        yield f"return {{{given}}}"
    elif operation.verb == "list":
        yield f'return [{{"{label}": one.{label}, "{amount}": one.{amount}, "{table}": {table}}} for one in rows]'
    elif operation.verb == "total":
        yield f"return sum(one.{amount} for one in rows)"
    elif operation.verb == "count":
        yield f"return len({rows(session, second, '', '', active)}.all())"
    else:
        if operation.verb == "change":
            yield f"found.{number} = {number}"
            yield f"{session}.commit()"
        shown = ", ".join(f'"{one}": found.{one}' for one in (key, kind, number))
        yield f"return {{{shown}}}"


def rows(session: str, model: str, where: str, order: str, active: Sequence[str]) -> str:
    """The expression of a query's rows, without what takes them."""
    narrowed = (f".filter_by({where})" if where else "") + (f".order_by({order})" if order else "")
    if "select" in active:
        return f"{session}.scalars(select({model}){narrowed})"
    return f"{session}.query({model}){narrowed}"
