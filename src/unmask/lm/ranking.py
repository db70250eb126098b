"""Candidates for a gap, judged by the causal rows in the text's own order: how likely they are, and what follows them.

score = log p(middle | prefix) + log p(first suffix tokens | prefix, middle), which is log p(middle | prefix, suffix)
but for a constant: the causal rows never see the suffix, and choose by it all the same. Sums, not means per token:
means like long middles too well (measured, docs/infill.md). The text is tokenised as a whole, so both joins are as in
a text that was never cut. Where an adapter has taught causal rows to fill gaps, they say it with both sides in view,
and both are added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, NamedTuple

from unmask.decoding.common import causal_span, context_spans
from unmask.engine.scheduler import Job, reuse_kind, row_keys
from unmask.types import Ids, Plan, Read, Request, Rows, Span

if TYPE_CHECKING:
    from unmask.lm.lm import LM

SUFFIX_SCORED = 16  # tokens
LEAST = 1.4e-45  # what a probability below float32's smallest counts as


@dataclass(frozen=True, slots=True)
class Score:
    """Natural logarithms. suffix: of its first tokens; None where there is none. gap: of the middle and its end with
    both sides in view, by an adapter's causal rows; None where there is none."""

    middle: float
    suffix: float | None
    gap: float | None = None

    @property
    def whole(self) -> float:
        return self.middle + (self.suffix or 0.0) + (self.gap or 0.0)


def scores(lm: LM, prefix: str, middles: Sequence[str], suffix: str) -> list[Score]:
    """One score for each candidate."""
    filler = lm.traits.gap_adapter is not None
    gaps = in_view(lm, prefix, middles, suffix) if filler else [None] * len(middles)
    return [
        Score(sum(inside), sum(after) if after else None, gap)
        for (inside, after), gap in zip(likelihoods(lm, prefix, middles, suffix, SUFFIX_SCORED), gaps, strict=True)
    ]


def in_view(lm: LM, prefix: str, middles: Sequence[str], suffix: str) -> list[float]:
    """log p(middle, end of the gap | prefix, suffix) of each, by causal rows that have learned gaps, laid out as when
    one is filled."""
    end = lm.traits.gap_end
    assert end is not None
    inside, found = [(*lm.tokenizer.encode(middle), end) for middle in middles], dict[int, float]()
    # A middle that is longer than any that was learned does not move the suffix away from the others.
    for fits in (True, False):
        those = [i for i, ids in enumerate(inside) if (len(ids) <= lm.traits.gap_room) == fits]
        gap = lm.filler.gap(prefix, suffix, max((len(inside[i]) for i in those), default=1))
        texts = [((*gap.context, *inside[i]), len(gap.context)) for i in those]
        found |= zip(those, map(sum, log_likelihoods(lm, texts, gap)), strict=True)
    return [found[i] for i in range(len(inside))]


class Likelihoods(NamedTuple):
    """log p(token | all before it), of the tokens of a middle and of the first ones of the suffix behind it."""

    middle: Sequence[float]
    suffix: Sequence[float]


def likelihoods(lm: LM, prefix: str, middles: Sequence[str], suffix: str, tokens: int) -> list[Likelihoods]:
    """Of each middle, with so many tokens of the suffix at most."""
    head = suffix[: 8 * tokens]  # characters enough for so many tokens of most texts
    texts = [Text.of(lm, prefix, middle, head, tokens) for middle in middles]
    found = log_likelihoods(lm, [(text.ids, text.begin) for text in texts])
    return [
        Likelihoods(each[: text.stop - text.begin], each[text.stop - text.begin :])
        for text, each in zip(texts, found, strict=True)
    ]


class Text(NamedTuple):
    """A middle in its place: its tokens are ids[begin:stop], the one that leads into it among them."""

    ids: Ids
    begin: int
    stop: int

    @classmethod
    def of(cls, lm: LM, prefix: str, middle: str, head: str, tokens: int) -> Text:
        ids = lm.encode(prefix + middle + head)
        lengths = [len(lm.tokenizer.token_bytes(token)) for token in ids]
        if lm.tokenizer.add_bos:
            lengths[0] = 0
        ends = list(accumulate(lengths))
        first, last = len(prefix.encode()), len((prefix + middle).encode())
        begin = max(next((i for i, end in enumerate(ends) if end > first), len(ids)), 1)
        stop = max(next((i for i, end in enumerate(ends) if end > last), len(ids)), begin)
        return cls(ids[: stop + tokens if head else stop], begin, stop)


