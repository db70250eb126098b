"""A place in a constrained text, as the strategies see it (`types.Matcher`).

A place from which the text could not be ended in budget is never entered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmask.constraints.blocks import fill
from unmask.constraints.columns import Column, Columns
from unmask.constraints.grammar import FAR
from unmask.constraints.masks import Masks
from unmask.types import Ids
from unmask.types.constraint import Choices, IdSet


@dataclass(frozen=True, eq=False)
class Language:
    """A compiled constraint for one vocabulary and one set of stop ids, which may come where the text may end."""

    columns: Columns
    masks: Masks
    stop_ids: Ids

    def start(self, joins: bool = False) -> Place:
        """The place before any token. A vocabulary whose texts lose their first space begins with that space, unless
        the text joins another."""
        return Place(self, self.columns.first, unwritten=self.columns.vocabulary.artificial_space and not joins)


@dataclass(frozen=True, slots=True)
class Place:
    """A column, or what comes after the stop id (column None).

    promised: tokens that end the text, where the column's own estimate was above the budget: the estimate cuts a
    shortest text rule by rule, and a better cut has been found. unwritten: the artificial space is still to come.
    """

    language: Language
    column: Column | None
    promised: Ids = ()
    unwritten: bool = False

    @property
    def accepting(self) -> bool:
        return self.column is None or self.column.accepting

    def over(self, budget: int) -> bool:
        if self.column is None or budget <= 0:
            return True
        if self.column.accepting and not self.language.stop_ids:
            return not any(self.allowed(budget))
        return self.column.finished

    def fits(self, budget: int) -> bool:
        """Whether the text can be ended within so many tokens."""
        if self.column is None or self.column.cost + self.unwritten <= budget:
            return True
        return 0 < len(self.promised) <= budget

    def allowed(self, budget: int) -> IdSet:
        column, masks = self.column, self.language.masks
        if column is None or budget <= 0:
            return b""
        bits = masks.spaced(column, budget) if self.unwritten else masks.allowed(column, budget)
        extra = self.language.stop_ids if column.accepting else ()
        if 0 < len(self.promised) <= budget:
            extra = (*extra, self.promised[0])
        return with_ids(bits, extra) if extra else bits

    def take(self, token: int, budget: int) -> Place | None:
        after = self.advance(token)
        return after if after is not None and after.fits(budget - 1) else None

    def advance(self, token: int) -> Place | None:
        """The place after a token, whatever it then takes to end the text."""
        language, column = self.language, self.column
        if column is None:
            return None
        if token in language.stop_ids:
            return Place(language, None) if column.accepting else None
        if self.unwritten:
            after = self.spelled(token)
        elif token in column.after:
            after = column.after[token]
        else:
            after = column.after[token] = self.spelled(token)
        if after is None:
            return None
        return Place(language, after, self.promised[1:] if self.promised[:1] == (token,) else ())

    def spelled(self, token: int) -> Column | None:
        """The column after the bytes of a token, if the text can be ended from there."""
        columns = self.language.columns
        tokens = columns.vocabulary.tokens
        data = tokens[token] if 0 <= token < len(tokens) else b""
        if not data or (self.unwritten and data[:1] != b" "):
            return None
        after = columns.walk(self.column, data[self.unwritten :])
        return None if after is None or after.cost >= FAR else after

    def ending(self, budget: int, tokens: int = 0) -> Ids:
        found, place = list[int](), self
        while not place.over(budget - len(found)):
            assert place.column is not None
            if place.column.accepting:
                stop_ids = self.language.stop_ids
                if stop_ids and len(found) < tokens:
                    found.append(stop_ids[0])
                if stop_ids or len(found) >= tokens:
                    break
                steps: Ids = (lowest(place.allowed(budget - len(found))),)
            else:
                steps = place.short(budget - len(found))
            for token in steps:
                onward = place.advance(token)
                assert onward is not None
                place = onward
            found += steps
        return tuple(found)

    def outward(self, budget: int) -> int:
        """A token after which the text can still be ended within `budget`, it included. Not where it is over."""
        column = self.column
        assert column is not None
        if column.accepting:
            return self.language.stop_ids[0] if self.language.stop_ids else lowest(self.allowed(budget))
        if self.unwritten or column.cost > budget:
            return self.short(budget)[0]
        return self.language.columns.way_out(column)

    def short(self, budget: int) -> Ids:
        """Tokens to the nearest end."""
        column, columns = self.column, self.language.columns
        assert column is not None
        if self.promised and column.cost + self.unwritten > budget:
            return self.promised
        if not self.unwritten:
            return columns.tokens_to_end(column)
        found = columns.vocabulary.split(b" " + (columns.ending(column) or b""))
        assert found is not None
        return found

    def fill(self, slots: Sequence[Choices | int], known: Ids, budget: int, reach: int) -> Ids:
        return fill(self, slots, known, budget, reach)


def lowest(bits: bytes) -> int:
    """The smallest id of a set that has one."""
    byte = next(i for i, value in enumerate(bits) if value)
    return byte * 8 + (bits[byte] & -bits[byte]).bit_length() - 1


def with_ids(bits: bytes, ids: Ids) -> bytes:
    """The set with some ids added."""
    found = bytearray(bits)
    for id in ids:
        if id >> 3 >= len(found):
            found.extend(bytes((id >> 3) + 1 - len(found)))
        found[id >> 3] |= 1 << (id & 7)
    return bytes(found)
