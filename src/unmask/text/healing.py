"""Token healing: a prompt is cut before its last token, and the text that follows has to begin with that token's bytes.

A tokenizer would rarely have cut a whole text where the prompt happens to end: after "\\n" the indent that follows
is out of reach as one token. So the model may write the end of the prompt again, together with what comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from unmask.text.tokenizer import Tokenizer
from unmask.types import Choices, Ids, IdSet, Matcher

LETTERS = 256


class Healer:
    """The bytes of one tokenizer's tokens; special tokens and `never` write nothing."""

    def __init__(self, tokenizer: Tokenizer, never: int | None = None) -> None:
        self.tokenizer, self.never = tokenizer, never
        self.sets = lru_cache(maxsize=LETTERS)(self.tokens_for)

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        silent = self.tokenizer.special_ids | {self.never}
        ids = range(self.tokenizer.vocab_size)
        return tuple(b"" if id in silent else self.tokenizer.token_bytes(id) for id in ids)

    @cached_property
    def everything(self) -> IdSet:
        """All ids, also those of special tokens and those beyond the vocabulary that a model's logits may have."""
        return b"\xff" * (len(self.tokens) // 8 + LETTERS)

    def begin(self, prompt: Ids) -> tuple[Ids, bytes]:
        """(prompt without its last token, the bytes that then have to come); the prompt itself where that token is the
        only one, is special or part of a character, or where no other token begins with it."""
        last = self.tokens[prompt[-1]] if len(prompt) > 1 and prompt[-1] < len(self.tokens) else b""
        longer = any(len(token) > len(last) and token.startswith(last) for token in self.tokens)
        whole = "\N{REPLACEMENT CHARACTER}" not in last.decode("utf-8", "replace")
        return (prompt[:-1], last) if last and longer and whole else (prompt, b"")

    def start(self, written: bytes) -> Matcher:
        """The place before a text that begins with these bytes."""
        return Begins(self, written)

    def tokens_for(self, rest: bytes) -> IdSet:
        """Tokens that may come where `rest` is still to be written: those that write part of it, or all and more."""
        found = bytearray(len(self.tokens) // 8 + 1)
        for id, token in enumerate(self.tokens):
            if token and (token.startswith(rest) or rest.startswith(token)):
                found[id >> 3] |= 1 << (id & 7)
        return bytes(found)

    def shortest(self, rest: bytes) -> Ids:
        """Tokens that write `rest` and no more, as long ones as there are. () where bytes have no tokens."""
        found = list[int]()
        while rest:
            fits = [id for id, token in enumerate(self.tokens) if token and rest.startswith(token)]
            if not fits:
                return ()
            found.append(max(fits, key=lambda id: len(self.tokens[id])))
            rest = rest[len(self.tokens[found[-1]]) :]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Begins:
    """A `types.Matcher`: a text that has still to write `rest`, and then is free."""

    healer: Healer
    rest: bytes

    @property
    def accepting(self) -> bool:
        return not self.rest

    def over(self, budget: int) -> bool:
        return False

    def allowed(self, budget: int) -> IdSet:
        return self.healer.sets(self.rest) if self.rest else self.healer.everything

    def take(self, token: int, budget: int) -> Matcher | None:
        if not self.rest:
            return self
        written = self.healer.tokens[token] if token < len(self.healer.tokens) else b""
        if not written or not (written.startswith(self.rest) or self.rest.startswith(written)):
            return None
        return Begins(self.healer, self.rest[len(written) :])

    def ending(self, budget: int, tokens: int = 0) -> Ids:
        way = self.healer.shortest(self.rest)
        filler = next(id for id, token in enumerate(self.healer.tokens) if token)
        return (*way, *(filler,) * (tokens - len(way)))[: max(budget, 1)]

    def fill(self, slots: Sequence[Choices | int], known: Ids, budget: int, reach: int) -> Ids:
        place: Matcher = self
        way = list[int]()
        for i, slot in enumerate(slots):
            proposed = [slot] if isinstance(slot, int) else [token for token, _ in slot]
            for token in (*proposed, *known[i : i + 1], *place.ending(budget - i, 1)):
                if (after := place.take(token, budget - i)) is not None:
                    way.append(token)
                    place = after
                    break
        return tuple(way)
