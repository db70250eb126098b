"""The soft constraints that can be asked for as JSON, and what they become: oracles.

{"type": "contains", "text": "..."}                 {"type": "not_contains", "texts": [...], "words": false}
{"type": "length", "max_characters": 200, ...}      {"type": "python_syntax"}, "python_names", "python_imports"
{"type": "calls", "must": [...], "must_not": [...], "scope": "..."}, "sqlalchemy", "ruff": see `patching.oracles.specs`
{"type": "oracle", "name": "..."}: registered under that name (`LM.oracles`); code never comes in a request.
Any of them but the last with "where": "code_blocks" looks at the fenced code of a Markdown text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from unmask.constraints import ConstraintError, Spec, spec_of
from unmask.constraints.oracles import Avoids, Contains, Length
from unmask.lm.code_blocks import CodeBlocks
from unmask.patching.oracles import specs
from unmask.patching.oracles.python import Imports, Names
from unmask.patching.oracles.syntax import Syntax
from unmask.types import Oracle

LONGEST, MOST = 10_000, 256  # characters of one text, texts of one constraint


@dataclass(frozen=True, slots=True)
class Registered:
    """An oracle that the model's owner has registered under a name."""

    name: str


Constraint = Spec | Registered | Oracle


def contains(given: Mapping[str, Any]) -> Oracle:
    return Contains(text_of("text", given.get("text")))


def avoids(given: Mapping[str, Any]) -> Oracle:
    texts = given.get("texts")
    if not isinstance(texts, list | tuple) or not 1 <= len(texts) <= MOST:
        raise ConstraintError(f"texts must be a list of 1 to {MOST} texts, got {texts!r:.80}")
    words = given.get("words", False)
    if not isinstance(words, bool):
        raise ConstraintError(f"words must be true or false, got {words!r:.80}")
    return Avoids(tuple(text_of("texts", text) for text in texts), words)


def length(given: Mapping[str, Any]) -> Oracle:
    limits = {name: value for name, value in given.items() if value is not None}
    if not limits:
        raise ConstraintError(f"a constraint of type 'length' needs one of {', '.join(FIELDS['length'])}")
    for name, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConstraintError(f"{name} must be a whole number of at least 1, got {value!r:.80}")
    return Length(**limits)


def text_of(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST:
        raise ConstraintError(f"{name} must be text of 1 to {LONGEST} characters, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConstraintError(f"{name} holds a lone surrogate: it must be valid Unicode") from None
    return value


def structural(given: Mapping[str, Any], kind: str) -> Oracle:
    """One of those that judge patches as well, and run nothing of what they judge."""
    try:
        return specs.oracle_of({"type": kind, **given}, "text.py", static=True)
    except ValueError as error:
        raise ConstraintError(str(error)) from None


STRUCTURAL = ("calls", "sqlalchemy", "ruff")
FIELDS: dict[str, tuple[str, ...]] = {
    "contains": ("text",),
    "not_contains": ("texts", "words"),
    "length": ("min_characters", "max_characters", "max_words", "max_lines"),
    "python_syntax": (),
    "python_names": (),
    "python_imports": (),
    **{kind: specs.FIELDS[kind] for kind in STRUCTURAL},
    "oracle": ("name",),
}
MAKERS: dict[str, Callable[[Mapping[str, Any]], Oracle]] = {
    "contains": contains,
    "not_contains": avoids,
    "length": length,
    "python_syntax": lambda given: Syntax(),
    "python_names": lambda given: Names(),
    "python_imports": lambda given: Imports(),
    **{kind: partial(structural, kind=kind) for kind in STRUCTURAL},
}


def constraint_of(given: Any) -> Constraint:
    """A constraint, hard or soft, from its JSON form; an oracle as it is. ConstraintError that names what is wrong."""
    if isinstance(given, Registered) or is_oracle(given):
        return given
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind not in FIELDS:
        return spec_of(given, others=tuple(FIELDS))
    own = {name: value for name, value in given.items() if name not in ("type", "where")}
    if foreign := [name for name in own if name not in FIELDS[kind]]:
        allowed = ", ".join((*FIELDS[kind], "where"))
        raise ConstraintError(f"a constraint of type {kind!r} has no field {foreign[0]!r:.80}; it has: {allowed}")
    where = given.get("where", "text")
    if where not in ("text", "code_blocks") or (kind == "oracle" and "where" in given):
        raise ConstraintError(f"where must be 'text' or 'code_blocks', and not of an oracle, got {where!r:.80}")
    if kind == "oracle":
        return Registered(text_of("name", given.get("name")))
    oracle = MAKERS[kind](own)
    return CodeBlocks(oracle) if where == "code_blocks" else oracle


def is_oracle(given: Any) -> TypeGuard[Oracle]:
    return all(hasattr(given, name) for name in ("check", "name", "partial"))


def is_hard(given: Constraint) -> TypeGuard[Spec]:
    return isinstance(given, Spec)
