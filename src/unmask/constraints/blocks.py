"""The likeliest way through a block some of whose tokens are placed: all of it valid, and with an end in budget.

Viterbi over columns. For a small finite automaton it is exact over the whole vocabulary, with a floor for tokens that
no slot proposes; else over the proposed tokens, the way that is known and shortest ways out, within a beam, and no
further than to the last slot that matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unmask.constraints.columns import Column
from unmask.constraints.masks import Masks
from unmask.types import Ids
from unmask.types.constraint import Choices

if TYPE_CHECKING:
    from unmask.constraints.matcher import Place

BEAM = 6
MOST_EXACT = 96  # columns of an automaton that is searched whole
LEAST = 1e-6
Floats = NDArray[np.float64]


def fill(place: Place, slots: Sequence[Choices | int], known: Ids, budget: int, reach: int) -> Ids:
    """See `types.Matcher.fill`."""
    graph = graph_of(place.language.masks)
    if graph is not None and place.column in graph.numbers and not place.promised and not place.unwritten:
        return exact(graph, place, slots, budget)
    return beam(place, slots[:reach], known, budget)


def floor_of(choices: Choices) -> float:
    """What every token counts at least: the probability that is left, for one that is not proposed may be any other."""
    return math.log(max(1.0 - sum(math.exp(score) for _, score in choices), LEAST))


# A place without its language, which is the same all through a block: (column, promised, unwritten), see `Place`.
Key = tuple[Column | None, Ids, bool]


def beam(place: Place, slots: Sequence[Choices | int], known: Ids, budget: int) -> Ids:
    language = place.language
    trail: Key = (place.column, place.promised, place.unwritten)
    layer: dict[Key, tuple[float, Ids]] = {trail: (0.0, ())}
    for i, slot in enumerate(slots):
        if all(len(way) < i for _, way in layer.values()):
            break  # every text has ended: what is left counts the same for all of them
        found: dict[Key, tuple[float, Ids]] = {}
        floor = None if isinstance(slot, int) else floor_of(slot)
        stop = stop_score(slot, language.stop_ids)[0]
        for key, (score, way) in layer.items():
            here = type(place)(language, *key)
            if len(way) < i or here.over(budget - i):  # the text has ended before this slot, which nothing may stand in
                if floor is not None:
                    offer(found, key, score + stop, way)
                continue
            hint = known[i] if key == trail and i < len(known) else None
            for after, token, value in onward(here, slot, floor, hint, budget - i):
                offer(found, after, score + value, (*way, token))
        best = sorted(found.items(), key=lambda item: -item[1][0])
        layer = dict(best[:BEAM])
        if i < len(known):
            reached = advanced(type(place)(language, *trail), known[i])
            assert reached is not None
            trail = reached
        if trail in found:
            layer.setdefault(trail, found[trail])  # the way that is known is never lost
    return max(layer.values(), key=lambda item: item[0])[1]


def offer(found: dict[Key, tuple[float, Ids]], place: Key, score: float, way: Ids) -> None:
    if place not in found or score > found[place][0]:
        found[place] = score, way


def advanced(here: Place, token: int) -> Key | None:
    """As `Place.advance`."""
    column = here.column
    plain = not (here.promised or here.unwritten) and token not in here.language.stop_ids
    if column is not None and plain and token in column.after:
        after = column.after[token]  # the common case, without a place of its own
        return None if after is None else (after, (), False)
    place = here.advance(token)
    return None if place is None else (place.column, place.promised, place.unwritten)


def onward(
    here: Place, slot: Choices | int, floor: float | None, hint: int | None, left: int
) -> Iterator[tuple[Key, int, float]]:
    """(place after the slot, token, score) for each way on."""
    if isinstance(slot, int) or floor is None:
        assert isinstance(slot, int)
        after = advanced(here, slot)
        if after is not None and fits(after, left - 1):
            yield after, slot, 0.0
        return
    none = True
    for token, value in slot:
        after = advanced(here, token)
        if after is not None and fits(after, left - 1):
            yield after, token, max(value, floor)
            none = False
    for token in {*((hint,) if hint is not None else ()), *((here.outward(left),) if none else ())}:
        after = advanced(here, token)
        assert after is not None
        yield after, token, floor


def fits(key: Key, budget: int) -> bool:
    """As `Place.fits`."""
    column, promised, unwritten = key
    return column is None or column.cost + unwritten <= budget or 0 < len(promised) <= budget


class Graph:
    """A small finite automaton over tokens, whole. Row and column `size` stand for a text that has ended.

    reach: whether one token leads from a column to another; some: the smallest such token.
    """

    def __init__(self, masks: Masks, found: Sequence[Column], targets: Sequence[dict[Column, int]]) -> None:
        self.columns, self.numbers = found, {column: number for number, column in enumerate(found)}
        self.masks, self.size = masks, len(found)
        self.some = np.full((self.size, self.size), -1, dtype=np.int64)
        for number, ways in enumerate(targets):
            for column, token in ways.items():
                self.some[number, self.numbers[column]] = token
        self.steps = np.where(self.some >= 0, 0.0, -np.inf)
        self.costs = np.asarray([column.cost for column in found])
        self.accepting = np.asarray([column.accepting for column in found])
        self.finished = np.asarray([column.finished for column in found])
        self.tokens = dict[int, NDArray[np.int64]]()

    def after(self, token: int) -> NDArray[np.int64]:
        """Per column, the one after a token; -1 where there is none."""
        if token not in self.tokens:
            if len(self.tokens) > 20_000:
                self.tokens.clear()
            data = self.masks.columns.vocabulary.tokens[token]
            walked = [self.masks.columns.walk(column, data) if data else None for column in self.columns]
            self.tokens[token] = np.asarray([self.numbers.get(column, -1) for column in walked])  # type: ignore[arg-type]
        return self.tokens[token]


def graph_of(masks: Masks) -> Graph | None:
    """The automaton of a language that is a finite one and small; made once."""
    if not masks.graph_made:
        masks.graph_made, masks.graph = True, whole_graph(masks)
    return masks.graph


def whole_graph(masks: Masks) -> Graph | None:
    grammar = masks.columns.grammar
    if not grammar.regular or len(grammar.edges) > MOST_EXACT:
        return None
    found, targets = [masks.columns.first], list[dict[Column, int]]()
    seen = set(found)
    for column in found:  # grows while it is walked
        targets.append(masks.targets(column))
        fresh = [other for other in targets[-1] if other not in seen]
        seen |= set(fresh)
        found += fresh
    return Graph(masks, found, targets)


def exact(graph: Graph, place: Place, slots: Sequence[Choices | int], budget: int) -> Ids:
    """Viterbi over all columns and the whole vocabulary: the best sum of scores, each token that is not proposed at the
    floor. A text that has ended takes the score of a stop id from the slots after it."""
    stops, size = place.language.stop_ids, graph.size
    assert place.column is not None
    best: Floats = np.full(size + 1, -np.inf)
    best[graph.numbers[place.column]] = 0.0
    back = list[tuple[NDArray[np.int64], NDArray[np.int64]]]()  # per slot: column before, token (-1: none)
    for i, slot in enumerate(slots):
        fits = graph.costs <= budget - i - 1
        after: Floats = np.full(size + 1, -np.inf)
        before, tokens = np.zeros(size + 1, dtype=np.int64), np.full(size + 1, -1, dtype=np.int64)
        if not isinstance(slot, int):
            floor = floor_of(slot)
            ways = best[:size, None] + graph.steps
            before[:size] = ways.argmax(axis=0)
            after[:size] = np.where(fits, ways.max(axis=0) + floor, -np.inf)
            tokens[:size] = graph.some[before[:size], np.arange(size)]
            after[size], before[size] = best[size] + stop_score(slot, stops)[0], size
        live = np.nonzero(best[:size] > -np.inf)[0]
        for token, value in ((slot, 0.0),) if isinstance(slot, int) else slot:
            if token in stops:
                continue
            to = graph.after(token)[live]
            for source, target in zip(live[to >= 0].tolist(), to[to >= 0].tolist(), strict=True):
                if fits[target] and best[source] + value > after[target]:
                    after[target], before[target], tokens[target] = best[source] + value, source, token
        value, stop = stop_score(slot, stops)
        for source in live[graph.accepting[live]].tolist():
            # Where nothing may follow, or nothing that fits, the text has ended before this slot, without a stop id.
            over = graph.finished[source] or not (stops or (graph.some[source][fits] >= 0).any())
            score = -np.inf if over and isinstance(slot, int) else best[source] + value
            if (over or stops) and score > after[size]:
                after[size], before[size], tokens[size] = score, source, -1 if over else stop
        back.append((before, tokens))
        best = after
    return traced(back, int(best.argmax()))


def stop_score(slot: Choices | int, stops: Ids) -> tuple[float, int]:
    """The best score of ending a text with this slot, and the stop id that does; -1 where it ends without one."""
    if isinstance(slot, int):
        return (0.0, slot) if slot in stops else (-np.inf, -1)
    proposed = max(((value, token) for token, value in slot if token in stops), default=(-np.inf, -1))
    return max(proposed, (floor_of(slot), stops[0] if stops else -1))


def traced(back: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], at: int) -> Ids:
    found = list[int]()
    for before, tokens in reversed(back):
        if tokens[at] >= 0:
            found.append(int(tokens[at]))
        at = int(before[at])
    return tuple(reversed(found))
