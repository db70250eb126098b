"""The flags that constrain a text, for the verbs that write one."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.flags import flag

if TYPE_CHECKING:
    from unmask.types import Oracle

PANEL = "What to write"
CONSTRAINTS: dict[str, Any] = {
    "json_schema": flag(Path, PANEL, "Write JSON that the schema in this file allows.", "--json-schema"),
    "json_object": flag(bool, PANEL, "Write a JSON object.", "--json-object/--no-json-object"),
    "regex": flag(str, PANEL, "Write what this regular expression matches as a whole.", "--regex"),
    "choice": flag(list[str], PANEL, "Write one of these; repeat the flag for each.", "--choice"),
    "grammar": flag(Path, PANEL, "Write what the grammar in this file derives: Lark or GBNF.", "--grammar"),
}
SOFT: dict[str, Any] = {
    "constraint": flag(
        list[str],
        PANEL,
        "A constraint by name, such as python_syntax, or as JSON; repeat the flag for each.",
        "--constraint",
    ),
    "oracle": flag(list[str], PANEL, "MODULE:FUNCTION that says what of a text may stay. Repeatable.", "--oracle"),
    "constraint_refinement_rounds": flag(
        int,
        PANEL,
        "How often what a soft constraint blames is written anew; 2. 0 only tells.",
        "--constraint-refinement-rounds",
    ),
}
ROUNDS = "constraint_refinement_rounds"


def constrained(options: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Decoding options with the constraints that the flags ask for. ValueError where they ask for two hard ones."""
    given = {name: value for name, value in flags.items() if value not in ([], False)}
    rounds = {ROUNDS: given.pop(ROUNDS)} if ROUNDS in given else {}
    asked = [declared(text) for text in given.pop("constraint", ())]
    asked += [loaded(text) for text in given.pop("oracle", ())]
    if len(given) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in list(given)[:2])
        raise ValueError(f"{first} and {second} cannot be given together: one hard constraint at a time")
    asked = [*(spec(name, value) for name, value in given.items()), *asked]
    return options | ({"constraints": asked} if asked else {}) | rounds


def declared(text: str) -> Any:
    """A constraint that is named, or given as JSON."""
    if not text.lstrip().startswith("{"):
        return {"type": text.strip()}
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"--constraint {text:.80}: this is no JSON: {error}") from None


def loaded(text: str) -> Oracle:
    """The oracle that MODULE:FUNCTION names: a function of a text as `ConstraintOracle` takes it, or an oracle itself.
    Modules are looked for in the working directory as well."""
    from unmask.constraints.oracles import ConstraintOracle
    from unmask.lm.soft import is_oracle

    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"--oracle must be MODULE:FUNCTION, got {text!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--oracle {text}: {error}") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if is_oracle(found):
        return found
    if not callable(found):
        raise ValueError(f"--oracle {text}: this is neither a function nor an oracle")
    return ConstraintOracle(found, name)


def registered(texts: Sequence[str]) -> dict[str, Oracle]:
    """Oracles by name, each NAME=MODULE:FUNCTION."""
    found: dict[str, Oracle] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--oracle must be NAME=MODULE:FUNCTION, got {text!r}")
        if name in found:
            raise ValueError(f"--oracle {name} is given twice")
        found[name] = loaded(place)
    return found


def spec(name: str, value: Any) -> dict[str, Any]:
    if name == "json_schema":
        try:
            return {"type": name, "schema": json.loads(value.read_text(encoding="utf-8"))}
        except ValueError as error:
            raise ValueError(f"--json-schema {value}: the file is no JSON: {error}") from None
    if name == "grammar":
        return {"type": name, "text": value.read_text(encoding="utf-8")}
    return {"type": name} | {"regex": {"pattern": value}, "choice": {"values": value}}.get(name, {})
