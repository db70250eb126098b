"""Corruption: which blocks a sample is cut into, and which of their tokens are masked.

A pure function of (run seed, sample index, settings), so that it does not depend on processes, batches or resuming.
Formulas: Efficient-DLM (arXiv 2512.14067) for the exponential law and exact-k; BD3-LM (arXiv 2503.09573) for
stratified t.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unmask.training.sample import Sample
from unmask.training.settings import Blocks, Noise, TrainConfig

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
GOLDEN = (math.sqrt(5) - 1) / 2
# Share of the blocks of gaps that are all masked, which is how each begins at inference.
FULL_GAPS = 0.25


@dataclass(frozen=True, slots=True)
class Block:
    """One noised block of a sample: a copy of its rows first .. first + len(masked) - 1.

    masked: bool [n]; eligible: how many could have been. weight: float64 [n], 0 where not masked. sees: the clean rows
    of the document before this row number are visible. draft: a drafting block (t = 1).
    """

    first: int
    masked: Bools
    eligible: int
    weight: Floats
    t: float
    draft: bool
    sees: int


def corrupt(sample: Sample, config: TrainConfig) -> list[Block]:
    """The noised blocks of a sample, view by view, left to right; by chance, some mask nothing."""
    return [block for view in range(config.views) for block in one_view(sample, config, view)]


def one_view(sample: Sample, config: TrainConfig, view: int) -> Iterator[Block]:
    rng = np.random.default_rng((config.seed, sample.index, view))
    size, draft_size = sizes(config.blocks, sample.index, rng)
    pieces = [
        piece
        for first, last in runs(sample, config.blocks.skip)
        for piece in (
            cut(first, last, size, draft_size, config.blocks, rng)
            if sample.gap is None or not sample.gap[first]
            else cut_gap(sample, first, last, size, config, rng)
        )
    ]
    ts = iter(stratified(sum(not draft for _, _, draft in pieces), sample.index, config, view, rng))
    for first, last, draft in pieces:
        if draft:
            yield drafting(first, last - first, config)
            continue
        t, noise = next(ts), config.noise
        if sample.gap is not None and sample.gap[first]:
            t, noise = 1.0 if rng.random() < FULL_GAPS else t, replace(noise, law="uniform", mode="exact")
        masked, propensity, t = mask_some(last - first, t, noise, rng)
        yield Block(first, masked, last - first, weights(masked, propensity, config.noise), t, False, first)
        if config.noise.complementary:
            rest = weights(~masked, 1 - propensity, config.noise)
            yield Block(first, ~masked, last - first, rest, 1 - t, False, first)


def sizes(blocks: Blocks, index: int, rng: np.random.Generator) -> tuple[int, int]:
    """(block size, draft size) of a sample."""
    size = blocks.size
    other, which = rng.random(2)
    if blocks.random_sizes and other < blocks.random_share:
        size = blocks.random_sizes[int(which * len(blocks.random_sizes))]
    draft_size = blocks.draft_size or size
    if reached := [largest for start, largest in blocks.curriculum if start <= index]:
        size, draft_size = min(size, reached[-1]), max(2, min(draft_size, reached[-1]))
    return size, draft_size


def runs(sample: Sample, skip: int = 1) -> list[tuple[int, int]]:
    """Longest stretches [first, last) of rows of one document on which loss is allowed, none at a position < skip. Of a
    document with a gap, the gap."""
    allowed = sample.supervised
    if sample.gap is not None:
        allowed = np.where(np.isin(sample.document, sample.document[sample.gap]), sample.gap, allowed)
    number = np.where(allowed & (sample.document >= 0) & (sample.position >= skip), sample.document, -1)
    edges = np.flatnonzero(np.diff(number)) + 1
    bounds = [0, *edges.tolist(), len(number)]
    return [(a, b) for a, b in itertools.pairwise(bounds) if b > a and number[a] >= 0]


def cut(
    first: int, last: int, size: int, draft_size: int, blocks: Blocks, rng: np.random.Generator
) -> Iterator[tuple[int, int, bool]]:
    """Blocks [first, last) of a run, and whether each drafts. The last one may be shorter, the first one by chance."""
    shifted, part = rng.random(2)
    while first < last:
        draft = bool(rng.random() < blocks.full_share)
        length = draft_size if draft else size
        if shifted < blocks.first_share:
            length, shifted = 1 + int(part * length), 1.0
        yield first, min(first + length, last), draft
        first += length


def cut_gap(
    sample: Sample, first: int, last: int, size: int, config: TrainConfig, rng: np.random.Generator
) -> Iterator[tuple[int, int, bool]]:
    """As `cut`, on the grid that inference has: from the first token of the gap, up to the block with its end token.

    Drafts are for causal rows that learn to fill gaps too, which those of a frozen model do not.
    """
    share = config.blocks.full_share if config.method == "joint" else 0.0
    end = first + int(np.flatnonzero(sample.supervised[first:last])[-1])
    for start in range(first, end + 1, size):
        yield start, min(start + size, last), bool(rng.random() < share)


def drafting(first: int, size: int, config: TrainConfig) -> Block:
    """All masked; where the seed belongs to the block it is slot 0, given (`unmask.decoding.common.group`)."""
    masked = np.ones(size, dtype=np.bool_)
    masked[0] = config.seed_placement == "causal"
    sees = first + (config.seed_placement == "copy")
    return Block(first, masked, int(masked.sum()), masked.astype(np.float64), 1.0, True, sees)


def stratified(n: int, index: int, config: TrainConfig, view: int, rng: np.random.Generator) -> Floats:
    """n values of t, one in each n-th of its range, in random order. Samples in a row are spread as well: their
    common offset walks in steps of the golden ratio."""
    if n == 0:
        return np.zeros(0)
    start = np.random.default_rng((config.seed, view)).random()
    offset = (start + GOLDEN * index) % 1.0
    unit = (np.argsort(rng.random(n)) + offset) / n
    return config.noise.low + (config.noise.high - config.noise.low) * unit


def mask_some(size: int, t: float, noise: Noise, rng: np.random.Generator) -> tuple[Bools, Floats, float]:
    """Which tokens to mask at noise level t, the probability that the weight is the inverse of, and the level itself
    (the linear law has its own)."""
    draws = rng.random(size)
    if noise.law == "linear":
        rates = linear_rates(size, noise.base_rate, noise.position_scale)
        return draws < rates, rates, float(rates.mean())
    if noise.mode == "bernoulli":
        return draws < t, np.full(size, t), t
    beta = math.log(2) / (noise.half_life * size) if noise.law == "exponential" else 0.0
    scores = beta * (1 - t) * np.arange(size) - np.log(-np.log(np.maximum(draws, 1e-300)))
    masked = np.zeros(size, dtype=np.bool_)
    masked[np.argsort(-scores, kind="stable")[: round(t * size)]] = True
    return masked, np.full(size, t), t


def linear_rates(size: int, base_rate: float, position_scale: float) -> Floats:
    """clip(base_rate * (1 + position_scale * i / (size - 1)), 0, 1) for i = 0 .. size - 1 (the seed article, §4)."""
    return np.clip(base_rate * (1 + position_scale * np.arange(size) / max(size - 1, 1)), 0.0, 1.0)


def weights(masked: Bools, propensity: Floats, noise: Noise) -> Floats:
    """1 / propensity up to the cap, or 1, on masked tokens; 0 elsewhere."""
    if not noise.weighted:
        return masked.astype(np.float64)
    return np.where(masked, np.minimum(1 / np.maximum(propensity, 1e-9), noise.weight_cap), 0.0)
