"""Imports that are missing: a name that nobody defines may want a line at the top rather than another name."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from unmask.patching.oracles.modules import exists, offers
from unmask.patching.source import Source
from unmask.patching.tree import parsed, span_of
from unmask.types import ByteSpan, Violation

# Of pyflakes, ruff, mypy and Python itself.
CODES = {"undefined-name", "F821", "name-defined", "NameError"}
NAMED = re.compile(r"\bname [`'\"](?P<name>[^\W\d]\w*)[`'\"]", re.IGNORECASE)


# Modules of the standard library whose names are imported from them, and the names that some modules go by.
LIKELY = (
    *("abc", "ast", "bisect", "collections", "collections.abc", "contextlib", "copy", "csv", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "glob", "hashlib", "heapq", "inspect", "io", "itertools", "json"),
    *("logging", "math", "operator", "os", "os.path", "pathlib", "queue", "random", "re", "shutil", "statistics"),
    *("string", "subprocess", "sys", "tempfile", "textwrap", "threading", "time", "types", "typing", "warnings"),
)
CALLED = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot", "sa": "sqlalchemy", "sns": "seaborn"}


def names_missing(targets: Sequence[Violation]) -> list[str]:
    """Names that the targets miss."""
    found = [NAMED.search(target.message) for target in targets if target.code in CODES]
    return list(dict.fromkeys(hit["name"] for hit in found if hit))


def imports_of(name: str) -> list[str]:
    """Lines that bind a name and lead somewhere: a module of that name, or a likely one that has it."""
    made = [f"import {name}\n"] if exists(name, frozenset()) else []
    if (module := CALLED.get(name)) is not None and exists(module, frozenset()):
        made.append(f"import {module} as {name}\n")
    return made + [f"from {module} import {name}\n" for module in LIKELY if offers(module, name)]


def import_place(source: Source) -> ByteSpan:
    """The beginning of the line after the imports at the top, or after the docstring and comments there."""
    tree = parsed(source)
    last: ast.stmt | None = None
    for number, node in enumerate(tree.body if tree is not None else []):
        docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        last = node
    if last is not None:
        line = source.line(span_of(source, last).end - 1) + 1
    else:
        line = 1
        while line <= len(source.rows) and source.data[source.row(line).start :].startswith(b"#"):
            line += 1
    if line > len(source.rows) and not source.data.endswith((b"\n", b"\r")):
        line -= 1  # nothing may follow an unfinished line
    at = source.row(line).start if line <= len(source.rows) else len(source.data)
    return ByteSpan(at, at)
