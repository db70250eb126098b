"""Regular expressions in Python's syntax, as languages of whole texts.

Parsed by Python's own parser, so that `re.fullmatch` can be the judge. Classes mean the same to everybody: \\d, \\w and
\\s are their ASCII members, \\D, \\W and \\S what is outside the Unicode classes, so a text fits whichever is meant.
"""

from __future__ import annotations

import math
import re
import re._constants as op  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import warnings
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache
from typing import Any

from unmask.constraints.expr import (
    EMPTY,
    LAST,
    ConstraintError,
    Expr,
    Range,
    Repeat,
    alt,
    chars,
    complement,
    seq,
)
from unmask.constraints.limits import DEEPEST, LONGEST_SOURCE, MOST_RANGES

ASCII = {
    "DIGIT": [(48, 57)],
    "WORD": [(48, 57), (65, 90), (95, 95), (97, 122)],
    "SPACE": [(9, 13), (32, 32)],
}
REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT)  # which of them is preferred does not change which texts match
FAR_TOO_MANY = 1e12
LAST_CASED = 0x1FFFF  # beyond it no letter has two cases
LINE_END: list[Range] = [(10, 10)]
ANY: list[Range] = [(0, LAST)]
REFUSED = {
    op.ASSERT: "lookahead and lookbehind",
    op.ASSERT_NOT: "lookahead and lookbehind",
    op.GROUPREF: "back-references",
    op.GROUPREF_EXISTS: "conditional groups",
    op.POSSESSIVE_REPEAT: "possessive quantifiers",
    op.ATOMIC_GROUP: "atomic groups",
}


def whole(pattern: str) -> Expr:
    """All texts that `re.fullmatch(pattern, text)` accepts. ConstraintError for a wrong pattern, or one not regular."""
    return branches(pattern, EMPTY)


def within(pattern: str) -> Expr:
    """All texts in which `re.search(pattern, text)` finds something: what JSON Schema means by `pattern`."""
    return branches(pattern, Repeat(chars(ANY), 0, None))


@dataclass(slots=True)
class Reading:
    """A pattern that is being read, and how many more ranges of characters and repeated parts it may have."""

    pattern: str
    left: int = MOST_RANGES

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ConstraintError(f"the pattern {shown(self.pattern)} is too large: its classes have too many ranges")


def branches(pattern: str, around: Expr) -> Expr:
    """The pattern with `around` on both sides, except where a branch of it is anchored."""
    tree, reading = parse(pattern), Reading(pattern)
    flags, found = tree.state.flags, list[Expr]()
    if flags & re.MULTILINE:
        raise refusal(pattern, "the flag m")
    for items in alternatives(list(tree), reading):
        starts = bool(items) and items[0][0] is op.AT and items[0][1] in (op.AT_BEGINNING, op.AT_BEGINNING_STRING)
        items = items[1:] if starts else items
        ends = bool(items) and items[-1][0] is op.AT and items[-1][1] in (op.AT_END, op.AT_END_STRING)
        items = items[:-1] if ends else items
        middle = sequence(items, flags, reading, 0)
        found.append(seq(*(() if starts else (around,)), middle, *(() if ends else (around,))))
    return alt(found)


