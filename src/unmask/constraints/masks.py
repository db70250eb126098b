"""Which tokens may come next, and what each would leave to do: one pass over the trie per state, kept for ever.

A state's tokens are found once, relative to whatever follows its rule; tokens that reach beyond the end of the rule are
taken up again from each place that the rule may return to. What a text may have next is then a few vector operations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from unmask.constraints.columns import END, Column, Columns, Node
from unmask.constraints.grammar import FAR
from unmask.constraints.vocabulary import Ints

if TYPE_CHECKING:
    from unmask.constraints.blocks import Graph

UNKNOWN, NONE = -2, -1
MOST_WALKS = 4_000  # kept at a time
MOST_KEPT = 200  # of those that languages share, up to a few hundred kilobytes each


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """ids, costs: tokens that end inside the rule, and the tokens then needed to its end; ids None: of every token.
    ends: tokens that end exactly with the rule. open: trie nodes below which tokens go on after it has ended.
    """

    ids: Ints | None
    costs: Ints
    ends: Ints
    open: Ints


@dataclass(eq=False, slots=True)
class Walk:
    """Tokens from some place inside a rule.

    found: what they are. later: walks from where the rule has ended and tokens go on, by the state that is returned to.
    """

    found: Found
    later: dict[int, Walk | None] = field(default_factory=dict)


class Table:
    """Columns by number, and which column follows which on which class of bytes: filled as it is asked."""

    def __init__(self, columns: Columns, begin: Column) -> None:
        self.columns, self.found, self.numbers = columns, [begin], {begin: 0}
        self.classes = len(columns.grammar.members)
        self.to = np.full(4 * self.classes, UNKNOWN, dtype=np.int32)

    def number(self, column: Column | None) -> int:
        if column is None:
            return NONE
        if column not in self.numbers:
            self.numbers[column] = len(self.found)
            self.found.append(column)
            if len(self.found) * self.classes > len(self.to):
                self.to = np.concatenate((self.to, np.full_like(self.to, UNKNOWN)))
        return self.numbers[column]

    def look_up(self, place: Ints) -> Ints:
        """Numbers of the columns after (column, class), NONE where there is none. place: column * classes + class."""
        to = self.to.take(place)
        if len(to) and to.min() == UNKNOWN:
            for missing in np.unique(place[to == UNKNOWN]).tolist():
                which, letter = divmod(missing, self.classes)
                byte = self.columns.grammar.members[letter][0]
                value = self.number(self.columns.step(self.found[which], byte))
                self.to[missing] = value
            to = self.to.take(place)
        return to

    def join(self, nodes: Ints, at: Ints, roots: Ints) -> tuple[Ints, Ints]:
        """The roots of a level added to its nodes. A root that has been read already stands in both columns."""
        both, at = np.isin(nodes, roots), at.copy()
        for which in np.unique(at[both]).tolist():
            at[both & (at == which)] = self.number(self.columns.close((), self.found[which], self.found[0]))
        fresh = np.setdiff1d(roots, nodes)
        return np.concatenate((nodes, fresh)), np.concatenate((at, np.zeros(len(fresh), dtype=np.int32)))


class Masks:
    """The walks of one language, and from them the tokens of any column."""

    def __init__(self, columns: Columns) -> None:
        self.columns, self.trie = columns, columns.vocabulary.trie
        self.size = columns.vocabulary.size
        # Class of the byte that leads into each node of the trie.
        klass = np.frombuffer(columns.grammar.klass, dtype=np.uint8).astype(np.int32)
        self.symbols = klass[self.trie.byte]
        self.walks = dict[tuple[int, int], Walk]()
        self.made = 0
        self.graph: Graph | None = None  # see `blocks.graph_of`
        self.graph_made = False

    def walk_of(self, state: int, root: int) -> Walk:
        found = self.walks.get((state, root))
        if found is None:
            self.forget_some()
            found = self.walks[state, root] = Walk(self.shared(state) if root == 0 else self.alone(state, root))
        return found

    def alone(self, state: int, root: int = 0) -> Found:
        return self.walk(np.asarray([root], dtype=np.int32), self.single(state))

    def shared(self, state: int) -> Found:
        """The tokens from a state. What is the same in many languages, such as a string of JSON, is found once."""
        shape = self.columns.grammar.shape(state)
        if shape is None:
            return self.alone(state)
        kept = self.columns.vocabulary.kept
        if shape not in kept:
            if len(kept) > MOST_KEPT:
                kept.clear()
            kept[shape] = self.alone(state)
        found = kept[shape]
        assert isinstance(found, Found)
        return found

    def after(self, walk: Walk, state: int) -> Walk | None:
        """The tokens that `walk` left open, from the state returned to; None where there are none."""
        if state not in walk.later:
            self.made += 1
            roots = walk.found.open
            walk.later[state] = Walk(self.walk(roots, self.columns.begin(state))) if len(roots) else None
        return walk.later[state]

    def forget_some(self) -> None:
        self.made += 1
        if self.made > MOST_WALKS:
            self.walks.clear()
            self.made = 0

    def single(self, state: int) -> Column:
        """A column with that state alone: what the state calls is not part of it."""
        columns = self.columns
        return columns.column({(state, columns.bottom)}, False)

    def walk(self, roots: Ints, begin: Column) -> Found:
        """The tokens from `begin` at any of the roots, sorted out."""
        trie, (nodes, at, found) = self.trie, self.read(roots, begin)
        inside = np.asarray([self.inside(column) for column in found], dtype=np.int32)
        ended = np.asarray([column.accepting for column in found])[at]
        tokens = trie.token_at[nodes]
        alive = (tokens >= 0) & (inside[at] < FAR)
        # The rule may end at the roots as well; tokens that end there belong to the walk before this one.
        open_ = np.concatenate((nodes[ended], roots)) if begin.accepting else nodes[ended]
        ids, costs = tokens[alive], inside[at[alive]]
        ends, open_ = tokens[ended & (tokens >= 0)], np.unique(open_[trie.count[open_] > 0])
        if len(ids) * 8 < self.size:
            return Found(ids, costs, ends, open_)
        every = np.full(self.size, FAR, dtype=np.int32)
        every[ids] = costs
        return Found(None, every, ends, open_)

    def read(self, roots: Ints, begin: Column) -> tuple[Ints, Ints, list[Column]]:
        """Trie nodes that can be read from `begin` at any of the roots, which column each leads to, and the columns."""
        trie, table = self.trie, Table(self.columns, begin)
        depths = trie.depth[roots]
        waiting = {int(depth): roots[depths == depth] for depth in np.unique(depths)}
        depth = min(waiting, default=0)
        nodes, at = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
        all_nodes, all_at = [nodes], [at]
        while len(nodes) or waiting:
            if depth in waiting:
                nodes, at = table.join(nodes, at, waiting.pop(depth))
            counts = trie.count.take(nodes)
            ends = counts.cumsum(dtype=np.int32)
            below = (trie.first.take(nodes) - ends + counts).repeat(counts)
            below += np.arange(len(below), dtype=np.int32)
            to = table.look_up((at * table.classes).repeat(counts) + self.symbols.take(below))
            alive = to >= 0
            nodes, at = below[alive], to[alive]
            all_nodes.append(nodes)
            all_at.append(at)
            depth += 1
        return np.concatenate(all_nodes), np.concatenate(all_at), table.found

    def targets(self, column: Column) -> dict[Column, int]:
        """Columns one token away that have an end, each with the smallest token that leads there."""
        nodes, at, found = self.read(np.zeros(1, dtype=np.int32), column)
        tokens = self.trie.token_at[nodes]
        tokens, at = tokens[tokens >= 0], at[tokens >= 0]
        order = np.lexsort((tokens, at))
        numbers, first = np.unique(at[order], return_index=True)
        pairs = zip(numbers.tolist(), tokens[order][first].tolist(), strict=True)
        return {found[number]: token for number, token in pairs if found[number].cost < FAR}

    def inside(self, column: Column) -> int:
        """Fewest tokens to the end of the rule, for a text that is still in it."""
        columns = self.columns
        least = min((columns.cost(state) + node.cost for state, node in column.pairs), default=FAR)
        return min(least, FAR)

    def costs(self, column: Column, root: int = 0) -> Ints:
        """[V]: per token, the tokens that suffice to end the text after it; FAR where it may not come.

        root: of the trie, 0 or the node of bytes that tokens begin with and that are not part of the text.
        """
        result = np.full(self.size, FAR, dtype=np.int32)
        seen = set[tuple[int, Node]]()
        stack = [(self.walk_of(state, root), node) for state, node in column.pairs]
        while stack:
            walk, node = stack.pop()
            if (id(walk), node) in seen or node.cost >= FAR:
                continue
            seen.add((id(walk), node))
            found = walk.found
            if found.ids is None:
                np.minimum(result, found.costs + node.cost, out=result)
            elif len(found.ids):
                result[found.ids] = np.minimum(result[found.ids], found.costs + node.cost)
            if len(found.ends):
                result[found.ends] = np.minimum(result[found.ends], node.cost)
            if len(found.open):
                for state, above in node.after:
                    if state != END and above is not None:
                        onward = self.after(walk, state)
                        if onward is not None:
                            stack.append((onward, above))
        if root and self.trie.token_at[root] >= 0:
            result[self.trie.token_at[root]] = column.cost
        doubles, smallest = self.trie.doubles
        if len(doubles):
            result[doubles] = result[smallest]
        return np.minimum(result, FAR, out=result)

    def spaced(self, column: Column, budget: int) -> bytes:
        """As `allowed`, for tokens that begin with a space which is not part of the text."""
        space = np.nonzero(self.trie.byte[: 1 + self.trie.count[0]] == ord(" "))[0]
        if not len(space):
            return b""
        return np.packbits(self.costs(column, int(space[-1])) < min(budget, FAR), bitorder="little").tobytes()

    def allowed(self, column: Column, budget: int) -> bytes:
        """Bit i is set where token i may come next and the text can then still end within `budget` tokens in all."""
        if column.bits is not None and column.bits[0] < budget:
            return column.bits[1]
        costs = self.costs(column)
        bits = np.packbits(costs < min(budget, FAR), bitorder="little").tobytes()
        most = int(np.where(costs < FAR, costs, -1).max(initial=-1))
        if most < budget:
            column.bits = most, bits
        return bits
