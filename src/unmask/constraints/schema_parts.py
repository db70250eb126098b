"""Questions about JSON Schemas: where a reference leads, which kinds of value fit, what two schemas say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from unmask.constraints.expr import ConstraintError
from unmask.constraints.limits import Meter

Json = Any
KINDS = ("object", "array", "string", "number", "integer", "boolean", "null")
OF_KEYWORD = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "maxProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
}
NOTES = frozenset({"title", "description", "default", "examples", "$comment", "$schema", "$defs", "definitions", "$id"})
MOST_MERGES = 64
LOOK = 20  # steps of a meter for comparing two schemas


def pointer(root: Json, reference: Any, path: str) -> Json:
    """What a reference of the form "#/a/b" leads to."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ConstraintError(f"{path} is {reference!r:.80}: only references inside the schema (#/...) are supported")
    here = root
    for part in unquote(reference).removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(here, Mapping) and name in here:
            here = here[name]
        elif isinstance(here, list) and name.isascii() and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        else:
            raise ConstraintError(f"{path} is {reference!r:.80}, which leads nowhere")
    if not isinstance(here, Mapping | bool):
        raise ConstraintError(f"{path} is {reference!r:.80}, which is no schema")
    return here


def kinds_of(schema: Mapping[str, Any]) -> list[str]:
    """Kinds of value that a schema without combinations allows. Without a type: those that its keywords are about."""
    given = schema.get("type")
    if given is None:
        hinted = dict.fromkeys(OF_KEYWORD[name] for name in schema if name in OF_KEYWORD)
        return list(hinted) or [kind for kind in KINDS if kind != "integer"]
    found = [given] if isinstance(given, str) else list(given)
    return [kind for kind in found if not (kind == "integer" and "number" in found)]


def merged(parts: Sequence[Json], path: str, root: Json) -> Json:
    """One schema that says what all of them say. ConstraintError where two keywords cannot be put together."""
    result: dict[str, Any] = {}
    waiting, done = list(parts), 0
    while waiting:
        part = waiting.pop(0)
        done += 1
        if done > MOST_MERGES:
            raise ConstraintError(f"{path} puts more than {MOST_MERGES} schemas together")
        if part is True:
            continue
        if part is False:
            return False
        part = dict(part)
        if "$ref" in part:
            waiting.insert(0, pointer(root, part.pop("$ref"), f"{path}/$ref"))
        if "allOf" in part:
            waiting = [*part.pop("allOf"), *waiting]
        for name, value in part.items():
            if name in NOTES:
                continue
            result[name] = both(name, result[name], value, path) if name in result else value
            if result[name] is None:
                return False
    return result


def both(name: str, one: Any, other: Any, path: str) -> Any:
    """The value of a keyword that says what two values of it say; None where nothing fits both."""
    if one == other and isinstance(one, bool) == isinstance(other, bool):
        return one
    if name == "type":
        return common_kinds(one, other) or None
    if name == "required":
        return list(dict.fromkeys([*one, *other]))
    if name == "properties":
        shared = {key: {"allOf": [one[key], other[key]]} for key in one if key in other}
        return {**one, **other, **shared}
    if name in ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"):
        return max(one, other)
    if name in ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"):
        return min(one, other)
    if name == "enum":
        return [value for value in one if value in other] or None
    if name in ("items", "additionalProperties") and not isinstance(one, list):
        return False if False in (one, other) else {"allOf": [one, other]}
    raise ConstraintError(f"{path}/{name} is given twice by schemas that must hold together, which is not supported")


def common_kinds(one: Any, other: Any) -> list[str]:
    first = [one] if isinstance(one, str) else list(one)
    second = [other] if isinstance(other, str) else list(other)
    found = [kind for kind in first if kind in second]
    if ("integer" in first and "number" in second) or ("integer" in second and "number" in first):
        found.append("integer")
    return list(dict.fromkeys(found))


def disjoint(one: Json, other: Json, root: Json, meter: Meter, depth: int = 0) -> bool:
    """Whether it is certain that no value fits both. False may mean that it is only not seen."""
    meter.spend(LOOK)
    one, other = followed(one, root), followed(other, root)
    if one is False or other is False:
        return True
    if one is True or other is True or depth > 8:
        return False
    values = listed(one), listed(other)
    if values[0] is not None and values[1] is not None:
        meter.spend(len(values[0]) * len(values[1]))
        return not any(a == b and type(a) is type(b) for a in values[0] for b in values[1])
    kinds = certain_kinds(one), certain_kinds(other)
    if not kinds[0] & kinds[1]:
        return True
    if kinds[0] & kinds[1] != {"object"}:
        return False
    theirs = frozenset(other.get("required", ()))
    names = [name for name in one.get("required", ()) if name in theirs]
    properties = one.get("properties", {}), other.get("properties", {})
    pairs = ((properties[0].get(name, True), properties[1].get(name, True)) for name in names)
    if any(disjoint(*pair, root, meter, depth + 1) for pair in pairs):
        return True
    return any(
        closed.get("additionalProperties") is False
        and any(name not in closed.get("properties", {}) for name in needs.get("required", ()))
        for closed, needs in ((one, other), (other, one))
    )


def followed(schema: Json, root: Json) -> Json:
    for _ in range(16):
        if not (isinstance(schema, Mapping) and set(schema) - NOTES == {"$ref"}):
            return schema
        schema = pointer(root, schema["$ref"], "#")
    return True


def listed(schema: Mapping[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def certain_kinds(schema: Mapping[str, Any]) -> set[str]:
    """Kinds that values of a schema may have, an integer being a number."""
    values = listed(schema)
    if values is not None:
        names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
        return {names.get(type(value), "number") for value in values}
    given = schema.get("type")
    kinds = set(KINDS) if given is None else {given} if isinstance(given, str) else set(given)
    return {"number" if kind == "integer" else kind for kind in kinds}
