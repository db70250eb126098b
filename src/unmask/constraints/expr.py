"""Languages as small trees: what every front end (regex, JSON Schema, Lark, GBNF) makes for the automata.

A `Source` is a context-free grammar whose rules are trees over bytes and characters. Plain data, no algorithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
Range = tuple[int, int]


class ConstraintError(ValueError):
    """A constraint that cannot be honoured, with the reason in one line. Raised before anything is decoded."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Exactly these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of ranges of code points, ascending and apart; in UTF-8 when it becomes bytes."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """One of the parts; of none: nothing at all, not even the empty text."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`least` to `most` times; most None: without end."""

    body: Expr
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Ref:
    """What the rule of that name says."""

    name: str


Expr = Bytes | Chars | Seq | Alt | Repeat | Ref
EMPTY, NOTHING = Seq(()), Alt(())


@dataclass(frozen=True, slots=True)
class Source:
    rules: Mapping[str, Expr]
    start: str


def text(literal: str) -> Bytes:
    return Bytes(literal.encode())


def seq(*parts: Expr) -> Expr:
    return parts[0] if len(parts) == 1 else Seq(parts)


def alt(parts: Sequence[Expr]) -> Expr:
    return parts[0] if len(parts) == 1 else Alt(tuple(parts))


def maybe(body: Expr) -> Expr:
    return Repeat(body, 0, 1)


def chars(ranges: Sequence[Range]) -> Chars:
    """A class of characters: ranges in any order, overlapping or not, less the surrogates, which UTF-8 has not."""
    merged = list[list[int]]()
    for low, high in sorted((low, high) for low, high in ranges if low <= high):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    found = list[Range]()
    for low, high in merged:
        found += [(low, min(high, SURROGATES[0] - 1)), (max(low, SURROGATES[1] + 1), high)]
    return Chars(tuple(sorted({(low, high) for low, high in found if low <= high})))


def complement(ranges: Sequence[Range]) -> list[Range]:
    """All code points that are in none of the ranges."""
    found, after = list[Range](), 0
    for low, high in sorted(ranges):
        if low > after:
            found.append((after, low - 1))
        after = max(after, high + 1)
    return [*found, (after, LAST)] if after <= LAST else found


@lru_cache(maxsize=4096)
def utf8(low: int, high: int) -> list[tuple[Range, ...]]:
    """Sequences of byte ranges that together are exactly the UTF-8 of the code points low..high (no surrogates)."""
    for size, last in ((1, 0x7F), (2, 0x7FF), (3, 0xFFFF)):
        if low <= last < high and size < 4:
            return utf8(low, last) + utf8(last + 1, high)
    if high <= 0x7F:
        return [((low, high),)]
    for shift in (6, 12, 18):
        unit = 1 << shift
        if low // unit != high // unit:
            if low % unit:
                edge = low | (unit - 1)
                return utf8(low, edge) + utf8(edge + 1, high)
            if high % unit != unit - 1:
                edge = high & ~(unit - 1)
                return utf8(low, edge - 1) + utf8(edge, high)
    return [tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))]
