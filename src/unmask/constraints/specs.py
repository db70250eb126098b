"""The hard constraints that a caller may ask for, as typed data, and how they are read from JSON.

{"type": "regex", "pattern": "..."}             {"type": "json_schema", "schema": {...}}
{"type": "choice", "values": ["a", "b"]}        {"type": "json_object"}
{"type": "grammar", "text": "...", "syntax": "lark" or "gbnf"; left out: told from the text}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmask.constraints.expr import ConstraintError


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole text matches, as with `re.fullmatch`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The text is one of these."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The text is JSON that the schema allows. schema: as JSON text; properties come in its order."""

    schema: str


@dataclass(frozen=True, slots=True)
class JsonObject:
    """The text is a JSON object."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The text is derived from the start rule of a context-free grammar: `start` in Lark's syntax, `root` in GBNF."""

    text: str
    syntax: str


Spec = Regex | Choice | JsonSchema | JsonObject | Grammar
FIELDS: dict[str, tuple[str, ...]] = {
    "regex": ("pattern",),
    "choice": ("values",),
    "json_schema": ("schema",),
    "json_object": (),
    "grammar": ("text", "syntax"),
}


def spec_of(given: Mapping[str, Any] | Spec, others: tuple[str, ...] = ()) -> Spec:
    """A spec from its JSON form. ConstraintError that names what is wrong with it. others: types that the caller would
    have taken as well."""
    if isinstance(given, Spec):
        return given
    if not isinstance(given, Mapping):
        raise ConstraintError(f"a constraint must be an object with a type, got {given!r:.80}")
    kind = given.get("type")
    if kind not in FIELDS:
        raise ConstraintError(f"a constraint's type must be one of {', '.join((*FIELDS, *others))}, got {kind!r:.80}")
    if foreign := [name for name in given if name not in ("type", *FIELDS[kind])]:
        allowed = ", ".join(FIELDS[kind]) or "none"
        raise ConstraintError(f"a constraint of type {kind!r} has no field {foreign[0]!r:.80}; it has: {allowed}")
    if missing := [name for name in FIELDS[kind] if name not in given and name != "syntax"]:
        raise ConstraintError(f"a constraint of type {kind!r} needs the field {missing[0]!r}")
    if kind == "regex":
        return Regex(_text(given, "pattern"))
    if kind == "choice":
        return Choice(_texts(given["values"]))
    if kind == "json_schema":
        return JsonSchema(_schema(given["schema"]))
    if kind == "json_object":
        return JsonObject()
    text = _text(given, "text")
    syntax = given.get("syntax") or ("gbnf" if "::=" in text else "lark")
    if syntax not in ("lark", "gbnf"):
        raise ConstraintError(f"syntax must be 'lark' or 'gbnf', got {syntax!r:.80}")
    return Grammar(text, syntax)


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given[name]
    if not isinstance(value, str):
        raise ConstraintError(f"{name} must be text, got {value!r:.80}")
    return _unicode(value)


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConstraintError(f"values must be a list of at least one text, got {values!r:.80}")
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise ConstraintError(f"values must be texts, got {wrong[0]!r:.80}")
    return tuple(_unicode(value) for value in values)


def _schema(schema: Any) -> str:
    """The schema as JSON text, which can be compared and kept; the order of its properties is that of the output."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise ConstraintError(f"schema is no JSON: {error}") from None
    if not isinstance(schema, Mapping | bool):
        raise ConstraintError(f"schema must be an object, got {schema!r:.80}")
    try:
        return _unicode(json.dumps(schema, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"schema is no JSON: {error}") from None


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConstraintError("a constraint holds a lone surrogate: it must be valid Unicode") from None
    return text
