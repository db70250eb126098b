"""Candidates for a gap, judged by the causal rows in the text's own order: how likely they are, and what follows them.

score = (mean log p(middle | prefix) + mean log p(first suffix tokens | prefix, middle)) / 2: the rule that PILL found
best for infilling (its ablation: 71.4 against 69.0 for the middle and 64.0 for the suffix alone; more than a few suffix
tokens add noise). The text is tokenised as a whole, so both joins are as in a text that was never cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from unmask.engine.scheduler import Job
from unmask.types import Ids, Plan, Read, Request, Span

if TYPE_CHECKING:
    from unmask.lm.lm import LM

SUFFIX_SCORED = 8  # tokens
CONTEXT_SCORED = 512  # tokens of the prefix, at most, that the score looks at
LEAST = 1.4e-45  # what a probability below float32's smallest counts as


@dataclass(frozen=True, slots=True)
class Score:
    """Natural logarithms, means per token. suffix: of its first tokens; None where there is none."""

    middle: float
    suffix: float | None

    @property
    def whole(self) -> float:
        return self.middle if self.suffix is None else (self.middle + self.suffix) / 2


def scores(lm: LM, prefix: str, middles: Sequence[str], suffix: str) -> list[Score]:
    """One score for each candidate."""
    head = suffix[: 8 * SUFFIX_SCORED]  # characters enough for so many tokens of most texts
    return [score(lm, prefix, middle, head) for middle in middles]


def score(lm: LM, prefix: str, middle: str, head: str) -> Score:
    ids = lm.encode(prefix + middle + head)
    lengths = [len(lm.tokenizer.token_bytes(token)) for token in ids]
    if lm.tokenizer.add_bos:
        lengths[0] = 0
    ends = list(accumulate(lengths))
    first, last = len(prefix.encode()), len((prefix + middle).encode())
    begin = next((i for i, end in enumerate(ends) if end > first), len(ids))
    begin = max(begin, 1)
    stop = next((i for i, end in enumerate(ends) if end > last), len(ids))
    stop = max(stop, begin)
    wanted = min(stop + SUFFIX_SCORED, len(ids)) if head else stop
    cut = max(0, begin - CONTEXT_SCORED)
    found = log_likelihoods(lm, ids[cut:wanted], begin - cut)
    inside, after = found[: stop - begin], found[stop - begin :]
    return Score(mean(inside), mean(after) if after else None)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def log_likelihoods(lm: LM, ids: Ids, first: int) -> list[float]:
    """log p(token | all before it) of ids[first:], by causal rows of the engine's own forwards.

    Raises ValueError where the key/value memory has no room for them beside what runs.
    """
    engine, pages = lm.engine, list[int]()
    found, rows = list[float](), len(ids) - 1
    if first >= len(ids):
        return []
    with lm.lock:  # not while another thread steps the engine
        if not engine.pages.extend(pages, rows):
            raise ValueError(f"{rows} tokens do not fit the key/value memory: raise max_tokens_cached")
        try:
            for start in range(0, rows, engine.config.prefill_chunk):
                tokens = ids[start : min(start + engine.config.prefill_chunk, rows)]
                read = tuple(row for row in range(len(tokens)) if start + row >= first - 1)
                given = tuple(ids[start + row + 1] for row in read)
                reads = (Read(0, read, given=given, detail=True),) if read else ()
                job = Job(Request(ids[:1], 1), Plan((Span(tokens, start),), reads), start, pages)
                found += [math.log(max(row.given_prob, LEAST)) for row in engine.runner.run([job])[0]]
        finally:
            engine.pages.release(pages)
    return found
