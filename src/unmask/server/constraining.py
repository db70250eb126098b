"""Other servers' ways to ask for structured output, as our `constraints`. ValueError for what means nothing here."""

from __future__ import annotations

from typing import Any

# Key of vLLM's `structured_outputs` -> (type, field) of a constraint.
STRUCTURED = {
    "json": ("json_schema", "schema"),
    "regex": ("regex", "pattern"),
    "choice": ("choice", "values"),
    "grammar": ("grammar", "text"),
    "json_object": ("json_object", None),
}


def response_format(value: Any) -> dict[str, Any]:
    """OpenAI's {"type": "text" | "json_object" | "json_schema", "json_schema": {"schema": ...}}."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"constraints": [{"type": "json_object"}]}
    if kind != "json_schema":
        raise ValueError(f"must have a type of text, json_object or json_schema, got {value!r:.80}")
    named = value.get("json_schema")
    if not isinstance(named, dict) or "schema" not in named:
        raise ValueError("must have a json_schema with a schema in it")
    known = {"name", "description", "schema", "strict"}
    if foreign := [name for name in (*named, *value) if name not in known | {"type", "json_schema"}]:
        raise ValueError(f"has no field {foreign[0]!r:.80}")
    return {"constraints": [{"type": "json_schema", "schema": named["schema"]}]}


def structured_outputs(value: Any) -> dict[str, Any]:
    """vLLM's object with one of json, regex, choice, grammar, json_object."""
    given = {name: part for name, part in value.items() if part not in (None, False)} if isinstance(value, dict) else {}
    if len(given) != 1 or not given.keys() <= STRUCTURED.keys():
        raise ValueError(f"must be an object with exactly one of {', '.join(STRUCTURED)}, got {value!r:.80}")
    ((name, part),) = given.items()
    kind, field = STRUCTURED[name]
    return {"constraints": [{"type": kind} | ({field: part} if field else {})]}
