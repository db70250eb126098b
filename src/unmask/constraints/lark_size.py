"""How large a Lark grammar becomes when Lark unfolds it, told from its text alone: Lark writes out every combination of
the alternatives inside a rule, and every terminal that a terminal names, which a few lines can make endless.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from unmask.constraints.expr import ConstraintError

MOST_WAYS = 2_000  # alternatives of one rule, unfolded
LONGEST_TERMINAL = 100_000  # characters of one terminal's pattern
WRITTEN_OUT, FACTOR = 50, 6  # repetitions from which on Lark makes rules of them, and most of those in such a rule
ENDLESS = 10**9
TOKEN = re.compile(
    r"""(?P<define>^[ \t]*(?:%(?:override|extend)[ \t]+)?[?!]*[_A-Za-z]\w*(?:\{[^}]*\})?(?:\.-?\d+)?\s*:)
    |(?P<order>^[ \t]*%[a-z]+[^\n]*)
    |(?P<skip>\n|[^\S\n]+|//[^\n]*|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\\n])*"i?|/(?!/)(?:\\.|[^/\\\n])*/[imslux]*)
    |(?P<alias>->\s*\w+)
    |(?P<name>[_A-Za-z][\w.]*)
    |(?P<count>~\s*\d+(?:\s*\.\.\s*\d+)?)
    |(?P<sign>\.\.|.)""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


Body = Sequence[tuple[str, str]]


class Size(NamedTuple):
    """ways: alternatives that are written out; most: of this or of a part that becomes a rule of its own; length:
    characters of a terminal."""

    ways: int = 1
    most: int = 1
    length: int = 1


def limit_size(grammar: str) -> None:
    """ConstraintError for a grammar that Lark would unfold to more than is taken."""
    bodies, templates = bodies_of(grammar)
    for name in templates:
        if ("sign", "{") in bodies[name]:
            raise ConstraintError(f"the grammar uses a template in the template {name!r}, which is not supported")
    sizes = dict[str, Size]()
    try:
        for name, body in bodies.items():
            size = terminal(name, bodies, sizes) if name.isupper() else whole(body, lambda _: Size())
            if not name.isupper() and size.most > MOST_WAYS:
                raise ConstraintError(
                    f"the grammar is too large: {name!r} stands for more than {MOST_WAYS} alternatives, each of which"
                    " Lark writes out; make rules of parts of it"
                )
            if name.isupper() and size.length > LONGEST_TERMINAL:
                raise ConstraintError(
                    f"the grammar is too large: the terminal {name} has more than {LONGEST_TERMINAL} characters"
                )
    except RecursionError:
        raise ConstraintError("the grammar is nested too deeply") from None


def bodies_of(grammar: str) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Name -> what it stands for, as (kind of token, token); the names of templates."""
    bodies, templates, name = dict[str, list[tuple[str, str]]](), list[str](), ""
    for match in TOKEN.finditer(grammar):
        kind, value = match.lastgroup or "", match.group()
        if kind == "define":
            head = value.strip().partition(":")[0]
            more = head.startswith("%extend")
            head = re.sub(r"^%\w+\s+", "", head).lstrip("?!")
            name = re.split(r"[{.\s]", head, maxsplit=1)[0]
            bodies[name] = [*bodies.get(name, ()), ("sign", "|")] if more else []
            templates += [name] if "{" in head else []
        elif kind == "order":
            name = ""
        elif kind not in ("skip", "alias") and name:
            bodies[name].append((kind, value))
    return bodies, templates


def terminal(name: str, bodies: Mapping[str, Body], sizes: dict[str, Size]) -> Size:
    """A terminal with everything that it names written out; one that names itself is Lark's to refuse."""
    if name not in sizes:
        sizes[name] = Size()
        sizes[name] = whole(bodies[name], lambda other: terminal(other, bodies, sizes) if other in bodies else Size())
    return sizes[name]


def whole(body: Body, named: Callable[[str], Size]) -> Size:
    return alternatives(iter([*body, ("sign", "")]), named)


def alternatives(tokens: Iterator[tuple[str, str]], named: Callable[[str], Size]) -> Size:
    """The size of alternatives up to a closing bracket or the end, which is taken too."""
    ways, most, length = 0, 1, 0
    items: list[Size] = []
    for kind, value in tokens:
        if kind == "sign" and value in ("|", ")", "]", "}", ""):
            one = product(items)
            ways, most, length, items = ways + one.ways, max(most, one.most), length + one.length, []
            if value != "|":
                break
        elif kind == "sign" and value in "([{":
            inside = alternatives(tokens, named)
            items.append(inside._replace(ways=inside.ways + 1) if value == "[" else inside)
        elif kind == "name":
            items.append(named(value))
        elif kind == "text":
            items.append(Size(length=len(value)))
        elif items and (kind == "count" or value in "?*+"):
            items.append(repeated(items.pop(), kind, value))
    return capped(Size(ways, max(most, ways), length))


def product(items: Sequence[Size]) -> Size:
    ways = 1
    for item in items:
        ways = min(ways * item.ways, ENDLESS)
    return Size(ways, max([ways, *(item.most for item in items)]), sum(item.length for item in items))


def repeated(item: Size, kind: str, value: str) -> Size:
    if kind == "count":
        numbers = [int(number) for number in re.findall(r"\d+", value)]
        least, most = numbers[0], numbers[-1]
        times = range(least, most + 1) if most < WRITTEN_OUT else range(FACTOR, FACTOR + 1)
        endless = max(times, default=0) * math.log(max(item.ways, 1)) > math.log(ENDLESS)
        ways = ENDLESS if endless else sum(item.ways**n for n in times)
        return capped(Size(ways, item.most, item.length * max(most, 1)))
    return item._replace(ways={"?": item.ways + 1, "*": 2, "+": 1}[value])


def capped(size: Size) -> Size:
    return Size(*(min(number, ENDLESS) for number in size))
