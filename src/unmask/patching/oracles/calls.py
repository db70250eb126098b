"""Oracles about structure: what a text must and must not call, and which modules may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from unmask.patching.oracles.python import NOT_PYTHON, source_of, tree_of, verdict
from unmask.patching.source import Source
from unmask.patching.tree import Definition, definitions, span_of
from unmask.types import ByteSpan, Verdict, View, Violation


@dataclass(frozen=True, slots=True)
class Calls:
    """must, must_not: dotted names, as in "session.commit", "eval" or "os.system"; what was imported under another name
    counts under its own. scope: dotted name of the function or class that it is about; None: the whole text.

    A call that must not be is blamed itself; one that is missing is an insertion point, before the last statement of
    the scope if that is a `return`, else after it.
    """

    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()
    scope: str | None = None
    name: str = "calls"
    partial: bool = False

    def __post_init__(self) -> None:
        if not self.must and not self.must_not:
            raise ValueError("calls must name something in must or must_not")

    def check(self, view: View) -> Verdict:
        tree = tree_of(view)
        if tree is None:
            return NOT_PYTHON
        source = source_of(view)
        scopes: Sequence[ast.Module | Definition] = [tree]
        if self.scope is not None:
            scopes = [node for path, node in definitions(tree) if path == self.scope]
            if not scopes:
                return Verdict("unknown", f"there is no {self.scope} in the text")
        aliases = imported(tree)
        found = list[Violation]()
        for scope in scopes:
            made = [(meaning(call.func, aliases), call) for call in ast.walk(scope) if isinstance(call, ast.Call)]
            for dotted, call in made:
                for name in self.must_not:
                    if matches(dotted, name):
                        text = f"{name} must not be called"
                        found.append(Violation(text, span_of(source, call), "forbidden-call", self.name))
            for name in self.must:
                if not any(matches(dotted, name) for dotted, _ in made):
                    where = f" in {self.scope}" if self.scope else ""
                    place = insertion(source, scope)
                    found.append(Violation(f"{name} must be called{where}", place, "missing-call", self.name))
        return verdict(sorted(found, key=lambda one: one.span))


def imported(tree: ast.Module) -> dict[str, str]:
    """Name -> what it means, of everything that the text imports."""
    found = dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def meaning(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """Dotted name of what is called; of a call on the result of another, only the part after it."""
    parts = list[str]()
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def matches(dotted: str, name: str) -> bool:
    """`session.commit` is also that of `self.session.commit`; a name without a dot is itself alone."""
    return dotted == name or ("." in name and dotted.endswith(f".{name}"))


def insertion(source: Source, scope: ast.Module | Definition) -> ByteSpan:
    """Where a statement could be added at the end of a scope."""
    if not scope.body:
        return ByteSpan(len(source.data), len(source.data))
    last = span_of(source, scope.body[-1])
    at = last.start if isinstance(scope.body[-1], ast.Return | ast.Raise) else last.end
    return ByteSpan(at, at)


@dataclass(frozen=True, slots=True)
class Layers:
    """Imports go down only. ranks: package or module -> its height; a text imports from its own height or from below.

    The text's own place is found by its path; ranks that are not named are not judged.
    """

    ranks: Mapping[str, int]
    name: str = "layers"
    partial: bool = False

    def check(self, view: View) -> Verdict:
        own = self.rank(module_of(view.path or ""))
        if own is None:
            return Verdict("unknown", f"{view.path} is in no layer")
        tree = tree_of(view)
        if tree is None:
            return NOT_PYTHON
        source, found = source_of(view), list[Violation]()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for module in targets(node, module_of(view.path or "")):
                    rank = self.rank(module)
                    if rank is not None and rank > own:
                        text = f"{module} is above this module and must not be imported here"
                        found.append(Violation(text, span_of(source, node), "upward-import", self.name))
                        break
        return verdict(sorted(found, key=lambda one: one.span))

    def rank(self, module: str) -> int | None:
        """Of the longest name in `ranks` that the module is or lies in, at any depth: `app.services.users` is in
        `services`."""
        parts = module.split(".")
        found = [(len(name), height) for name, height in self.ranks.items() if lies_in(parts, name.split("."))]
        return max(found)[1] if found else None


def lies_in(parts: list[str], name: list[str]) -> bool:
    return any(parts[at : at + len(name)] == name for at in range(len(parts)))


def module_of(path: str) -> str:
    parts = path.replace("\\", "/").removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(part for part in parts if part not in ("", "."))


def targets(node: ast.Import | ast.ImportFrom, here: str) -> Iterator[str]:
    """Modules that an import may mean; `from a import b` may mean a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    above = here.split(".")[: -node.level] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)
