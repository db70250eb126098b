"""Python files as trees whose nodes are byte spans, and the levels by which the part that is patched may grow.

expr: the smallest expression around it. stmt: the simple statement, or the header of a compound one. block: the
statements beside it. def: the function or class. A file that does not parse grows by its indentation instead.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

from unmask.patching.source import Source, holds
from unmask.types import ByteSpan

LEVELS = ("expr", "stmt", "block", "def")
TO_COLON = re.compile(rb"(?:#[^\r\n]*|[^:#])*:")  # past what may stand between a header's last part and its colon
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(source: Source) -> ast.Module | None:
    """The tree of a file; None where it is not valid Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # about the file, not about us
            return ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def span_of(source: Source, node: ast.AST) -> ByteSpan:
    """All of a node, decorators included. ast counts columns in bytes of UTF-8, from 0."""
    rows = source.rows
    where = [getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")]
    start = rows[where[0] - 1].start + where[1]
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    if decorators:  # only spaces and brackets stand between the sign and its expression
        start = source.data.rfind(b"@", 0, span_of(source, decorators[0]).start)
    return ByteSpan(start, rows[where[2] - 1].start + where[3])


def span_of_all(source: Source, nodes: Sequence[ast.stmt]) -> ByteSpan:
    return ByteSpan(span_of(source, nodes[0]).start, span_of(source, nodes[-1]).end)


def definitions(tree: ast.AST, path: str = "") -> list[tuple[str, Definition]]:
    """All functions and classes with their dotted names, in the order of the file."""
    found = list[tuple[str, Definition]]()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            found.append((path + node.name, node))
            found += definitions(node, f"{path}{node.name}.")
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):  # a definition under `if` or `try`
            found += definitions(node, path)
    return found


def suites(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    """All lists of statements that stand under each other."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block:
                yield block


def grown(source: Source, span: ByteSpan, most: str | None) -> list[tuple[str, ByteSpan]]:
    """The span itself and, up to the level `most`, what it may grow to: each larger than the one before."""
    if most is not None and most not in LEVELS:
        raise ValueError(f"grow must be one of {', '.join(LEVELS)}, got {most!r}")
    wanted = LEVELS[: LEVELS.index(most) + 1] if most is not None else ()
    tree = parsed(source)
    around = by_tree(source, tree, span) if tree is not None else by_indent(source, span)
    every = [("span", span), *((level, around[level]) for level in wanted if level in around)]
    growing = [every[0]]
    for level, larger in every[1:]:
        if holds(larger, growing[-1][1]) and larger != growing[-1][1]:
            growing.append((level, larger))
    return growing


def by_tree(source: Source, tree: ast.Module, span: ByteSpan) -> dict[str, ByteSpan]:
    """The span of each level that there is around a span."""
    found = dict[str, ByteSpan]()
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr | ast.stmt)]
    around = [(span_of(source, node), node) for node in nodes]
    around = [(place, node) for place, node in around if holds(place, span)]
    around.sort(key=lambda one: one[0].end - one[0].start)
    expressions = [place for place, node in around if isinstance(node, ast.expr) and place != span]
    if expressions:
        found["expr"] = expressions[0]
    statements = [(place, node) for place, node in around if isinstance(node, ast.stmt)]
    if statements:
        place, node = statements[0]
        head = header(source, node, place)
        found["stmt"] = whole_row(source, head if holds(head, span) else place)
    blocks = [whole_row(source, span_of_all(source, block)) for block in suites(tree)]
    blocks = [place for place in blocks if holds(place, found.get("stmt", span))]
    if blocks:
        found["block"] = min(blocks, key=lambda place: place.end - place.start)
    scopes = [place for place, node in statements if isinstance(node, Definition)]
    if scopes:
        found["def"] = whole_row(source, scopes[0])
    return found


def header(source: Source, node: ast.stmt, place: ByteSpan) -> ByteSpan:
    """Of a compound statement all before the statements under it, the colon included; of any other all."""
    end = colon(source, node)
    return place if end is None else ByteSpan(place.start, end + 1)


def colon(source: Source, node: ast.stmt) -> int | None:
    """Where the colon of a compound statement's header is; None for a simple statement."""
    body: list[ast.stmt] = getattr(node, "body", None) or getattr(node, "cases", None) or []
    if not body:
        return None
    first = span_of(source, body[0].pattern if isinstance(body[0], ast.match_case) else body[0]).start
    ends = [span_of(source, part).end for part in ast.walk(node) if hasattr(part, "end_col_offset")]
    start = source.row(node.lineno).start + node.col_offset  # after decorators
    last = max([start, *(end for end in ends if end <= first)])
    found = TO_COLON.match(source.data, last)
    return found.end() - 1 if found is not None else None


def whole_row(source: Source, span: ByteSpan) -> ByteSpan:
    """With the indentation before it, which a model writes as part of the line."""
    indent = source.indent(source.line(span.start))
    return ByteSpan(indent.start, span.end) if indent.end == span.start else span


def by_indent(source: Source, span: ByteSpan) -> dict[str, ByteSpan]:
    """Levels of a text that does not parse: its lines, those as far to the right, those under the next `def`."""
    first, last = source.line(span.start), source.line(max(span.start, span.end - 1))
    found = {"stmt": ByteSpan(source.row(first).start, source.row(last).end)}
    depth = width(source, first)
    top, bottom = first, last
    while top > 1 and (blank(source, top - 1) or width(source, top - 1) >= depth):
        top -= 1
    while bottom < len(source.rows) and (blank(source, bottom + 1) or width(source, bottom + 1) >= depth):
        bottom += 1
    found["block"] = trimmed(source, top, bottom)
    for line in range(first, 0, -1):
        words = source.data[source.indent(line).end : source.row(line).end].split(maxsplit=2)
        if words[:1] in ([b"def"], [b"class"]) or words[:2] == [b"async", b"def"]:
            outer = width(source, line)
            end = line
            while end < len(source.rows) and (blank(source, end + 1) or width(source, end + 1) > outer):
                end += 1
            found["def"] = trimmed(source, line, max(end, last))
            break
    return found


def width(source: Source, line: int) -> int:
    indent = source.indent(line)
    return len(source.data[indent.start : indent.end].expandtabs(8))


def blank(source: Source, line: int) -> bool:
    return not source.data[source.row(line).start : source.row(line).end].strip()


def trimmed(source: Source, first: int, last: int) -> ByteSpan:
    """Lines without the blank ones at either end."""
    while first < last and blank(source, first):
        first += 1
    while last > first and blank(source, last):
        last -= 1
    return ByteSpan(source.row(first).start, source.row(last).end)
