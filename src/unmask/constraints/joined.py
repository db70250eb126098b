"""Rules that are called from one place become part of it: what may follow is then found in one pass, not in several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from unmask.constraints.expr import Alt, Chars, Expr, Ref, Repeat, Seq, Source

# A rule that is called so often is copied too, where it is small.
MOST_COPIES, SMALL = 80, 40
MANY = 128  # characters


def joined(source: Source) -> Source:
    """The same language in fewer rules. A part of an alternative stays a rule of its own: automata of alternatives that
    begin alike may multiply. So does what may hold nearly any character, as strings do: see `alike`."""
    calls, choices = Counter[str](), set[str]()
    waiting, seen = [source.start], {source.start}
    while waiting:
        for name, times, choice in called(source.rules.get(waiting.pop(), Seq(())), 1, False):
            calls[name] += times
            choices |= {name} if choice else set()
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    small = {
        name for name, times in calls.items() if times <= MOST_COPIES and size(source.rules.get(name), SMALL) <= SMALL
    }
    once = {name for name, times in calls.items() if times == 1 and name not in choices}
    parts = {name for name in (once | small) & source.rules.keys() - {source.start} if not wide(source.rules[name])}
    made = dict[str, Expr]()

    def rule(name: str) -> Expr:
        if name not in made:
            made[name] = put(source.rules[name])
        return made[name]

    def put(expr: Expr) -> Expr:
        if isinstance(expr, Ref):
            return rule(expr.name) if expr.name in parts else expr
        if isinstance(expr, Seq | Alt):
            return type(expr)(tuple(map(put, expr.parts)))
        return Repeat(put(expr.body), expr.least, expr.most) if isinstance(expr, Repeat) else expr

    return Source({name: rule(name) for name in seen - parts if name in source.rules}, source.start)


def called(expr: Expr, times: int, choice: bool) -> Iterator[tuple[str, int, bool]]:
    """(rule, how often its automaton would be copied here, whether as a part of an alternative)."""
    if isinstance(expr, Ref):
        yield expr.name, times, choice
    elif isinstance(expr, Seq | Alt):
        for part in expr.parts:
            yield from called(part, times, choice or (isinstance(expr, Alt) and len(expr.parts) > 1))
    elif isinstance(expr, Repeat):
        yield from called(expr.body, times * max(expr.least, expr.most or 1, 1), choice)


def wide(expr: Expr) -> bool:
    if isinstance(expr, Seq | Alt):
        return any(map(wide, expr.parts))
    if isinstance(expr, Repeat):
        return wide(expr.body)
    return isinstance(expr, Chars) and sum(high - low + 1 for low, high in expr.ranges) > MANY


def size(expr: Expr | None, most: int) -> int:
    """Parts of an expression that calls nothing; more than `most` for any other."""
    if expr is None or isinstance(expr, Ref):
        return most + 1
    if isinstance(expr, Seq | Alt):
        return min(sum(size(part, most) for part in expr.parts) + len(expr.parts), most + 1)
    if isinstance(expr, Repeat):
        return min(size(expr.body, most) * max(expr.least, expr.most or 1, 1), most + 1)
    return 1
