"""Oracles for Python text: whether it parses, and whether its names and imports are there (by pyflakes).

Neither runs the text. What a name means where star imports or `exec` hide it is not judged.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from typing import Any

from pyflakes import checker, messages

from unmask.patching.oracles.modules import missing
from unmask.patching.source import Source
from unmask.patching.tree import span_of
from unmask.types import ByteSpan, Verdict, View, Violation

SYNTAX, NAMES, IMPORTS = "syntax", "names", "imports"


def source_of(view: View) -> Source:
    return Source(view.text.encode())


def verdict(violations: list[Violation]) -> Verdict:
    """Satisfied without violations; with some, told by the first."""
    if not violations:
        return Verdict("satisfied")
    return Verdict("violated", violations[0].message, tuple(violations))


def tree_of(view: View) -> ast.Module | None:
    """The tree of a text, or None: whether it parses is another oracle's question."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source_of(view).text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


NOT_PYTHON = Verdict("unknown", "the text is not valid Python")


def fault(source: Source, error: SyntaxError) -> Violation:
    """A syntax error at its place; where it has none, or lies at the end of a line, of the whole line."""
    line = min(max(error.lineno or 1, 1), len(source.rows))
    row = source.row(line)
    start = source.near(line, error.offset) if error.offset else row.start
    end = start
    if error.end_lineno and error.end_offset and error.end_offset > 0:
        end = source.near(error.end_lineno, error.end_offset)
    if end <= start and start < row.end:  # a point: the letter there
        end = start + len(source.data[start : row.end].decode()[:1].encode())
    span = ByteSpan(start, end) if end > start else row
    return Violation(error.msg, span, "invalid-syntax", SYNTAX)


@dataclass(frozen=True, slots=True)
class Names:
    """Names that are used and not defined, defined and not used, imported and not used, and pyflakes' other findings.

    Code: pyflakes' name of it, as in "undefined-name". What is merely unused weighs half.
    """

    name: str = NAMES
    partial: bool = False

    def check(self, view: View) -> Verdict:
        tree = tree_of(view)
        if tree is None:
            return NOT_PYTHON
        source = source_of(view)
        found = checker.Checker(tree, filename=view.path or "text.py", builtins=None).messages
        found.sort(key=lambda one: (one.lineno, one.col, type(one).__name__))
        return verdict([named(source, one) for one in found])


def named(source: Source, one: Any) -> Violation:
    """A message of pyflakes, at the name that it is about. Its columns are those of ast: bytes from 0."""
    code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(one).__name__).lower()
    row = source.row(one.lineno)
    start = min(row.start + one.col, row.end)
    name = next((part for part in one.message_args if isinstance(part, str)), "")
    sought = rf"\b{re.escape(name.split('.')[-1].split(' as ')[-1])}\b"
    letters = source.data[start : row.end].decode("utf-8", "ignore")
    span = row
    if name and (hit := re.search(sought, letters)):
        span = ByteSpan(*(start + len(letters[:end].encode()) for end in hit.span()))
    severity = 0.5 if isinstance(one, messages.UnusedImport | messages.UnusedVariable) else 1.0
    return Violation(one.message % one.message_args, span, code, NAMES, severity=severity)


@dataclass(frozen=True, slots=True)
class Imports:
    """Imports of modules that are not installed here and not among `known`, and of names that a module of the standard
    library does not have. No module but the standard library's is imported to find out."""

    known: frozenset[str] = frozenset()
    name: str = IMPORTS
    partial: bool = False

    def check(self, view: View) -> Verdict:
        tree = tree_of(view)
        if tree is None:
            return NOT_PYTHON
        source, found = source_of(view), list[Violation]()
        may_fail = guarded(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and node not in may_fail:
                for alias, reason in missing(node, self.known):
                    found.append(Violation(reason, span_of(source, alias), "unresolved-import", self.name))
        return verdict(sorted(found, key=lambda one: one.span))


def guarded(tree: ast.Module) -> set[ast.AST]:
    """All that stands under a `try` or an `if`: an import there may well be missing."""
    outer = [node for node in ast.walk(tree) if isinstance(node, ast.Try | ast.If)]
    return {inner for node in outer for inner in ast.walk(node)}
