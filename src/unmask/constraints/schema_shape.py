"""Whether a text is a JSON Schema at all, and small enough to be looked at: all that is asked before it is read."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

from unmask.constraints.expr import ConstraintError
from unmask.constraints.judge import Judge, JudgeError
from unmask.constraints.limits import DEEPEST, LONGEST_SOURCE, MOST_LISTED, MOST_MIXED
from unmask.constraints.schema_parts import Json


def checked(schema: str) -> Json:
    """The schema; ConstraintError where it is too large, or wrong under the schema of its dialect."""
    if len(schema) > LONGEST_SOURCE:
        raise ConstraintError(f"the schema has {len(schema)} characters, more than the {LONGEST_SOURCE} that are taken")
    root = json.loads(schema)
    limit_shape(root)
    if isinstance(root, dict):
        meant = validator_for(root, jsonschema.Draft202012Validator).META_SCHEMA
        try:
            error = Judge(meant).fault(root)
        except JudgeError as unknown:
            raise ConstraintError(f"the schema cannot be checked: {unknown}") from None
        if error is not None:
            raise refusal("/".join(map(str, ("#", *error.absolute_path))), f"is wrong: {error.message:.200}")
    return root


def limit_shape(value: Any) -> None:
    """ConstraintError for what is nested too deeply, or has lists that are too long to be compared entry by entry."""
    stack = [(value, 0)]
    while stack:
        part, depth = stack.pop()
        if depth > 2 * DEEPEST:
            raise ConstraintError(f"the schema is nested more than {2 * DEEPEST} levels deep")
        if isinstance(part, list):
            alike = all(isinstance(entry, str) for entry in part) or all(type(entry) in (int, float) for entry in part)
            most = MOST_LISTED if alike else MOST_MIXED
            if len(part) > most:
                of = "" if alike else " that are not all texts or all numbers"
                raise ConstraintError(f"the schema has a list of {len(part)} entries{of}; at most {most} are taken")
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        stack += [(other, depth + 1) for other in inner]


def refusal(path: str, what: str) -> ConstraintError:
    return ConstraintError(f"{path} {what}")
