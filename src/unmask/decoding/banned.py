"""Tokens that an oracle has blamed may not come back at their places: a `types.Matcher` around another, or around none.

A ban is dropped where a hard constraint leaves nothing else. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from unmask.types import Choices, Ids, IdSet, Matcher


@dataclass(frozen=True, slots=True)
class Banned:
    """A place in a text that is free or within `inner`.

    bans: (index in the output, id). at: index of the token that comes next. vocab: ids below it may come.
    """

    inner: Matcher | None
    bans: tuple[tuple[int, int], ...]
    at: int
    vocab: int

    @property
    def accepting(self) -> bool:
        return self.inner is None or self.inner.accepting

    def over(self, budget: int) -> bool:
        return self.inner is not None and self.inner.over(budget)

    def allowed(self, budget: int) -> IdSet:
        every = all_ids(self.vocab) if self.inner is None else self.inner.allowed(budget)
        left = without(every, self.banned(self.at))
        return left if any(left) else every

    def take(self, token: int, budget: int) -> Banned | None:
        """Banned tokens are taken as well: they come where a ban was dropped, and are not proposed anywhere else."""
        after = None if self.inner is None else self.inner.take(token, budget)
        if after is None and self.inner is not None:
            return None
        return replace(self, inner=after, at=self.at + 1)

    def ending(self, budget: int, tokens: int = 0) -> Ids:
        if self.inner is not None:
            return self.inner.ending(budget, tokens)
        return (lowest(self.allowed(budget)),) * max(tokens, 1)

    def fill(self, slots: Sequence[Choices | int], known: Ids, budget: int, reach: int) -> Ids:
        free = [self.unbanned(slot, self.at + i) for i, slot in enumerate(slots)]
        if self.inner is not None:
            return self.inner.fill(free, known, budget, reach)
        return tuple(slot if isinstance(slot, int) else max(slot, key=lambda pair: pair[1])[0] for slot in free)

    def unbanned(self, slot: Choices | int, index: int) -> Choices | int:
        """What a slot may take but for what is banned there; all of it, where that would be nothing."""
        if isinstance(slot, int):
            return slot
        banned = self.banned(index)
        return tuple(pair for pair in slot if pair[0] not in banned) or slot

    def barred(self, index: int) -> IdSet | None:
        """All ids but those that are banned at that place; None where none is."""
        banned = self.banned(index)
        return without(all_ids(self.vocab), banned) if banned else None

    def banned(self, index: int) -> Ids:
        return tuple(id for place, id in self.bans if place == index)


@lru_cache(maxsize=8)
def all_ids(vocab: int) -> IdSet:
    return ((1 << vocab) - 1).to_bytes((vocab + 7) // 8, "little")


def without(ids: IdSet, banned: Ids) -> IdSet:
    left = bytearray(ids)
    for id in banned:
        if id >> 3 < len(left):
            left[id >> 3] &= ~(1 << (id & 7))
    return bytes(left)


def lowest(ids: IdSet) -> int:
    byte = next(i for i, value in enumerate(ids) if value)
    return byte * 8 + (ids[byte] & -ids[byte]).bit_length() - 1
