"""What the decoder asks of a constraint: which ids may come next, and where the text stands after one of them.

Strategies know this interface and no more. What implements it lives in `constraints`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unmask.types.settings import Ids

# A set of token ids: bit i % 8 of byte i // 8 is set where id i is in it. Ids beyond its end are not.
IdSet = bytes
# Tokens that a slot of a block may take, likeliest first, with their log-probabilities.
Choices = Sequence[tuple[int, float]]


def contains(ids: IdSet, id: int) -> bool:
    return id >> 3 < len(ids) and bool(ids[id >> 3] >> (id & 7) & 1)


class Matcher(Protocol):
    """A place in a constrained text, after some tokens. Never changed: `take` gives another one."""

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""

    def over(self, budget: int) -> bool:
        """Whether the text ends here: nothing may follow, or nothing that could be ended within `budget` tokens."""

    def allowed(self, budget: int) -> IdSet:
        """Tokens after which the text can still be ended with no more than `budget` tokens in all, them included."""

    def take(self, token: int, budget: int) -> Matcher | None:
        """The place after a token; None where it is not among those `allowed`."""

    def ending(self, budget: int, tokens: int = 0) -> Ids:
        """Tokens that end the text within `budget`; where it may go on, at least `tokens` of them if they fit."""

    def fill(self, slots: Sequence[Choices | int], known: Ids, budget: int, reach: int) -> Ids:
        """The likeliest way through a block, one token per slot or fewer where the text ends before, after which the
        text can still be ended within `budget` tokens from here. slots: what each may take, or the token that it has.
        known: the beginning of such a way, as far as there are slots that have a token; it is improved on. reach: how
        many of the slots matter: what all that have a token are among. The way may leave out what comes after."""