def parse(pattern: str) -> Any:
    if len(pattern) > LONGEST_SOURCE:
        raise ConstraintError(
            f"the pattern has {len(pattern)} characters, more than the {LONGEST_SOURCE} that are taken"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a FutureWarning about "[[" is nobody's concern here
            return parser.parse(pattern)
    except (re.error, OverflowError) as error:
        raise ConstraintError(f"the pattern {shown(pattern)} is no regular expression: {error}") from None
    except RecursionError:
        raise refusal(pattern, f"more than {DEEPEST} levels of nesting") from None


def alternatives(items: list[Any], reading: Reading) -> list[list[Any]]:
    """Branches of the outermost level. The parser has factored what they begin with out of them; it is put back."""
    if items and items[-1][0] is op.BRANCH:
        reading.spend(len(items) * len(items[-1][1][1]))
        return [[*items[:-1], *branch] for part in items[-1][1][1] for branch in alternatives(list(part), reading)]
    if len(items) == 1 and items[0][0] is op.SUBPATTERN and not (items[0][1][1] or items[0][1][2]):
        return alternatives(list(items[0][1][3]), reading)
    return [items]


def sequence(items: Any, flags: int, reading: Reading, depth: int) -> Expr:
    if depth > DEEPEST:
        raise refusal(reading.pattern, f"more than {DEEPEST} levels of nesting")
    return seq(*(single(code, value, flags, reading, depth) for code, value in items))


def single(code: Any, value: Any, flags: int, reading: Reading, depth: int) -> Expr:
    if code is op.LITERAL:
        return chars(cases([(value, value)], flags))
    if code is op.NOT_LITERAL:
        return chars(complement(cases([(value, value)], flags)))
    if code is op.ANY:
        return chars(ANY if flags & re.DOTALL else complement(LINE_END))
    if code is op.IN:
        return chars(members(value, flags, reading))
    if code is op.BRANCH:
        return alt([sequence(part, flags, reading, depth + 1) for part in value[1]])
    if code is op.SUBPATTERN:
        _, added, removed, body = value
        return sequence(body, (flags | added) & ~removed, reading, depth + 1)
    if code in REPEATS:
        least, most, body = value
        return Repeat(sequence(body, flags, reading, depth + 1), least, None if most is op.MAXREPEAT else most)
    if code is op.AT:
        raise refusal(reading.pattern, "an anchor (^, $ or \\b) elsewhere than at the ends of a branch")
    raise refusal(reading.pattern, REFUSED.get(code, str(code).lower()))


def members(items: Any, flags: int, reading: Reading) -> list[Range]:
    """Code points of a class in square brackets."""
    ranges, negated = list[Range](), False
    for code, value in items:
        before = len(ranges)
        if code is op.NEGATE:
            negated = True
        elif code is op.LITERAL:
            ranges += cases([(value, value)], flags)
        elif code is op.RANGE:
            ranges += cases([value], flags)
        elif code is op.CATEGORY:
            ranges += category(str(value), negated)
        else:
            raise refusal(reading.pattern, str(code).lower())
        reading.spend(len(ranges) - before)
    return complement(ranges) if negated else ranges


def category(name: str, negated: bool) -> list[Range]:
    """The narrow reading of a class; inside a negated one the wide reading, so that what is left is narrow again."""
    _, _, kind = name.rpartition("CATEGORY_")
    outside, kind = kind.startswith("NOT_"), kind.removeprefix("NOT_")
    if negated:
        return complement(ASCII[kind]) if outside else unicode_class(kind)
    return complement(unicode_class(kind)) if outside else list(ASCII[kind])


@cache
def unicode_class(kind: str) -> list[Range]:
    """Code points that Python's Unicode \\d, \\w or \\s matches."""
    every = "".join(map(chr, range(LAST + 1)))
    pattern = {"DIGIT": r"\d+", "WORD": r"\w+", "SPACE": r"\s+"}[kind]
    return [(found.start(), found.end() - 1) for found in re.finditer(pattern, every)]


def cases(ranges: list[Range], flags: int) -> list[Range]:
    """The ranges, and under (?i) the letters that Python takes for the same."""
    if not flags & re.IGNORECASE:
        return ranges
    points, others = both_cases()
    found = list(ranges)
    for low, high in ranges:
        first, last = bisect_left(points, low), bisect_right(points, high)
        found += [(other, other) for more in others[first:last] for other in more]
    return found


@cache
def both_cases() -> tuple[list[int], list[tuple[int, ...]]]:
    """Letters that Python's (?i) takes for others, ascending, and these others."""
    points, others = list[int](), list[tuple[int, ...]]()
    for point in range(LAST_CASED + 1):
        letter = chr(point)
        more = {letter.lower(), letter.upper(), letter.swapcase()} - {letter}
        if any(len(other) == 1 for other in more):
            same = re.compile(re.escape(letter), re.IGNORECASE)
            points.append(point)
            others.append(tuple(sorted(ord(one) for one in more if len(one) == 1 and same.fullmatch(one))))
    return points, others


def effort(pattern: str, size: int) -> float:
    """A bound on the ways in which a backtracking matcher may try the pattern on a text of so many characters."""
    tree = parse(pattern)
    return _ways(tree, size, 0)


def _ways(items: Any, size: int, depth: int) -> float:
    if depth > DEEPEST:
        return math.inf
    total = 1.0
    for code, value in items:
        if code is op.BRANCH:
            ways = [_ways(part, size, depth + 1) for part in value[1]]
            # Branches that begin with different letters are told apart by the next one.
            first = {part[0][1] for part in value[1] if len(part) and part[0][0] is op.LITERAL}
            total *= max(ways) if len(first) == len(value[1]) else sum(ways)
        elif code is op.SUBPATTERN:
            total *= _ways(value[3], size, depth + 1)
        elif code in REPEATS:
            least, most, body = value
            most = min(size, most)
            inside = _ways(body, size, depth + 1)
            # Each number of repetitions, each of them in every way that the body has.
            total *= max(most - least, 0) + 1.0
            times = max(most, least, 1)
            total *= 1.0 if inside <= 1 else math.inf if times * math.log(inside) > 100 else inside**times
        if total > FAR_TOO_MANY:
            return math.inf
    return total


def refusal(pattern: str, what: str) -> ConstraintError:
    return ConstraintError(f"the pattern {shown(pattern)} uses {what}, which is not supported")


def shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:77] + "...")
