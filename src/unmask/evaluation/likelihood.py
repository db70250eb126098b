"""Log-likelihood of given tokens: exact under a model's AR side, a bound (NELBO) under its diffusion side.

Both are read off the engine's own forwards, with the very rows that decoding has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from unmask.engine.scheduler import Job
from unmask.lm import LM
from unmask.types import Ids, Plan, Read, Request, Row, Span

LEAST = 1.4e-45  # what a probability below float32's smallest counts as


class Scored(NamedTuple):
    """log_likelihood: natural logarithm of p(token | all before it); greedy: it is the likeliest one."""

    log_likelihood: float
    greedy: bool


def scored(lm: LM, context: Sequence[int], continuation: Sequence[int]) -> list[Scored]:
    """One entry per token of the continuation, exact up to rounding of the model's own arithmetic.

    Raises ValueError for an empty context or more tokens than the model's context or the engine's memory holds.
    """
    ids, first = checked(lm, context, continuation), len(context)
    with memory(lm, len(ids)) as pages:
        rows = list(causal(lm, ids, 0, len(ids) - 1, first - 1, pages)) if continuation else []
    return [Scored(log(row), row.id == token) for row, token in zip(rows, ids[first:], strict=True)]


def bounded(
    lm: LM, context: Sequence[int], continuation: Sequence[int], samples: int = 16, seed: int = 0
) -> tuple[float, bool]:
    """(lower bound of the continuation's log-likelihood, whether blocks of masks alone give these tokens).

    Block by block, each after the clean tokens before it. Of a block of n tokens k are masked, k drawn evenly from 1..n
    in `samples` strata; the sum of their log p is weighted n / k (the order-agnostic bound, arXiv 2110.02037, as in
    LLaDA, arXiv 2502.09992). A block of one token is exact. The same seed draws the same masks.
    Raises ValueError as `scored`, and for a model whose blocks are read in another way.
    """
    traits, ids = lm.traits, checked(lm, context, continuation)
    if traits.mask_id is None or traits.shift or traits.context == "block":
        raise ValueError(
            "a diffusion likelihood needs a mask token, unshifted logits and finished blocks read causally"
        )
    random, total, greedy, kept = Random(f"{seed} {ids}"), 0.0, True, 0
    with memory(lm, len(ids)) as pages:
        for start in range(len(context), len(ids), traits.block_size):
            block = ids[start : start + traits.block_size]
            for _ in causal(lm, ids, kept, start, start, pages):
                pass
            kept, views = start, drawn(len(block), samples, random)
            for view in views:
                part = sum(map(log, denoised(lm, block, start, view, pages)))
                total += part * len(block) / len(view) / samples
            whole = denoised(lm, block, start, range(len(block)), pages)
            greedy = greedy and all(row.id == token for row, token in zip(whole, block, strict=True))
    return total, greedy


def drawn(length: int, samples: int, random: Random) -> list[list[int]]:
    """The slots that are masked in each view of a block."""
    counts = [1 + int((number + random.random()) / samples * length) for number in range(samples)]
    return [sorted(random.sample(range(length), min(count, length))) for count in counts]


def causal(lm: LM, ids: Ids, kept: int, end: int, read: int, pages: Sequence[int]) -> Iterator[Row]:
    """Write the rows of ids kept .. end - 1 and give those from `read` on, each with the probability of the next id."""
    chunk = lm.engine.config.prefill_chunk
    for start in range(kept, end, chunk):
        span = Span(ids[start : min(start + chunk, end)], start)
        wanted = tuple(row for row in range(len(span.tokens)) if start + row >= read)
        given = tuple(ids[start + row + 1] for row in wanted)
        yield from forward(lm, span, Read(0, wanted, given=given, detail=True), start, pages)


def denoised(lm: LM, block: Ids, start: int, masked: Sequence[int], pages: Sequence[int]) -> list[Row]:
    """Rows of the masked slots of a block, each with the probability of its own token; nothing is kept."""
    mask = lm.traits.mask_id
    assert mask is not None
    tokens = tuple(mask if slot in masked else token for slot, token in enumerate(block))
    flags = tuple(slot in masked for slot in range(len(block)))
    span = Span(tokens, start, full=True, adapter=lm.traits.denoise_adapter, masked=flags)
    given = tuple(block[slot] for slot in masked)
    return forward(lm, span, Read(0, tuple(masked), shift=0, given=given, detail=True, bans_mask=True), start, pages)


def forward(lm: LM, span: Span, read: Read, kept: int, pages: Sequence[int]) -> list[Row]:
    plan = Plan((span,), (read,) if read.rows else ())
    return list(lm.engine.runner.run([Job(Request((0,), 1, traits=lm.traits), plan, kept, pages)])[0])


def log(row: Row) -> float:
    return math.log(max(row.given_prob, LEAST))


@contextmanager
def memory(lm: LM, rows: int) -> Iterator[list[int]]:
    """Pages of key/value memory for so many rows, given back afterwards."""
    pages = list[int]()
    if not lm.engine.pages.extend(pages, rows):
        raise ValueError(f"{rows} rows do not fit the key/value memory: raise max_tokens_cached")
    try:
        yield pages
    finally:
        lm.engine.pages.release(pages)


def checked(lm: LM, context: Sequence[int], continuation: Sequence[int]) -> Ids:
    ids = (*context, *continuation)
    if not context:
        raise ValueError("the first token of all has no likelihood: give a context of at least one token")
    if len(ids) > lm.config.max_position:
        raise ValueError(f"{len(ids)} tokens exceed the context of {lm.config.max_position}")
    return ids
