"""Which modules there are, found without importing any; which names they have, for the standard library's alone, which
are imported to look."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from inspect import ismodule

LOUD = {"antigravity", "this", "idlelib", "turtledemo", "test"}  # importing them does more than to define names


def missing(node: ast.Import | ast.ImportFrom, known: frozenset[str]) -> Iterator[tuple[ast.alias, str]]:
    """Aliases of an import that lead nowhere, with the reason. Relative ones are not judged; `known` modules exist."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if not exists(alias.name, known):
                yield alias, f"no module named {alias.name!r}"
        return
    if node.level or node.module is None:
        return
    for alias in node.names:
        if not exists(node.module, known):
            yield alias, f"no module named {node.module!r}"
        elif alias.name != "*" and not has(node.module, alias.name):
            yield alias, f"module {node.module!r} has no name {alias.name!r}"


def exists(module: str, known: frozenset[str]) -> bool:
    top = module.partition(".")[0]
    return top == "__main__" or top in known or spec_of(module) is not None


@cache
def spec_of(module: str) -> ModuleSpec | None:
    """Where a module is. `find_spec` would import the packages around it."""
    top, *rest = module.split(".")
    try:
        spec = sys.modules[top].__spec__ if top in sys.builtin_module_names and top in sys.modules else find_spec(top)
    except (ValueError, ImportError, AttributeError):
        return None
    if rest and top == "os" and rest == ["path"]:
        return find_spec("posixpath")
    for number in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *rest[: number + 1]]), list(spec.submodule_search_locations))
    return spec


@cache
def has(module: str, name: str) -> bool:
    """Whether a module of the standard library has a name; of any other it is taken on trust."""
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names or top in LOUD or spec_of(f"{module}.{name}") is not None:
        return True
    try:
        return hasattr(import_module(module), name)
    except Exception:
        return True


@cache
def offers(module: str, name: str) -> bool:
    """Whether a module of the standard library means a name to be imported from it: what it has imported itself does
    not count."""
    found = import_module(module)
    public = getattr(found, "__all__", None)
    return name in public if public is not None else hasattr(found, name) and not ismodule(getattr(found, name))
