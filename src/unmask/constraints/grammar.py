"""A compiled language: deterministic automata over byte classes, one per rule, that call each other.

A language without calls is one finite automaton. All states of all rules are numbered together; nothing here knows
about tokens.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from unmask.constraints.expr import Alt, Bytes, ConstraintError, Expr, Ref, Repeat, Seq, Source
from unmask.constraints.joined import joined
from unmask.constraints.limits import Meter
from unmask.constraints.quotient import before_suffix
from unmask.constraints.rules import FINAL, START, Rule, build, needed, productive

FAR = 1 << 30
# A grammar without recursion that unfolds to no more than this is made into one finite automaton.
MOST_INLINED = 64


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """klass: byte -> class. members: class -> its bytes. Per state: edges (class -> state), calls (rule, state after),
    whether its rule may end there. start, names: per rule. main: the rule of the whole text."""

    klass: bytes
    members: tuple[bytes, ...]
    edges: tuple[dict[int, int], ...]
    calls: tuple[tuple[tuple[int, int], ...], ...]
    final: tuple[bool, ...]
    start: tuple[int, ...]
    names: tuple[str, ...]
    main: int

    @property
    def regular(self) -> bool:
        """Whether it is a single finite automaton."""
        return not any(self.calls)


def compile_source(source: Source, suffix: bytes = b"", meter: Meter | None = None) -> Grammar:
    """The language of a source, or of what may stand in it before `suffix`. ConstraintError where it is empty or too
    large."""
    meter = meter or Meter()
    main = source.start
    try:
        rules = build(inlined(source), meter)
    except RecursionError:  # rules that are one within the other grow too deep
        rules = build(source, meter)
    if main not in rules:
        raise ConstraintError("the constraint allows no text at all: its language is empty")
    if suffix:
        rules, main = before_suffix(rules, main, suffix, meter)
        rules = needed(productive(rules), main)
        if main not in rules:
            raise ConstraintError("the constraint allows no text before the suffix")
    klass, members = byte_classes(rules.values())
    names = list(rules)
    numbers = {name: number for number, name in enumerate(names)}
    edges, calls, final, start = list[dict[int, int]](), list[tuple[tuple[int, int], ...]](), list[bool](), list[int]()
    for name in names:
        start.append(len(edges))
        determinise(rules[name], klass, numbers, edges, calls, final, meter)
    return Grammar(klass, members, tuple(edges), tuple(calls), tuple(final), tuple(start), tuple(names), numbers[main])


def byte_classes(rules: Iterable[Rule]) -> tuple[bytes, tuple[bytes, ...]]:
    """Bytes that no edge tells apart share a class."""
    cuts = {0, 256}
    for rule in rules:
        for edges in rule.bytes:
            for low, high, _ in edges:
                cuts |= {low, high + 1}
    bounds = sorted(cuts)
    members = tuple(bytes(range(low, high)) for low, high in pairwise(bounds))
    return bytes(number for number, group in enumerate(members) for _ in group), members


def determinise(
    rule: Rule,
    klass: bytes,
    numbers: dict[str, int],
    edges: list[dict[int, int]],
    calls: list[tuple[tuple[int, int], ...]],
    final: list[bool],
    meter: Meter,
) -> None:
    """Append the states of one rule (subset construction; a call is a symbol like any other), useless ones left out."""
    alive = leads_to_end(rule)
    first, found, queue = len(edges), dict[frozenset[int], int](), list[frozenset[int]]()

    def number(states: set[int]) -> int:
        inside = frozenset(state for state in rule.closure(states) if state in alive)
        meter.spend(1 + len(inside))
        if inside not in found:
            found[inside] = first + len(found)
            queue.append(inside)
            meter.state()
        return found[inside]

    number({START})
    for inside in queue:  # grows while it is walked
        by_class, by_rule = dict[int, set[int]](), dict[str, set[int]]()
        for state in inside:
            for low, high, to in rule.bytes[state]:
                if to in alive:
                    meter.spend(klass[high] - klass[low] + 1)
                    for symbol in range(klass[low], klass[high] + 1):
                        by_class.setdefault(symbol, set()).add(to)
            for callee, to in rule.calls[state]:
                if to in alive:
                    by_rule.setdefault(callee, set()).add(to)
        edges.append({symbol: number(targets) for symbol, targets in sorted(by_class.items())})
        calls.append(tuple((numbers[callee], number(targets)) for callee, targets in sorted(by_rule.items())))
        final.append(FINAL in inside)


def leads_to_end(rule: Rule) -> set[int]:
    """States from which the end can be reached."""
    back: list[list[int]] = [[] for _ in rule.skips]
    for state in range(len(rule.skips)):
        for to in (*rule.skips[state], *(e[2] for e in rule.bytes[state]), *(c[1] for c in rule.calls[state])):
            back[to].append(state)
    found, stack = {FINAL}, [FINAL]
    while stack:
        for other in back[stack.pop()]:
            if other not in found:
                found.add(other)
                stack.append(other)
    return found


def inlined(source: Source) -> Source:
    """The source as one rule, where it has no recursion and stays small; else in as few as there may be."""
    try:
        return Source({source.start: unfolded(source, source.start, (), [MOST_INLINED])}, source.start)
    except (_TooLargeError, RecursionError):
        return joined(source)


class _TooLargeError(Exception):
    pass


def unfolded(source: Source, name: str, inside: tuple[str, ...], room: list[int]) -> Expr:
    """Names of rules replaced by what they say."""
    if name in inside:
        raise _TooLargeError
    if name not in source.rules:
        raise ConstraintError(f"the grammar has no rule {name!r}")
    return _unfold(source, source.rules[name], (*inside, name), room)


def _unfold(source: Source, expr: Expr, inside: tuple[str, ...], room: list[int]) -> Expr:
    if len(inside) == 1 and not isinstance(expr, Seq | Alt | Repeat | Ref):
        return expr
    if isinstance(expr, Ref):
        return unfolded(source, expr.name, inside, room)
    if isinstance(expr, Repeat):
        before = room[0]
        body = _unfold(source, expr.body, inside, room)
        room[0] -= (before - room[0]) * (max(expr.least, expr.most or 1) - 1)
        if room[0] < 0 and body != expr.body:  # a rule that is called costs less than its copies
            raise _TooLargeError
        _check(room, inside)
        return Repeat(body, expr.least, expr.most)
    if isinstance(expr, Seq | Alt):
        return type(expr)(tuple(_unfold(source, part, inside, room) for part in expr.parts))
    room[0] -= len(expr.data) if isinstance(expr, Bytes) else 1 + 2 * sum(high > 0x7F for _, high in expr.ranges)
    _check(room, inside)
    return expr


def _check(room: list[int], inside: tuple[str, ...]) -> None:
    # What a single rule says costs the same, unfolded or not.
    if room[0] < 0 and len(inside) > 1:
        raise _TooLargeError


def distances(grammar: Grammar, writable: frozenset[int]) -> tuple[list[int], list[tuple[int, int] | None]]:
    """Per state: fewest bytes to the end of its rule (Knuth's generalisation of Dijkstra's algorithm, 1977), and how
    that way begins: (byte, next state) or (-1 - number of the call, state after it); None at an end.

    writable: bytes that may be used.
    """
    count = len(grammar.edges)
    best, way = [FAR] * count, list[tuple[int, int] | None]([None] * count)
    by_byte: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    after_call: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    of_rule: list[list[tuple[int, int, int]]] = [[] for _ in grammar.start]
    letter = [next((byte for byte in preferred(group) if byte in writable), -1) for group in grammar.members]
    for state, edges in enumerate(grammar.edges):
        for symbol, to in edges.items():
            if letter[symbol] >= 0:
                by_byte[to].append((state, letter[symbol]))
        for number, (callee, to) in enumerate(grammar.calls[state]):
            after_call[to].append((state, number))
            of_rule[callee].append((state, number, to))
    rule_of = {state: rule for rule, state in enumerate(grammar.start)}
    heap = list[tuple[int, int]]()
    done = [False] * count

    def relax(state: int, cost: int, step: tuple[int, int] | None) -> None:
        if cost < best[state]:
            best[state], way[state] = cost, step
            heapq.heappush(heap, (cost, state))

    for state in range(count):
        if grammar.final[state]:
            relax(state, 0, None)
    while heap:
        cost, state = heapq.heappop(heap)
        if done[state]:
            continue
        done[state] = True
        for before, byte in by_byte[state]:
            relax(before, cost + 1, (byte, state))
        for before, number in after_call[state]:
            inner = grammar.start[grammar.calls[before][number][0]]
            if done[inner]:
                relax(before, best[inner] + cost, (-1 - number, state))
        if state in rule_of:
            for before, number, to in of_rule[rule_of[state]]:
                if done[to]:
                    relax(before, cost + best[to], (-1 - number, to))
    return best, way


def preferred(group: bytes) -> bytes:
    """Bytes of a class, those first that look best in a text that nobody chose."""
    nice = b'0 a"'
    return bytes(byte for byte in nice if byte in group) + group
