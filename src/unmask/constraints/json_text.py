"""How JSON values are spelled: strings, numbers in a range, literals. Spaces are optional and few, so that no text can
consist of them: one after a comma or colon, or a line end and up to 24 spaces of indentation.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from unmask.constraints.expr import (
    EMPTY,
    LAST,
    NOTHING,
    Alt,
    Bytes,
    Chars,
    Expr,
    Range,
    Ref,
    Repeat,
    Seq,
    alt,
    chars,
    complement,
    maybe,
    seq,
    text,
)

DIGITS = chars([(48, 57)])
HEX = chars([(48, 57), (65, 70), (97, 102)])
INDENT = 24
# Longer numbers lose digits, or do not fit, in what reads them.
MOST_DIGITS = 15
PLAIN: list[Range] = [(0x20, 0x21), (0x23, 0x5B), (0x5D, LAST)]  # characters that need no escape
SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

_UNICODE = Alt(
    (
        Seq((chars([(48, 57), (65, 67), (69, 70), (97, 99), (101, 102)]), HEX, HEX, HEX)),
        Seq((chars([(68, 68), (100, 100)]), chars([(48, 55)]), HEX, HEX)),  # no half of a surrogate pair
    )
)
_ESCAPE = Seq((text("\\"), Alt((Chars(tuple(sorted((ord(c),) * 2 for c in '"\\/bfnrt'))), Seq((text("u"), _UNICODE))))))
_INTEGER = Seq((maybe(text("-")), Alt((text("0"), Seq((chars([(49, 57)]), Repeat(DIGITS, 0, MOST_DIGITS - 1)))))))
_FRACTION = Seq((text("."), Repeat(DIGITS, 1, MOST_DIGITS)))
_EXPONENT = Seq((chars([(69, 69), (101, 101)]), maybe(chars([(43, 43), (45, 45)])), Repeat(DIGITS, 1, 2)))

# Rules that every schema may refer to.
RULES: dict[str, Expr] = {
    "space": Alt((EMPTY, text(" "), Seq((text("\n"), Repeat(text(" "), 0, INDENT))))),
    "char": Alt((chars(PLAIN), _ESCAPE)),
    "string": Seq((text('"'), Repeat(Alt((chars(PLAIN), _ESCAPE)), 0, None), text('"'))),
    "integer": _INTEGER,
    "number": Seq((_INTEGER, maybe(_FRACTION), maybe(_EXPONENT))),
    "pair": Seq((Ref("string"), text(":"), maybe(text(" ")), Ref("any"))),
    "object": Seq(
        (
            text("{"),
            Ref("space"),
            maybe(Seq((Ref("pair"), Repeat(Seq((text(","), Ref("space"), Ref("pair"))), 0, None), Ref("space")))),
            text("}"),
        )
    ),
    "array": Seq(
        (
            text("["),
            Ref("space"),
            maybe(Seq((Ref("any"), Repeat(Seq((text(","), Ref("space"), Ref("any"))), 0, None), Ref("space")))),
            text("]"),
        )
    ),
    "boolean": Alt((text("true"), text("false"))),
    "null": text("null"),
    "any": Alt(tuple(map(Ref, ("object", "array", "string", "number", "boolean", "null")))),
}
SPACE, COLON, COMMA = Ref("space"), Seq((text(":"), maybe(text(" ")))), Seq((text(","), Ref("space")))


def quoted(body: Expr) -> Expr:
    """A JSON string whose value is a text of `body`; a character that must be escaped is, in its shortest way."""
    return Seq((text('"'), escaped(body), text('"')))


def escaped(expr: Expr) -> Expr:
    if isinstance(expr, Bytes):
        return text("".join(map(escape, expr.data.decode())))
    if isinstance(expr, Chars):
        plain = [(max(a, low), min(b, high)) for low, high in expr.ranges for a, b in PLAIN]
        others = [
            chr(point) for low, high in expr.ranges for point in (*range(0x20), 0x22, 0x5C) if low <= point <= high
        ]
        return alt([chars(plain), *(text(escape(letter)) for letter in others)]) if others else chars(plain)
    if isinstance(expr, Seq | Alt):
        return type(expr)(tuple(map(escaped, expr.parts)))
    if isinstance(expr, Repeat):
        return Repeat(escaped(expr.body), expr.least, expr.most)
    return expr


def escape(letter: str) -> str:
    return SHORT.get(letter) or (f"\\u{ord(letter):04x}" if ord(letter) < 0x20 else letter)


def string_of_length(least: int, most: int | None, spelled: bool = False) -> Expr:
    """A JSON string of so many characters. spelled: without the rule of a character, which takes many more states, but
    what may follow them is found at once."""
    return Seq((text('"'), Repeat(RULES["char"] if spelled else Ref("char"), least, most), text('"')))


def other_than(names: Collection[str]) -> Expr:
    """A JSON string without escapes that is none of the names."""
    groups = dict[str, list[str]]()
    for name in names:
        if name:
            groups.setdefault(name[0], []).append(name[1:])
    taken = [(ord(letter),) * 2 for letter in groups]
    free = complement([*taken, *complement(PLAIN)])
    rest = Seq((chars(free), Repeat(chars(PLAIN), 0, None), text('"')))
    ways: list[Expr] = [rest] if "" in names else [text('"'), rest]
    ways += [Seq((text(letter), _tail(rests))) for letter, rests in groups.items() if escape(letter) == letter]
    return Seq((text('"'), alt(ways)))


def _tail(rests: list[str]) -> Expr:
    inner = other_than(rests)
    assert isinstance(inner, Seq)
    return inner.parts[1]  # without the opening quote


def literal(value: Any) -> Expr:
    """A JSON value as it is, with the usual freedom of spaces."""
    if isinstance(value, dict) and value:
        pairs = [Seq((literal(str(name)), COLON, literal(part))) for name, part in value.items()]
        return Seq((text("{"), SPACE, *_joined(pairs), SPACE, text("}")))
    if isinstance(value, list) and value:
        return Seq((text("["), SPACE, *_joined([literal(part) for part in value]), SPACE, text("]")))
    return text(json.dumps(value, ensure_ascii=False))


def _joined(parts: list[Any]) -> list[Expr]:
    found: list[Expr] = [parts[0]]
    for part in parts[1:]:
        found += [COMMA, part]
    return found


# Numbers in a range.


def integers(least: int | None, most: int | None) -> Expr:
    """Whole numbers from `least` to `most`, of at most MOST_DIGITS digits."""
    limit = 10**MOST_DIGITS - 1
    low, high = max(-limit, -limit if least is None else least), min(limit, limit if most is None else most)
    parts = list[Expr]()
    if low < 0:
        parts.append(Seq((text("-"), alt(naturals(max(1, -high), -low)))))
    if high >= 0 and low <= high:
        parts += naturals(max(0, low), high)
    return alt(parts) if low <= high else NOTHING


def naturals(low: int, high: int) -> list[Expr]:
    """Whole numbers low..high, not negative, split by length."""
    found = list[Expr]()
    for size in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (size - 1) if size > 1 else 0), min(high, 10**size - 1)
        if first <= last:
            found.append(same_length(str(first), str(last)))
    return found


def same_length(low: str, high: str) -> Expr:
    """Digit strings low..high, all of one length."""
    if not low:
        return EMPTY
    if low == "0" * len(low) and high == "9" * len(high):
        return Repeat(DIGITS, len(low), len(low))
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    if first == last:
        return seq(text(low[0]), same_length(low[1:], high[1:]))
    parts = [seq(text(low[0]), same_length(low[1:], "9" * rest))]
    if first + 1 < last:
        parts.append(seq(chars([(49 + first, 47 + last)]), Repeat(DIGITS, rest, rest)))
    parts.append(seq(text(high[0]), same_length("0" * rest, high[1:])))
    return alt(parts)


Bound = tuple[Decimal, bool] | None  # (value, whether it belongs to the range)


def numbers(low: Bound, high: Bound) -> Expr:
    """Decimal numbers without exponent in a range."""
    parts = list[Expr]()
    zero = Decimal(0)
    if low is None or low[0] < 0:
        ends = _mirror(high) if high is not None and high[0] <= 0 else (zero, False)
        parts.append(Seq((text("-"), decimals(ends if ends[0] > 0 else (zero, False), _mirror(low) if low else None))))
    if high is None or high[0] >= 0:
        parts.append(decimals(low if low is not None and low[0] >= 0 else (zero, True), high))
    return alt(parts)


def _mirror(bound: tuple[Decimal, bool]) -> tuple[Decimal, bool]:
    return -bound[0], bound[1]


def decimals(low: tuple[Decimal, bool], high: Bound) -> Expr:
    """Decimal numbers from `low`, which is not negative, to `high`."""
    limit = Decimal(10**MOST_DIGITS - 1)
    top = high if high is not None and high[0] < limit else (limit, True)
    first = int(low[0].to_integral_value(ROUND_FLOOR))
    last = int(top[0].to_integral_value(ROUND_FLOOR))
    under, over = _fraction(low[0]), _fraction(top[0])
    if first > last or first >= int(limit):
        return NOTHING
    if first == last:
        return seq(text(str(first)), fractions((under, low[1]), (over, top[1])))
    parts = [
        seq(text(str(first)), fractions((under, low[1]), None)),
        seq(text(str(last)), fractions(("", True), (over, top[1]))),
    ]
    if first + 1 <= last - 1:
        parts.append(seq(alt(naturals(first + 1, last - 1)), maybe(_FRACTION)))
    return alt(parts)


def _fraction(value: Decimal) -> str:
    """Digits after the point."""
    rest = value - value.to_integral_value(ROUND_FLOOR)
    return format(rest, "f").partition(".")[2].rstrip("0")


def fractions(low: tuple[str, bool], high: tuple[str, bool] | None) -> Expr:
    """What may follow the whole part: nothing, or a point and digits, between two fractions."""
    whole = [EMPTY] if (low == ("", True)) and (high is None or high[0] or high[1]) else []
    ways = [*whole, seq(text("."), digits(low, high, MOST_DIGITS, begun=False))]
    return alt(ways)


def digits(low: tuple[str, bool] | None, high: tuple[str, bool] | None, room: int, begun: bool) -> Expr:
    """Digits of a fraction between two fractions (None: no bound), at most `room` of them."""
    if low is None and high is None:
        return Repeat(DIGITS, 0 if begun else 1, room)
    above = low is None or (not low[0] and low[1])
    below = high is None or bool(high[0]) or high[1]
    parts: list[Expr] = [EMPTY] if begun and above and below else []
    first, last = int(low[0][:1] or 0) if low else 0, int(high[0][:1] or 0) if high else 9
    if not room or first > last:
        return alt(parts)
    # Digits at a bound go on being compared with it; those between are free of both.
    edges = {digit for digit, at in ((first, low), (last, high)) if at}
    for digit in sorted(edges):
        under = (low[0][1:], low[1]) if low and digit == first else None
        over = (high[0][1:], high[1]) if high and digit == last else None
        parts.append(seq(text(str(digit)), digits(under, over, room - 1, begun=True)))
    free = chars([(48 + digit, 48 + digit) for digit in range(first, last + 1) if digit not in edges])
    if free.ranges:
        parts.append(seq(free, Repeat(DIGITS, 0, room - 1)))
    return alt(parts)


def bound(value: Any) -> Decimal:
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def ceiling(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_CEILING))


def floor(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_FLOOR))
