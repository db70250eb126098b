"""JSON values judged by the package jsonschema, which a hostile schema could keep busy for ever: its steps are counted,
its patterns are weighed before they are tried, and it fetches nothing from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any

import jsonschema
import referencing
from jsonschema.validators import extend, validator_for

from unmask.constraints import regex
from unmask.constraints.expr import ConstraintError
from unmask.constraints.limits import MOST_EFFORT

MOST_STEPS = 400_000  # keywords that are looked at: a few seconds at the very most
ENTRIES = 16  # of a list that count as one more keyword
Keyword = Callable[[Any, Any, Any, Any], Any]


class JudgeError(Exception):
    """The judge cannot say, for the reason in one line."""


class Judge:
    """Says what is wrong with values under one schema. All of them together may take MOST_STEPS."""

    def __init__(self, rules: Any, values: Iterable[Any] = ()) -> None:
        """values: those that will be judged, where the rules may be hostile. JudgeError where a pattern might take too
        long over one of them."""
        if found := patterns(rules):
            try:
                longest = max((len(json.dumps(value, ensure_ascii=False)) for value in values), default=0)
                hard = any(longest * regex.effort(pattern, longest) > MOST_EFFORT for pattern in found)
            except RecursionError:
                raise JudgeError("it is nested too deeply to be judged") from None
            except ConstraintError as error:
                raise JudgeError(str(error)) from None
            if hard:
                raise JudgeError("Python's re might take too long to judge a pattern")
        kind = counting(validator_for(rules, jsonschema.Draft202012Validator))
        self.judge, self.left = kind(rules, registry=referencing.Registry()), [MOST_STEPS]

    def fault(self, value: Any) -> Any:
        """A `jsonschema.ValidationError`, or None where the value is valid. JudgeError where it cannot say."""
        steps.set(self.left)
        try:
            return jsonschema.exceptions.best_match(self.judge.iter_errors(value))
        except RecursionError:
            raise JudgeError("it is nested too deeply for jsonschema") from None
        except referencing.exceptions.Unresolvable as error:
            raise JudgeError(f"jsonschema cannot follow a reference: {error}"[:300]) from None


steps: ContextVar[list[int]] = ContextVar("what is left of the steps")


@cache
def counting(kind: Any) -> Any:
    """The validator class of a dialect, with every keyword counted, and one dialect for all parts of a schema."""
    made = extend(kind, {name: counted(keyword) for name, keyword in kind.VALIDATORS.items()})
    evolve = made.evolve

    def evolved(self: Any, **changes: Any) -> Any:
        schema = changes.get("schema", self.schema)
        if isinstance(schema, dict) and "$schema" in schema:
            changes["schema"] = {name: part for name, part in schema.items() if name != "$schema"}
        return evolve(self, **changes)

    made.evolve = evolved
    return made


def counted(keyword: Keyword) -> Keyword:
    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        left = steps.get()
        left[0] -= 1 + sum(len(part) // ENTRIES for part in (value, instance) if isinstance(part, list))
        if left[0] < 0:
            raise JudgeError(f"jsonschema takes more than {MOST_STEPS} steps")
        return keyword(validator, value, instance, schema)

    return checked


def patterns(schema: Any) -> list[str]:
    """All regular expressions of a schema, and strings in its data that look like some."""
    found, stack = list[str](), [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            found += [part["pattern"]] if isinstance(part.get("pattern"), str) else []
            found += part["patternProperties"] if isinstance(part.get("patternProperties"), dict) else []
        stack += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return found
