"""Grammars in GBNF, the notation of llama.cpp that xgrammar and others call EBNF: `root ::= "a" [0-9]+ | other`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unmask.constraints.expr import (
    EMPTY,
    LAST,
    ConstraintError,
    Expr,
    Range,
    Ref,
    Repeat,
    Source,
    alt,
    chars,
    complement,
    seq,
    text,
)
from unmask.constraints.limits import DEEPEST, LONGEST_SOURCE

TOKEN = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<rule>[A-Za-z_][A-Za-z0-9_.-]*\s*::=)
    |(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*")
    |(?P<klass>\[(?:[^\]\\]|\\.)*\])
    |(?P<count>\{\s*\d*\s*(?:,\s*\d*\s*)?\})
    |(?P<sign>[|()*+?.])""",
    re.VERBOSE,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(frozen=True, slots=True)
class Piece:
    kind: str
    value: str
    line: int


def source(grammar: str) -> Source:
    """ConstraintError with the line of a mistake."""
    if len(grammar) > LONGEST_SOURCE:
        raise ConstraintError(f"the grammar has more than {LONGEST_SOURCE} characters")
    pieces, rules, place = pieces_of(grammar), dict[str, Expr](), 0
    while place < len(pieces):
        head = pieces[place]
        if head.kind != "rule":
            raise wrong(head, "a rule (name ::= ...) is expected")
        name = head.value.removesuffix("::=").strip()
        if name in rules:
            raise wrong(head, f"the rule {name!r} is given twice")
        rules[name], place = choice(pieces, place + 1, 0)
        if place < len(pieces) and pieces[place].kind != "rule":
            raise wrong(pieces[place], "a closing parenthesis has no opening one")
    if "root" not in rules:
        raise ConstraintError("the grammar has no rule 'root'")
    return Source(rules, "root")


def pieces_of(grammar: str) -> list[Piece]:
    found, place, line = list[Piece](), 0, 1
    while place < len(grammar):
        match = TOKEN.match(grammar, place)
        if match is None:
            raise ConstraintError(
                f"the grammar is wrong in line {line}: {grammar[place : place + 20]!r} is not understood"
            )
        if match.lastgroup:
            found.append(Piece(match.lastgroup, match.group(), line))
        line += match.group().count("\n")
        place = match.end()
    return found


def wrong(piece: Piece, what: str) -> ConstraintError:
    return ConstraintError(f"the grammar is wrong in line {piece.line}, at {piece.value[:40]!r}: {what}")


def choice(pieces: list[Piece], place: int, depth: int) -> tuple[Expr, int]:
    """Alternatives up to a closing parenthesis, the next rule or the end."""
    ways, parts = list[Expr](), list[Expr]()
    while place < len(pieces):
        piece = pieces[place]
        if piece.kind == "rule" or piece.value == ")":
            break
        if piece.value == "|":
            ways.append(seq(*parts) if parts else EMPTY)
            parts = []
            place += 1
            continue
        part, place = item(pieces, place, depth)
        parts.append(part)
    ways.append(seq(*parts) if parts else EMPTY)
    return alt(ways), place


def item(pieces: list[Piece], place: int, depth: int) -> tuple[Expr, int]:
    piece = pieces[place]
    place += 1
    if piece.kind == "name":
        found: Expr = Ref(piece.value)
    elif piece.kind == "text":
        found = text(unescaped(piece.value[1:-1], piece))
    elif piece.kind == "klass":
        found = klass(piece)
    elif piece.value == ".":
        found = chars([(0, LAST)])
    elif piece.value == "(":
        if depth > DEEPEST:
            raise wrong(piece, f"parentheses are nested more than {DEEPEST} deep")
        found, place = choice(pieces, place, depth + 1)
        if place == len(pieces) or pieces[place].value != ")":
            raise wrong(piece, "it is not closed")
        place += 1
    else:
        raise wrong(piece, "nothing stands before it")
    while place < len(pieces) and (pieces[place].value in COUNTS or pieces[place].kind == "count"):
        least, most = COUNTS.get(pieces[place].value) or counts(pieces[place])
        found = Repeat(found, least, most)
        place += 1
    return found, place


def counts(piece: Piece) -> tuple[int, int | None]:
    low, comma, high = (part.strip() for part in piece.value[1:-1].partition(","))
    if not low and not comma:
        raise wrong(piece, "a number is expected")
    least = int(low or 0)
    most = least if not comma else int(high) if high else None
    if most is not None and most < least:
        raise wrong(piece, "the second number is below the first")
    return least, most


def unescaped(body: str, piece: Piece) -> str:
    return "".join(letters(body, piece))


def letters(body: str, piece: Piece) -> list[str]:
    """Characters of a text or a class; an escaped one is two characters long, so that it can be told apart."""
    found, place = list[str](), 0
    while place < len(body):
        match = ESCAPE.match(body, place)
        if match is None:
            found.append(body[place])
            place += 1
            continue
        code = next((group for group in match.groups()[:3] if group), None)
        point = int(code, 16) if code else ord(ESCAPES.get(match[4], match[4]))
        if point > LAST or 0xD800 <= point <= 0xDFFF:
            raise wrong(piece, f"{match.group()} is no character")
        found.append(chr(point))
        place = match.end()
    return found


def klass(piece: Piece) -> Expr:
    body = piece.value[1:-1]
    negated = body.startswith("^")
    body = body.removeprefix("^")
    # An escaped minus is a minus, not a range: it is marked before the escapes are resolved.
    marks = [match.group() == "-" for match in re.finditer(r"\\(?:x..|u.{4}|U.{8}|.)|.", body, re.DOTALL)]
    points = list(map(ord, letters(body, piece)))
    ranges, i = list[Range](), 0
    while i < len(points):
        if i + 2 < len(points) and marks[i + 1]:
            if points[i + 2] < points[i]:
                raise wrong(piece, "a range runs backwards")
            ranges.append((points[i], points[i + 2]))
            i += 3
        else:
            ranges.append((points[i], points[i]))
            i += 1
    return chars(complement(ranges) if negated else ranges)
