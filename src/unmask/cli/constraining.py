"""The flags that constrain a text, for the verbs that write one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unmask.cli.flags import flag

PANEL = "What to write"
CONSTRAINTS: dict[str, Any] = {
    "json_schema": flag(Path, PANEL, "Write JSON that the schema in this file allows.", "--json-schema"),
    "json_object": flag(bool, PANEL, "Write a JSON object.", "--json-object/--no-json-object"),
    "regex": flag(str, PANEL, "Write what this regular expression matches as a whole.", "--regex"),
    "choice": flag(list[str], PANEL, "Write one of these; repeat the flag for each.", "--choice"),
    "grammar": flag(Path, PANEL, "Write what the grammar in this file derives: Lark or GBNF.", "--grammar"),
}


def constrained(options: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Decoding options with the constraint that the flags ask for. ValueError where they ask for two."""
    given = {name: value for name, value in flags.items() if value not in ([], False)}
    if len(given) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in list(given)[:2])
        raise ValueError(f"{first} and {second} cannot be given together: one constraint at a time")
    return options | {"constraints": [spec(name, value) for name, value in given.items()]} if given else options


def spec(name: str, value: Any) -> dict[str, Any]:
    if name == "json_schema":
        try:
            return {"type": name, "schema": json.loads(value.read_text(encoding="utf-8"))}
        except ValueError as error:
            raise ValueError(f"--json-schema {value}: the file is no JSON: {error}") from None
    if name == "grammar":
        return {"type": name, "text": value.read_text(encoding="utf-8")}
    return {"type": name} | {"regex": {"pattern": value}, "choice": {"values": value}}.get(name, {})
