"""Where a patch goes, as users say it: lines, a range, a symbol or a marker, each as a part of the file in bytes."""

from __future__ import annotations

import re

from unmask.patching.source import Source
from unmask.patching.tree import Definition, colon, definitions, parsed, span_of, span_of_all
from unmask.types import ByteSpan

SYMBOL = re.compile(r"(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?::(?P<what>body|signature))?")


def lines(source: Source, wanted: str) -> ByteSpan:
    """`12` or `12-15`: whole lines, without the end of the last one."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", wanted)
    if not found:
        raise ValueError(f"lines must be like 12 or 12-15, got {wanted!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= len(source.rows):
        raise ValueError(f"lines {wanted}: the file has lines 1 to {len(source.rows)}")
    return ByteSpan(source.row(first).start, source.row(last).end)


def ranged(source: Source, wanted: str) -> ByteSpan:
    """`12:5-12:20`: columns in characters from 1, the last one left out."""
    found = re.fullmatch(r"(\d+):(\d+)-(\d+):(\d+)", wanted)
    if not found:
        raise ValueError(f"range must be like 12:5-12:20, got {wanted!r}")
    numbers = [int(number) for number in found.groups()]
    try:
        part = ByteSpan(source.at(*numbers[:2]), source.at(*numbers[2:]))
    except ValueError as error:
        raise ValueError(f"range {wanted}: {error}") from None
    if part.start > part.end:
        raise ValueError(f"range {wanted} ends before it begins")
    return part


def marker(source: Source, wanted: str) -> ByteSpan:
    """The one place where a text stands."""
    if not wanted:
        raise ValueError("marker must not be empty")
    sought = wanted.encode()
    count = source.data.count(sought)
    if count != 1:
        raise ValueError(f"the marker {wanted!r} must stand in the file once, and stands there {count} times")
    start = source.data.index(sought)
    return ByteSpan(start, start + len(sought))


def symbol(source: Source, wanted: str) -> ByteSpan:
    """`Cls.meth`: a class or function of a Python file with its decorators. `Cls.meth:body`: what it does, without its
    header; `Cls.meth:signature`: its header up to the colon, without decorators."""
    found = SYMBOL.fullmatch(wanted)
    if not found:
        raise ValueError(f"symbol must be like name, Class.method, name:body or name:signature, got {wanted!r}")
    name, what = found["name"], found["what"]
    node = definition(source, name)
    if what == "body":
        return span_of_all(source, node.body)
    if what == "signature":
        return signature(source, node)
    return span_of(source, node)


def definition(source: Source, name: str) -> Definition:
    tree = parsed(source)
    if tree is None:
        raise ValueError(f"symbol {name}: the file is not valid Python, so its symbols are not known")
    every = definitions(tree)
    chosen = [node for path, node in every if path == name]
    if not chosen:
        known = ", ".join(dict.fromkeys(path for path, _ in every[:20])) or "none"
        raise ValueError(f"symbol {name} is not defined in the file; defined: {known}")
    if len(chosen) > 1:
        where = ", ".join(str(node.lineno) for node in chosen)
        raise ValueError(f"symbol {name} is defined {len(chosen)} times (lines {where}): choose one by its lines")
    return chosen[0]


def signature(source: Source, node: Definition) -> ByteSpan:
    """From `def` or `class` up to the colon, without it."""
    end = colon(source, node)
    assert end is not None
    return ByteSpan(source.row(node.lineno).start + node.col_offset, end)
