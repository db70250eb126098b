"""Which tokens may come next, and what each would leave to do: one pass over the trie per state, kept for ever.

A state's tokens are found once, relative to whatever follows its rule; tokens that reach beyond the end of the rule are
taken up again from each place that the rule may return to. What a text may have next is then a few vector operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from unmask.constraints.alike import numbered
from unmask.constraints.columns import END, MOST_COLUMNS, Column, Columns, Node
from unmask.constraints.found import NO_BITS, Found, lengthened, long_nodes
from unmask.constraints.grammar import FAR
from unmask.constraints.table import Table
from unmask.constraints.vocabulary import Ints

if TYPE_CHECKING:
    from unmask.constraints.blocks import Graph

MOST_WALKS = 4_000  # kept at a time
FEW_NODES, MANY_NODES = 32, 200  # to begin with, and in all: see `Masks.read_few`
NO_NODES = np.empty(0, dtype=np.int32)
At = tuple[int, Column]  # a node of the trie, and the column that it leads to


@dataclass(eq=False, slots=True)
class Walk:
    """Tokens from some place inside a rule.

    found: what they are. later: walks from where the rule has ended and tokens go on, by the state that is returned to.
    """

    found: Found
    later: dict[int, Walk | None] = field(default_factory=dict)


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
        self.table = Table(columns)
        self.reading = Lock()  # of what grows by reading: forwards, requests being prepared and fillings have threads
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
        """The tokens from a state. What is the same in many languages, such as a string of JSON, is found once; and
        where only the longest tokens differ, as in strings of bounded length, only these are looked at."""
        number = self.numbered.get(state)
        if number is None:
            return self.alone(state)
        with self.reading:
            long = long_nodes(self.columns, self.single(state))
        kept = self.columns.vocabulary.kept
        found = kept.get((number, long))
        if found is None:
            like = kept.get(number)
            found = lengthened(like, long, self.trie) if isinstance(like, Found) else self.alone(state)
            kept.put((number, long), found)
            kept.put(number, found)
        assert isinstance(found, Found)
        return found

    @cached_property
    def numbered(self) -> dict[int, int]:
        return numbered(self.columns, self.trie.long[0])

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
        trie = self.trie
        with self.reading:
            few, many = self.read_few(roots.tolist(), begin)
            if not many:
                return self.sorted_out(few, roots, begin)
            nodes, at = self.read(few, many)
            inside, ended = self.table.inside.take(at), self.table.ended.take(at)
        tokens = trie.token_at.take(nodes)
        alive = (tokens >= 0) & (inside < FAR)
        # The rule may end at the roots as well; tokens that end there belong to the walk before this one.
        open_ = np.concatenate((nodes[ended], roots)) if begin.accepting else nodes[ended]
        ids, costs = tokens[alive], inside[alive]
        ends, open_ = tokens[ended & (tokens >= 0)], np.unique(open_[trie.count[open_] > 0])
        most = int(costs.max(initial=-1))
        if len(ids) * 8 < self.size:
            return Found(ids, costs, ends, open_, most, NO_BITS)
        every = np.full(self.size, FAR, dtype=np.int32)
        every[ids] = costs
        return Found(None, every, ends, open_, most, np.packbits(every < FAR, bitorder="little"))

    def sorted_out(self, few: Sequence[At], roots: Ints, begin: Column) -> Found:
        """As `walk`, one by one."""
        trie, ids, costs, ends = self.trie, list[int](), list[int](), list[int]()
        open_ = set(roots.tolist()) if begin.accepting else set[int]()
        for node, column in few:
            token = trie.ends[node]
            if column.accepting:
                open_.add(node)
                ends += [token] if token >= 0 else []
            if token >= 0 and (cost := self.columns.inside(column)) < FAR:
                ids.append(token)
                costs.append(cost)
        onward = sorted(node for node in open_ if trie.count[node])
        found, needed, last, roots = (np.asarray(part, dtype=np.int32) for part in (ids, costs, ends, onward))
        return Found(found, needed, last, roots, max(costs, default=-1), NO_BITS)

    def read(self, few: Sequence[At], many: Sequence[At]) -> tuple[Ints, Ints]:
        """Trie nodes that can be read and the numbers in `table` of the columns that they lead to: the few that have
        been read, and all below the many."""
        if len(self.table.found) > MOST_COLUMNS:
            self.table = Table(self.columns)
        (nodes, at), (starts, columns) = map(self.vectors, (few, many))
        all_nodes, all_at = [nodes], [at]
        for level_nodes, level_at in self.read_many(starts, columns) if len(starts) else ():
            all_nodes.append(level_nodes)
            all_at.append(level_at)
        return np.concatenate(all_nodes), np.concatenate(all_at)

    def vectors(self, places: Sequence[At]) -> tuple[Ints, Ints]:
        nodes = np.asarray([node for node, _ in places], dtype=np.int32)
        return nodes, np.asarray([self.table.number(column) for _, column in places], dtype=np.int32)

    def read_few(self, roots: Sequence[int], begin: Column) -> tuple[list[At], list[At]]:
        """As far as there are few nodes and few bytes may follow them, read one by one, which is quicker then: (what
        was read, from where there is more). Nothing is, where a node would have two columns."""
        if len(roots) > FEW_NODES:
            return [], [(root, begin) for root in roots]
        child, columns = self.trie.child, self.columns
        found, many, stack = list[At](), list[At](), [(root, begin) for root in roots]
        while stack:
            node, column = stack.pop()
            few = column.few if column.few is not None else columns.few(column)
            if (not few and column.pairs) or len(found) > MANY_NODES:
                many.append((node, column))
                continue
            for byte in few:
                below = child.get(node * 256 + byte)
                if below is not None and (after := columns.step(column, byte)) is not None:
                    found.append((below, after))
                    stack.append((below, after))
        if len(roots) > 1 and (many or len({*roots, *(node for node, _ in found)}) < len(found) + len(roots)):
            return [], [(root, begin) for root in roots]
        return found, many

    def read_many(self, roots: Ints, columns: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Level by level, all nodes of one at a time."""
        depths = self.trie.depth[roots]
        waiting = {depth: depths == depth for depth in set(depths.tolist())}
        nodes = at = NO_NODES
        depth = 0
        while len(nodes) or waiting:
            depth = depth if len(nodes) else min(waiting)
            if depth in waiting:
                here = waiting.pop(depth)
                nodes, at = self.table.join(nodes, at, roots[here], columns[here])
            nodes, at = self.below(nodes, at)
            yield nodes, at
            depth += 1

    def below(self, nodes: Ints, at: Ints) -> tuple[Ints, Ints]:
        """The level below some nodes, and the column that each node of it leads to."""
        trie, table = self.trie, self.table
        counts = trie.count.take(nodes)
        ends = counts.cumsum(dtype=np.int32)
        below = (trie.first.take(nodes) - ends + counts).repeat(counts)
        below += np.arange(len(below), dtype=np.int32)
        to = table.look_up((at * table.classes).repeat(counts) + self.symbols.take(below))
        alive = to >= 0
        return below[alive], to[alive]

    def targets(self, column: Column) -> dict[Column, int]:
        """Columns one token away that have an end, each with the smallest token that leads there."""
        with self.reading:
            nodes, at = self.read(*self.read_few([0], column))
            found = self.table.found
        tokens = self.trie.token_at[nodes]
        tokens, at = tokens[tokens >= 0], at[tokens >= 0]
        order = np.lexsort((tokens, at))
        numbers, first = np.unique(at[order], return_index=True)
        pairs = zip(numbers.tolist(), tokens[order][first].tolist(), strict=True)
        return {found[number]: token for number, token in pairs if found[number].cost < FAR}

    def parts(self, column: Column, root: int = 0) -> Iterator[tuple[Ints | Found, Ints, int]]:
        """(ids, or what holds them all; costs, number): tokens that suffice to end the text after each are its cost and
        the number, FAR and more where it may not come. A token may be in several parts: the least counts."""
        seen = set[tuple[int, Node]]()
        stack = [(self.walk_of(state, root), node) for state, node in column.pairs]
        while stack:
            walk, node = stack.pop()
            if (id(walk), node) in seen or node.cost >= FAR:
                continue
            seen.add((id(walk), node))
            found = walk.found
            if found.ids is None:
                yield found, found.costs, node.cost
            elif len(found.ids):
                yield found.ids, found.costs, node.cost
            if len(found.ends):
                yield found.ends, np.zeros(len(found.ends), dtype=np.int32), node.cost
            if len(found.open):
                for state, above in node.after:
                    if state != END and above is not None:
                        onward = self.after(walk, state)
                        if onward is not None:
                            stack.append((onward, above))
        if root and self.trie.token_at[root] >= 0:
            yield self.trie.token_at[root : root + 1], np.zeros(1, dtype=np.int32), column.cost

    def costs(self, column: Column, root: int = 0) -> Ints:
        """[V]: per token, the tokens that suffice to end the text after it; FAR where it may not come.

        root: of the trie, 0 or the node of bytes that tokens begin with and that are not part of the text.
        """
        result = np.full(self.size, FAR, dtype=np.int32)
        for ids, costs, more in self.parts(column, root):
            if isinstance(ids, Found):
                np.minimum(result, costs + more, out=result)
            else:
                result[ids] = np.minimum(result[ids], costs + more)
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
        fits = min(budget, FAR)
        if len(self.trie.doubles[0]):
            costs = self.costs(column)
            bits = np.packbits(costs < fits, bitorder="little").tobytes()
            most = int(costs[costs < FAR].max(initial=-1))
        else:
            bits, most = self.gathered(column, fits)
        if most < budget:
            column.bits = most, bits
        return bits

    def gathered(self, column: Column, fits: int) -> tuple[bytes, int]:
        """(the tokens that cost less than `fits`, a bound on what any of them costs), without a vector of all costs
        where that can be."""
        packed, most = np.zeros(-(-self.size // 8), dtype=np.uint8), -1
        few = np.zeros(self.size, dtype=np.bool_)
        for ids, costs, more in self.parts(column):
            if not isinstance(ids, Found):
                few[ids[costs < fits - more]] = True
                most = max(most, int(costs.max()) + more)
            else:
                every = ids.most + more < fits
                packed |= ids.packed if every else np.packbits(costs < fits - more, bitorder="little")
                most = max(most, ids.most + more)
        packed |= np.packbits(few, bitorder="little")
        return packed.tobytes(), most
