"""The columns of a language by number, and which follows which, as vectors: what a pass over the trie looks up."""

from __future__ import annotations

import numpy as np

from unmask.constraints.columns import Column, Columns
from unmask.constraints.vocabulary import Ints

UNKNOWN, NONE = -2, -1


class Table:
    """Columns by number, and which column follows which on which class of bytes: filled as it is asked.

    inside: per column, see `Columns.inside`. ended: whether a rule may end there.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns, self.found, self.numbers = columns, list[Column](), dict[Column, int]()
        self.classes = len(columns.grammar.members)
        self.to = np.full(8 * self.classes, NONE, dtype=np.int32)
        self.inside, self.ended = np.empty(8, dtype=np.int32), np.empty(8, dtype=np.bool_)

    def number(self, column: Column | None) -> int:
        if column is None:
            return NONE
        number = self.numbers.get(column)
        if number is None:
            number = self.numbers[column] = len(self.found)
            self.found.append(column)
            if number == len(self.inside):
                self.to = np.concatenate((self.to, np.full_like(self.to, NONE)))
                self.inside, self.ended = np.concatenate([self.inside] * 2), np.concatenate([self.ended] * 2)
            self.to[[number * self.classes + symbol for symbol in self.columns.symbols(column)]] = UNKNOWN
            self.inside[number], self.ended[number] = self.columns.inside(column), column.accepting
        return number

    def after(self, place: int) -> int:
        """The number of the column after one (column, class)."""
        value = int(self.to[place])
        if value == UNKNOWN:
            which, letter = divmod(place, self.classes)
            byte = self.columns.grammar.members[letter][0]
            value = self.number(self.columns.step(self.found[which], byte))
            self.to[place] = value
        return value

    def look_up(self, place: Ints) -> Ints:
        """Numbers of the columns after (column, class), NONE where there is none. place: column * classes + class."""
        to = self.to.take(place)
        if len(to) and to.min() == UNKNOWN:
            asked = np.zeros(len(self.to), dtype=np.bool_)
            asked[place[to == UNKNOWN]] = True
            for missing in np.flatnonzero(asked).tolist():
                self.after(missing)
            to = self.to.take(place)
        return to

    def join(self, nodes: Ints, at: Ints, roots: Ints, columns: Ints) -> tuple[Ints, Ints]:
        """The roots of a level, each in its column, added to its nodes. A root that has been read already stands in
        both columns: that happens only where all roots are in one."""
        if not len(nodes):
            return roots, columns
        both, at = np.isin(nodes, roots), at.copy()
        for which in np.unique(at[both]).tolist():
            at[both & (at == which)] = self.number(self.columns.close((), self.found[which], self.found[columns[0]]))
        fresh = ~np.isin(roots, nodes)
        return np.concatenate((nodes, roots[fresh])), np.concatenate((at, columns[fresh]))
