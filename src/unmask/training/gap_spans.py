"""Which part of a text is taken out for a gap layout: characters, lines, or a node of a Python syntax tree.

A text is a piece of a document, so its first and last lines may be torn; syntax is looked for in the lines that parse.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator

import numpy as np

Span = tuple[int, int]  # characters [start, end)
TRIES = 6  # places at which a stretch of lines that parses is looked for


def draw(text: str, kind: str, longest: int, rng: np.random.Generator) -> Span | None:
    """A part of at most `longest` characters, neither blank nor at the very start; None where there is none."""
    ways = {"characters": characters, "lines": lines, "syntax": syntax}
    found = ways[kind](text, longest, rng) or (lines(text, longest, rng) if kind == "syntax" else None)
    return found if found and found[0] > 0 and text[slice(*found)].strip() else None


def characters(text: str, longest: int, rng: np.random.Generator) -> Span | None:
    """Any part, its length uniform on a log scale."""
    most = min(longest, len(text) - 1)
    if most < 1:
        return None
    size = min(int(math.exp(rng.uniform(0, math.log(most + 1)))), most)
    start = int(rng.integers(1, len(text) - size + 1))
    return start, start + size


def lines(text: str, longest: int, rng: np.random.Generator) -> Span | None:
    """A line or more, each further one half as likely; with or without the indentation before and the break after."""
    rows = text.splitlines(keepends=True)
    first = int(rng.integers(min(1, len(rows) - 1), len(rows)))
    count = int(rng.geometric(0.5))
    start = sum(map(len, rows[:first]))
    part = "".join(rows[first : first + count])
    with_indent, with_break = rng.random(2) < 0.5
    if not with_indent:
        start, part = start + len(part) - len(part.lstrip(" \t")), part.lstrip(" \t")
    if not with_break:
        part = part.rstrip("\r\n")
    return (start, start + len(part)) if 0 < len(part) <= longest else None


def syntax(text: str, longest: int, rng: np.random.Generator) -> Span | None:
    """An expression, a statement or a body, each kind as likely as the others."""
    groups = [[span for span in group if 0 < span[1] - span[0] <= longest] for group in nodes(text)]
    groups = [group for group in groups if group]
    if not groups:
        return None
    group = groups[int(rng.integers(len(groups)))]
    return group[int(rng.integers(len(group)))]


def nodes(text: str) -> tuple[list[Span], list[Span], list[Span]]:
    """Spans of expressions (but for bare names), statements, and bodies of several statements; none without a parse."""
    expressions, statements, bodies = list[Span](), list[Span](), list[Span]()
    if (found := parsed(text.splitlines(keepends=True))) is None:
        return expressions, statements, bodies
    tree, starts = found

    def span(first: ast.expr | ast.stmt, last: ast.expr | ast.stmt) -> Span:
        assert last.end_lineno is not None
        assert last.end_col_offset is not None
        return place(text, starts, first.lineno, first.col_offset), place(
            text, starts, last.end_lineno, last.end_col_offset
        )

    for node in walk(tree):
        if isinstance(node, ast.stmt):
            statements.append(span(node, node))
        elif isinstance(node, ast.expr) and not isinstance(node, ast.Name):
            expressions.append(span(node, node))
        for part in ("body", "orelse", "finalbody"):
            body = getattr(node, part, None)
            if isinstance(body, list) and len(body) > 1 and not isinstance(node, ast.Module):
                bodies.append(span(body[0], body[-1]))
    return expressions, statements, bodies


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those inside f-strings, whose places Python 3.11 does not know."""
    yield node
    if not isinstance(node, ast.JoinedStr):
        for child in ast.iter_child_nodes(node):
            yield from walk(child)


def parsed(rows: list[str]) -> tuple[ast.Module, list[int]] | None:
    """The tree of the first stretch of lines that parses, and where each of its lines starts in the text, behind the
    indentation that all of them share."""
    offsets = np.cumsum([0, *map(len, rows)]).tolist()
    first = 0
    for _ in range(TRIES):
        while first < len(rows) and not rows[first].strip():
            first += 1
        if first == len(rows):
            return None
        indent = rows[first][: len(rows[first]) - len(rows[first].lstrip(" \t"))]
        last = first
        while last < len(rows) and (rows[last].startswith(indent) or not rows[last].strip()):
            last += 1
        while last > first:
            bare = [row.removeprefix(indent) for row in rows[first:last]]
            tree, wrong = parse("".join(bare))
            if tree is not None:
                starts = [offsets[first + i] + len(rows[first + i]) - len(row) for i, row in enumerate(bare)]
                return tree, starts
            # Up to the line with the fault, which is often only the torn last one.
            last = first + min(wrong, last - first) - 1
        first += 1
    return None


def parse(source: str) -> tuple[ast.Module | None, int]:
    """The tree, or None and the line (from 1) at which Python gives up."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in strings
            return ast.parse(source), 0
    except SyntaxError as error:
        return None, error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return None, 1


def place(text: str, starts: list[int], line: int, column: int) -> int:
    """The character at a place of the tree, whose columns count bytes of UTF-8."""
    start = starts[line - 1]
    if text[start : start + column].isascii():
        return start + column
    return start + len(text[start : start + column].encode()[:column].decode("utf-8", "ignore"))
