"""Further texts beside a greedy one: each parts from it where another token was likely as well.

The likeliest places come first: log p(all tokens up to there) + log p(the other token). From there on each text is
greedy again. So several candidates need no temperature, nothing is written twice, and a call gives the same ones again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import NamedTuple

from unmask.lm.follow import Follow
from unmask.types import Matcher, Request, Token
from unmask.types.constraint import contains

OTHERS = 16  # likeliest tokens at each place that are looked at
FAVOUR = 2.0  # nats by which a token that stands in the suffix as well counts as likelier than it is


@dataclass(frozen=True, slots=True)
class Root:
    """The greedy request that all texts begin with. names: ids that are favoured. never: ids that no text parts at.
    logprobs: of `Request`, for what the others write themselves."""

    request: Request
    follow: Follow
    names: Collection[int] = ()
    never: Collection[int] = ()
    logprobs: int | None = None


class Branch(NamedTuple):
    """A text that begins as the greedy one; the last token of `head` is what it parts at."""

    head: tuple[Token, ...]
    request: Request
    follow: Follow

    @property
    def done(self) -> bool:
        """Whether the head is all of it."""
        place = self.request.constraint
        return self.follow.stream.hit is not None or (place is not None and place.over(self.request.max_tokens))


def branches(root: Root, tokens: Sequence[Token], count: int) -> list[Branch]:
    """So many texts that part from the greedy one, or as many as there are places to part at. tokens: of that one, with
    the likeliest others at each."""
    best = nlargest(count, places(root, tokens), key=lambda each: each[0])
    return [branch(root, tokens, place) for _, place in best]


class Place(NamedTuple):
    """Where a text may part: at the token with this number, by that id."""

    at: int
    id: int
    logprob: float
    matcher: Matcher | None


def places(root: Root, tokens: Sequence[Token]) -> Iterator[tuple[float, Place]]:
    """All places of the greedy text, with what speaks for them."""
    request = root.request
    before, matcher, closed = 0.0, request.constraint, {*root.never, *request.stop_ids}
    for at, token in enumerate(tokens[: request.max_tokens - 1]):
        left = request.max_tokens - at
        allowed = None if matcher is None else matcher.allowed(left)
        for id, logprob in token.top:
            if id != token.id and id not in closed and (allowed is None or contains(allowed, id)):
                yield before + logprob + FAVOUR * (id in root.names), Place(at, id, logprob, matcher)
        if token.logprob is None or (matcher is not None and (matcher := matcher.take(token.id, left)) is None):
            return
        before += token.logprob


def branch(root: Root, tokens: Sequence[Token], place: Place) -> Branch:
    request = root.request
    left = request.max_tokens - place.at
    matcher = None if place.matcher is None else place.matcher.take(place.id, left)
    head = (*tokens[: place.at], Token(place.id, 0, place.logprob))
    onward = replace(
        request,
        prompt=(*request.prompt, *(token.id for token in head)),
        room=max(request.room - len(head), 0),  # the suffix stays where it is
        max_tokens=left - 1,
        min_tokens=max(request.min_tokens - len(head), 0),
        constraint=matcher,
        logprobs=root.logprobs,
    )
    return Branch(head, onward, root.follow.behind(head))
