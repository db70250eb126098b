"""Oracles of patches from their JSON form, for the command line and for HTTP.

{"type": "calls", "must": [...], "must_not": [...], "scope": "Cls.meth"}    {"type": "layers", "ranks": {"models": 0}}
{"type": "sqlalchemy"}    {"type": "ruff", "rules": [...]}    {"type": "mypy"}    {"type": "startup", "module": "app"}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unmask.patching.oracles.calls import Calls, Layers
from unmask.patching.oracles.commands import startup
from unmask.patching.oracles.orm import SqlAlchemy
from unmask.patching.oracles.tools import RULES, Mypy, Ruff
from unmask.types import Oracle

FIELDS: dict[str, tuple[str, ...]] = {
    "calls": ("must", "must_not", "scope"),
    "layers": ("ranks",),
    "sqlalchemy": (),
    "ruff": ("rules",),
    "mypy": (),
    "startup": ("module",),
}
STATIC = ("calls", "layers", "sqlalchemy", "ruff")  # those that run nothing of what they judge
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
RULE = re.compile(r"[A-Z]+[0-9]*")


def oracle_of(given: Mapping[str, Any], path: str, root: Path | None = None, *, static: bool = False) -> Oracle:
    """ValueError that names what is wrong. path: the file's; root: of its project. static: only types that run nothing
    (of `sqlalchemy` its static pass)."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    known = STATIC if static else tuple(FIELDS)
    if kind not in known:
        raise ValueError(f"an oracle's type must be one of {', '.join(known)}, got {kind!r:.80}")
    own = {name: value for name, value in given.items() if name != "type"}
    if foreign := [name for name in own if name not in FIELDS[kind]]:
        fields = ", ".join(FIELDS[kind]) or "none"
        raise ValueError(f"an oracle of type {kind!r} has no field {foreign[0]!r:.80}; it has: {fields}")
    makers: dict[str, Callable[[], Oracle]] = {
        "calls": lambda: Calls(names("must", own), names("must_not", own), scope(own.get("scope"))),
        "layers": lambda: Layers(ranks(own.get("ranks"))),
        "sqlalchemy": lambda: SqlAlchemy(run=not static),
        "ruff": lambda: Ruff((*RULES, *names("rules", own, RULE))),
        "mypy": lambda: Mypy(root),
        "startup": lambda: startup(dotted("module", own.get("module")), path, root),
    }
    return makers[kind]()


def names(field: str, own: Mapping[str, Any], form: re.Pattern[str] = MODULE) -> tuple[str, ...]:
    value = own.get(field, [])
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and form.fullmatch(one) for one in value):
        raise ValueError(f"{field} must be a list of names, got {value!r:.80}")
    return tuple(value)


def dotted(field: str, value: Any) -> str:
    if not isinstance(value, str) or not MODULE.fullmatch(value):
        raise ValueError(f"{field} must be a dotted name, got {value!r:.80}")
    return value


def scope(value: Any) -> str | None:
    return None if value is None else dotted("scope", value)


def ranks(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"ranks must map names to whole numbers, got {value!r:.80}")
    for height in value.values():
        if isinstance(height, bool) or not isinstance(height, int):
            raise ValueError(f"ranks must map names to whole numbers, got {height!r:.80}")
    return {dotted("ranks", name): height for name, height in value.items()}
