"""Where a text stands in a language: columns, built byte by byte and shared by all texts that lead to the same place.

A column holds (state, node) pairs; a node holds all that may come after the rule which the state belongs to, as
(state, node) pairs in turn. Equal columns are one object, so a loop in a language is a loop of columns, and walking a
draft again or trying a thousand tokens costs look-ups. Columns are never changed: a prefix is forked by keeping it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from unmask.constraints.grammar import FAR, Grammar, distances
from unmask.constraints.vocabulary import Vocabulary

MOST_PAIRS = 400  # of a column; beyond it those that need most to end are given up: fewer texts, none of them wrong
MOST_COLUMNS = 20_000  # remembered at a time
FEW_BYTES = 6  # that may follow a column, up to which they are told one by one
END = -1  # instead of a state: nothing may come after


class Node:
    """What may follow a rule. after: (state, node) to go on from, or (END, None). cost: fewest tokens to the end."""

    __slots__ = ("after", "cost")

    def __init__(self, after: tuple[tuple[int, Node | None], ...], cost: int) -> None:
        self.after, self.cost = after, cost


class Column:
    """pairs: states that read a byte next, each with what follows its rule. accepting: the text may end here.

    cost: tokens that suffice to end the text. next, after: column by byte class and by token, as far as was asked for.
    bits, few, out, short: what has been found out about it (see `Masks.allowed`, `Columns`); None before that.
    """

    __slots__ = ("accepting", "after", "bits", "cost", "few", "next", "out", "pairs", "short")

    def __init__(self, pairs: tuple[tuple[int, Node], ...], accepting: bool, cost: int) -> None:
        self.pairs, self.accepting, self.cost = pairs, accepting, cost
        self.next = dict[int, Column | None]()
        self.after = dict[int, Column | None]()
        self.bits: tuple[int, bytes] | None = None
        self.few: bytes | None = None
        self.short: tuple[int, ...] | None = None
        self.out: int | None = None

    @property
    def finished(self) -> bool:
        """Nothing may follow."""
        return not self.pairs


class Columns:
    """All columns of one language under one vocabulary.

    Costs are upper bounds that shrink by one with every token of some way to the end: a rule's shortest text is cut
    into the fewest tokens, rule by rule.
    """

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        self.grammar, self.vocabulary = grammar, vocabulary
        self.far, self.way = distances(grammar, vocabulary.writable)
        self.costs: list[int | None] = [None] * len(grammar.edges)
        self.tail = [
            final and not edges and not calls
            for final, edges, calls in zip(grammar.final, grammar.edges, grammar.calls, strict=True)
        ]
        self.plain = [
            not final and bool(edges) and not calls
            for final, edges, calls in zip(grammar.final, grammar.edges, grammar.calls, strict=True)
        ]
        self.nodes = dict[frozenset[tuple[int, Node | None]], Node]()
        self.columns = dict[tuple[frozenset[tuple[int, Node]], bool], Column]()
        self.bottom = self.node(frozenset({(END, None)}))
        self.first = self.begin(grammar.start[grammar.main])

    def begin(self, state: int) -> Column:
        """The column of one state whose rule is followed by nothing. Ending that rule is `accepting`."""
        return self.close([(state, self.bottom)])

    def step(self, column: Column, byte: int) -> Column | None:
        """The column after one more byte; None where the language has no such text."""
        symbol = self.grammar.klass[byte]
        try:
            return column.next[symbol]
        except KeyError:
            edges = self.grammar.edges
            kernel = [(edges[state][symbol], node) for state, node in column.pairs if symbol in edges[state]]
            if len(kernel) == 1 and self.plain[kernel[0][0]]:
                found: Column | None = self.column(set(kernel), False)  # as `close` would, which has nothing to do
            else:
                found = self.close(kernel) if kernel else None
            column.next[symbol] = found
            return found

    def symbols(self, column: Column) -> list[int]:
        """The classes of bytes that may follow."""
        edges = self.grammar.edges
        if len(column.pairs) == 1:
            return list(edges[column.pairs[0][0]])
        return sorted({symbol for state, _ in column.pairs for symbol in edges[state]})

    def few(self, column: Column) -> bytes:
        """The bytes that may follow, where these are at most `FEW_BYTES`; else none of them."""
        if column.few is None:
            members = self.grammar.members
            symbols = self.symbols(column)
            few = sum(len(members[symbol]) for symbol in symbols) <= FEW_BYTES
            column.few = b"".join(members[symbol] for symbol in symbols) if few else b""
        return column.few

    def walk(self, column: Column | None, data: bytes) -> Column | None:
        for byte in data:
            if column is None:
                return None
            column = self.step(column, byte)
        return column

    def close(self, kernel: Iterable[tuple[int, Node]], *also: Column) -> Column:
        """The column of states just reached: rules that end are left, rules that are called are entered.

        also: columns at the same place, which become part of it.
        """
        grammar = self.grammar
        accepting = any(column.accepting for column in also)
        seen, active = set[tuple[int, Node]](), {pair for column in also for pair in column.pairs}
        entered = dict[int, set[tuple[int, Node | int | None]]]()
        begun = list[tuple[int, int]]()
        stack = list(kernel)
        while stack:
            pair = stack.pop()
            if pair in seen:
                continue
            seen.add(pair)
            state, node = pair
            if grammar.final[state]:
                for after in node.after:
                    if after[0] == END:
                        accepting = True
                    else:
                        stack.append(after)  # type: ignore[arg-type]
            if grammar.edges[state]:
                active.add(pair)
            calls: list[tuple[int, int, Node | int]] = [(rule, to, node) for rule, to in grammar.calls[state]]
            while calls:
                rule, to, parent = calls.pop()
                if rule not in entered:
                    entered[rule] = set()
                    first = grammar.start[rule]
                    begun.append((rule, first))
                    calls += [(callee, back, rule) for callee, back in grammar.calls[first]]
                entered[rule].add((to, parent))
        made = self.nodes_of(entered) if begun else {}
        for rule, first in begun:
            if grammar.edges[first]:
                active.add((first, made[rule]))
        return self.column(active, accepting)

    def nodes_of(self, entered: Mapping[int, set[tuple[int, Node | int | None]]]) -> dict[int, Node]:
        """What follows each rule that is entered at one place. entered: rule -> (state after it, who called it: a rule
        that is entered there too, or what follows the calling one)."""
        made, tail, stack = dict[int, Node](), self.tail, list(entered)
        while stack:
            rule = stack[-1]
            callers = {parent for _, parent in entered[rule] if not isinstance(parent, Node) and parent not in made}
            if rule not in made and callers:
                # Without left recursion a rule is never its own caller at one place, so this comes to an end.
                stack += callers  # type: ignore[arg-type]
                continue
            stack.pop()
            if rule in made:
                continue
            after = set[tuple[int, Node | None]]()
            for to, parent in entered[rule]:
                above = parent if isinstance(parent, Node) else made[parent]  # type: ignore[index]
                if tail[to]:
                    after.update(above.after)
                else:
                    after.add((to, above))
            made[rule] = self.node(frozenset(after))
        return made

    def node(self, after: frozenset[tuple[int, Node | None]]) -> Node:
        found = self.nodes.get(after)
        if found is None:
            cost = min(self.cost_of(pair) for pair in after)
            found = self.nodes[after] = Node(tuple(after), cost)
        return found

    def column(self, pairs: set[tuple[int, Node]], accepting: bool) -> Column:
        if len(pairs) > MOST_PAIRS:
            pairs = set(sorted(pairs, key=lambda pair: (self.cost(pair[0]) + pair[1].cost, pair[0]))[:MOST_PAIRS])
        key = frozenset(pairs), accepting
        found = self.columns.get(key)
        if found is None:
            if len(self.columns) > MOST_COLUMNS:
                self.columns.clear()
                self.nodes.clear()
            found = self.columns[key] = Column(tuple(pairs), accepting, 0)
            if not accepting:
                found.cost = self.inside(found)
        return found

    def inside(self, column: Column) -> int:
        """Fewest tokens to the end of the rule, for a text that is still in it."""
        least = FAR
        for state, node in column.pairs:
            least = min(least, self.cost(state) + node.cost)
        return least

    def cost(self, state: int) -> int:
        """Tokens that suffice from a state to the end of its rule, cutting its shortest way; FAR where none do."""
        found = self.costs[state]
        if found is not None:
            return found
        if self.far[state] >= FAR:
            return FAR
        stack = [state]
        while stack:
            missing = [other for other in self.needs(stack[-1]) if self.costs[other] is None and self.far[other] < FAR]
            if missing:
                stack += missing
            else:
                last = stack.pop()
                self.costs[last] = self.cut(last)
        return self.known(state)

    def needs(self, state: int) -> list[int]:
        """States whose costs the cost of `state` is made of."""
        way = self.way[state]
        if way is None:
            return []
        step, to = way
        return [to] if step >= 0 else [self.grammar.start[self.grammar.calls[state][-1 - step][0]], to]

    def cut(self, state: int) -> int:
        way = self.way[state]
        if way is None:
            return 0
        if way[0] < 0:
            return sum(self.known(other) for other in self.needs(state))
        return min((cost for cost, _ in self.cuts(state)), default=FAR)

    def cuts(self, state: int) -> Iterator[tuple[int, int]]:
        """(tokens to the end, the first of them) for each token that the shortest way from a state begins with, where
        that is no call."""
        child, ends, node, way = self.vocabulary.trie.child, self.vocabulary.trie.ends, 0, self.way[state]
        for _ in range(self.vocabulary.longest):
            if way is None or way[0] < 0 or (node := child.get(node * 256 + way[0], -1)) < 0:
                break
            if ends[node] >= 0:
                yield 1 + self.known(way[1]), ends[node]
            way = self.way[way[1]]

    def known(self, state: int) -> int:
        return self.costs[state] if self.costs[state] is not None else FAR  # type: ignore[return-value]

    def ending(self, column: Column) -> bytes | None:
        """Bytes of a text from here to the end that can be cut into `column.cost` tokens; None where there is none."""
        if column.accepting:
            return b""
        if column.cost >= FAR:
            return None
        ways = [pair for pair in column.pairs if self.cost(pair[0]) + pair[1].cost == column.cost]
        return min(self.onward(state, node) for state, node in ways)  # always the same one, in whatever order they are

    def tokens_to_end(self, column: Column) -> tuple[int, ...]:
        """Tokens from here to an end, at most `column.cost` of them; () at one. Not for columns without an end."""
        if column.short is None:
            text = self.ending(column)
            found = None if text is None else self.vocabulary.split(text)
            assert found is not None
            column.short = found
        return column.short

    def way_out(self, column: Column) -> int:
        """A token after which the text can be ended with one token less than `column.cost`. Not at an end, and not for
        columns without one."""
        if column.out is None:
            pairs = ((state, node) for state, node in column.pairs if self.cost(state) + node.cost == column.cost)
            column.out = min(self.first_token(state, node) for state, node in pairs)
        return column.out

    def first_token(self, state: int, node: Node) -> int:
        """The first token of a cheapest way from a state to the end."""
        above: Node | None = node
        stack = [state]
        while True:
            while not stack:
                assert above is not None
                after, above = min(above.after, key=lambda pair: (self.cost_of(pair), pair[0]))
                stack = [after]
            state = stack.pop()
            if self.way[state] is None:
                continue
            step, to = self.way[state]  # type: ignore[misc]
            if step < 0:
                stack += [to, self.grammar.start[self.grammar.calls[state][-1 - step][0]]]
            else:
                return min(self.cuts(state))[1]

    def onward(self, state: int, node: Node) -> bytes:
        parts = list[bytes]()
        while True:
            parts.append(self.spell(state))
            state, above = min(node.after, key=lambda pair: (self.cost_of(pair), pair[0]))
            if above is None:
                return b"".join(parts)
            node = above

    def cost_of(self, pair: tuple[int, Node | None]) -> int:
        return 0 if pair[1] is None else self.cost(pair[0]) + pair[1].cost

    def spell(self, state: int) -> bytes:
        """The shortest bytes to the end of a state's rule."""
        parts, stack = bytearray(), [state]
        while stack:
            state = stack.pop()
            way = self.way[state]
            if way is None:
                continue
            step, to = way
            stack.append(to)
            if step >= 0:
                parts.append(step)
            else:
                stack.append(self.grammar.start[self.grammar.calls[state][-1 - step][0]])
        return bytes(parts)
