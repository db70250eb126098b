"""A text with holes: the lightest way to fill them so that it is in a language, or the proof that there is none.

Earley's algorithm over an automaton instead of a string, explored in the order of bytes that must be invented (Knuth's
generalisation of Dijkstra's algorithm, 1977: costs only add up, so the first time an item is reached is the cheapest).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from unmask.constraints.expr import ConstraintError
from unmask.constraints.grammar import Grammar, preferred

MOST_ITEMS = 2_000_000


@dataclass(frozen=True, slots=True)
class Hole:
    """Any `least` to `most` bytes; most None: any number."""

    least: int = 0
    most: int | None = None


class Item(NamedTuple):
    """A rule that began at canvas state `since` and stands in `state`, with the canvas at `at`."""

    state: int
    since: int
    at: int


# How an item was reached: from another by a byte (or none: -1), or with a finished item of a called rule.
Back = tuple[Item, int, Item | None]
Edge = tuple[int, int, int]  # (byte, or -1 for any, or -2 for none; canvas state after it; hole, or -1)


def edges_of(canvas: Sequence[bytes | Hole]) -> list[list[Edge]]:
    """The canvas as an automaton: a chain of its bytes, in which a hole is a loop or a chain of any bytes."""
    edges: list[list[Edge]] = [[]]
    for number, piece in enumerate(canvas):
        if isinstance(piece, bytes):
            for byte in piece:
                edges[-1].append((byte, len(edges), -1))
                edges.append([])
            continue
        for _ in range(piece.least):
            edges[-1].append((-1, len(edges), number))
            edges.append([])
        first, further = len(edges) - 1, 0 if piece.most is None else piece.most - piece.least
        for _ in range(further):
            edges[-1].append((-1, len(edges), number))
            edges.append([])
        end = len(edges)
        if piece.most is None:
            edges[first].append((-1, first, number))
        for state in range(first, end):
            edges[state].append((-2, end, -1))
        edges.append([])
    return edges


def fill(grammar: Grammar, canvas: Sequence[bytes | Hole]) -> tuple[bytes, ...] | None:
    """What to put into each hole, as few bytes as possible in all; None where nothing fits. ConstraintError where the
    search grows too large."""
    edges, main = edges_of(canvas), grammar.start[grammar.main]
    found: dict[Item, tuple[int, Back | None]] = {}
    waiting: dict[tuple[int, int], list[tuple[Item, int, int]]] = {}  # (start of a rule, canvas) -> caller, after, cost
    ended: dict[tuple[int, int], list[tuple[Item, int]]] = {}  # (start of a rule, canvas) -> finished items, costs
    rule_of = [max(start for start in grammar.start if start <= state) for state in range(len(grammar.edges))]
    number, goal = count(), len(edges) - 1
    heap: list[tuple[int, int, Item, Back | None]] = [(0, next(number), Item(main, 0, 0), None)]

    def push(cost: int, item: Item, back: Back | None) -> None:
        if item not in found:
            heapq.heappush(heap, (cost, next(number), item, back))

    while heap:
        cost, order, item, back = heapq.heappop(heap)
        if item in found:
            continue
        if order > MOST_ITEMS:
            raise ConstraintError("the text with holes is too large to be completed")
        found[item] = cost, back
        state, since, at = item
        begun = rule_of[state], since
        if grammar.final[state]:
            if begun == (main, 0) and at == goal:
                return fillers(found, item, canvas, edges)
            ended.setdefault(begun, []).append((item, cost))
            for caller, after, before in waiting.get(begun, ()):
                push(before + cost, Item(after, caller.since, at), (caller, -1, item))
        for byte, to, hole in edges[at]:
            if byte == -2:
                push(cost, Item(state, since, to), (item, -1, None))
            elif byte >= 0:
                if (next_state := grammar.edges[state].get(grammar.klass[byte])) is not None:
                    push(cost, Item(next_state, since, to), (item, byte, None))
            else:
                for symbol, after in grammar.edges[state].items():
                    letter = preferred(grammar.members[symbol])[0]
                    push(cost + 1, Item(after, since, to), (item, letter | hole << 8, None))
        for rule, after in grammar.calls[state]:
            start = grammar.start[rule]
            if (start, at) not in waiting:
                push(0, Item(start, at, at), None)
            waiting.setdefault((start, at), []).append((item, after, cost))
            for inner, own in ended.get((start, at), ()):
                push(cost + own, Item(after, since, inner.at), (item, -1, inner))
    return None


def fillers(
    found: dict[Item, tuple[int, Back | None]], goal: Item, canvas: Sequence[bytes | Hole], edges: list[list[Edge]]
) -> tuple[bytes, ...]:
    """The bytes of the holes on the way to `goal`, read backwards."""
    parts = [bytearray() for _ in canvas]
    stack = [goal]
    while stack:
        item = stack.pop()
        back = found[item][1]
        if back is None:
            continue
        before, step, inner = back
        stack.append(before)
        if inner is not None:
            stack.append(inner)
        elif step >= 0 and all(byte < 0 for byte, _, _ in edges[before.at]):
            parts[step >> 8].append(step & 0xFF)
    holes = [number for number, piece in enumerate(canvas) if isinstance(piece, Hole)]
    return tuple(bytes(reversed(parts[number])) for number in holes)
