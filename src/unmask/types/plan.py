"""One step: the spans to run, the rows to read, what came back, and what that settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from unmask.types.constraint import IdSet
from unmask.types.request import Frame, Token
from unmask.types.settings import FinishReason, Ids


@dataclass(frozen=True, slots=True)
class Span:
    """Contiguous query rows under one visibility rule.

    tokens: ids of the rows; row r sits at absolute position start + r. masked: which rows stand for an unknown
    token, whatever their id (empty: none).
    full: every row of the span sees all of it; else row r sees rows 0..r.
    sees: (index of an earlier span of the plan, how many of its leading rows are visible).
    All rows see the whole kept context. adapter: name of the adapter that acts on these rows.
    """

    tokens: Ids
    start: int
    full: bool = False
    sees: tuple[tuple[int, int], ...] = ()
    adapter: str | None = None
    masked: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """Rows of one span to read back.

    shift: 1 where a row predicts the position after it, 0 where it predicts its own.
    given: per row, an id whose probability is wanted, or -1.
    detail: also compute probability and runner-up (a pass over the vocabulary more). entropy: in nats, with detail.
    top: so many log-probabilities, None for not even the picked token's.
    bans_mask: the mask id may not be picked (rows that stand for masked slots).
    follows: per row, what stands before the token that it predicts: an id, or (read, row): what is picked for a row of
    another read, or for an earlier row of this one. A drafter with a coherence head chooses by it; others ignore it.
    allowed: per row, the ids that may be picked, None for all (empty: for every row).
    """

    span: int
    rows: tuple[int, ...]
    shift: int = 1
    given: tuple[int, ...] = ()
    detail: bool = False
    entropy: bool = False
    top: int | None = None
    bans_mask: bool = False
    follows: tuple[int | tuple[int, int], ...] = ()
    allowed: tuple[IdSet | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run next for one request. `reads` come back in order, row by row.

    history: ids of the kept context, given only when the sampling penalties need them. note: the strategy's own, which
    its `consume` finds again here.
    """

    spans: tuple[Span, ...]
    reads: tuple[Read, ...]
    history: Ids = ()
    note: object = None

    @property
    def rows(self) -> int:
        return sum(len(span.tokens) for span in self.spans)


class Row(NamedTuple):
    """What came back for one row. Fields after `id` are there when the Read asked for them."""

    id: int
    prob: float = 0.0
    second: int = -1
    second_prob: float = 0.0
    entropy: float = 0.0
    given_prob: float = 0.0
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


Rows = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step settled. keep: leading rows of the plan whose KV stays."""

    keep: int = 0
    emit: tuple[Token, ...] = ()
    frame: Frame | None = None
    finish: FinishReason | None = None