def log_likelihoods(lm: LM, texts: Sequence[tuple[Ids, int]], context: Request | None = None) -> list[list[float]]:
    """log p(token | all before it) of ids[first:] for each (ids, first), by causal rows of the engine's own forwards.

    What all of them begin with is computed once, or not at all where the key/value memory still has it; behind it they
    share forwards. context: a request with a gap, whose `Request.context` all of them begin with. Raises ValueError
    where the memory has no room beside what runs.
    """
    wanted = [i for i, (ids, first) in enumerate(texts) if first < len(ids)]
    found: list[list[float]] = [[] for _ in texts]
    if not wanted:
        return found
    engine, chunk = lm.engine, lm.engine.config.prefill_chunk
    shared = min(common([texts[i][0] for i in wanted]), *(texts[i][1] - 1 for i in wanted))
    begun = texts[wanted[0]][0][: shared + 1]
    request = context or Request(begun[:1], 1)
    with lm.lock:  # not while another thread steps the engine
        kind = reuse_kind(request) if engine.config.prefix_reuse else None
        pages = engine.pages.reuse(row_keys(request, begun), kind) if kind else []
        known = len(pages) * engine.pages.size
        room = engine.pages.free * engine.pages.size + known - shared
        plans = list(pieces([(i, len(texts[i][0]) - 1) for i in wanted], shared, max(min(chunk, room), 1)))
        rows = max(plan[0].start + sum(piece.stop - piece.start for piece in plan) for plan in plans)
        fits = engine.pages.extend(pages, rows)
    try:
        if not fits:
            raise ValueError(f"{rows} tokens do not fit the key/value memory: raise max_tokens_cached")
        for start in range(known, shared, chunk):
            spans = context_spans(request, begun, start, min(start + chunk, shared))
            forward(lm, Job(request, Plan(spans, ()), start, pages))
        for plan in plans:
            beside, reads = list[Span](), list[Read]()
            for number, piece in enumerate(plan):
                ids, first = texts[piece.text]
                read = tuple(range(max(first - 1 - piece.start, 0), piece.stop - piece.start))
                given = tuple(ids[piece.start + row + 1] for row in read)
                beside.append(causal_span(request, ids[piece.start : piece.stop], request.position(piece.start)))
                reads.append(Read(number, read, given=given, detail=True))
            values = iter(forward(lm, Job(request, Plan(tuple(beside), tuple(reads)), plan[0].start, pages)))
            for piece, each in zip(plan, reads, strict=True):
                found[piece.text] += [math.log(max(next(values).given_prob, LEAST)) for _ in each.rows]
    finally:
        with lm.lock:
            engine.pages.release(pages)
    return found


def forward(lm: LM, job: Job) -> Rows:
    with lm.lock:
        return lm.engine.runner.run([job])[0]


def common(several: Sequence[Ids]) -> int:
    """How many ids all of them begin with."""
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*several, strict=False)))


class Piece(NamedTuple):
    """Rows start to stop of a text, in one forward."""

    text: int
    start: int
    stop: int


def pieces(rows: Sequence[tuple[int, int]], shared: int, most: int) -> Iterator[list[Piece]]:
    """What each forward computes of the texts (number, rows) behind what they share: as many beside each other as
    `most` rows hold; one that is longer has forwards of its own, one after the other."""
    beside = list[Piece]()
    for text, stop in rows:
        if beside and sum(piece.stop - piece.start for piece in beside) + stop - shared > most:
            yield beside
            beside = []
        if stop - shared > most:
            yield from ([Piece(text, start, min(start + most, stop))] for start in range(shared, stop, most))
        else:
            beside.append(Piece(text, shared, stop))
    if beside:
        yield beside
