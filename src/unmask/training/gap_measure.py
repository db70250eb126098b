"""What a suffix is worth: the loss of what stands in a gap with the true suffix in view, against another one's.

Both see the same prefix, the same noise and a suffix of the same length, so the difference is what was read in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unmask.model.decoder import Decoder
from unmask.text import Tokenizer
from unmask.training.attention import make_kernel
from unmask.training.forward import clean_alone, clean_first
from unmask.training.gaps import Gap, Rows, find_gap, lay_gap, pack
from unmask.training.layout import lay_out
from unmask.training.measure import SEED, at, judge
from unmask.training.noise import Block, mask_some, weights
from unmask.training.sample import Sample
from unmask.training.settings import Noise, TrainConfig

UNIFORM = Noise(law="uniform", weight_cap=math.inf)


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one gap, end token included. nelbo: nats, summed over its tokens, an upper bound of -log p of it; ar: the same
    from its causal rows."""

    tokens: int
    nelbo: float
    ar: float


def gap_losses(decoder: Decoder, gaps: Sequence[Gap], config: TrainConfig, mask_id: int, points: int) -> list[Loss]:
    """points: noise levels per block, one in each part of (0, 1]. Gaps that leave nothing of one side are refused."""
    adapter = config.adapter.name if config.method == "adapter" else None
    samples, noised, ends = [], [], []
    for index, gap in enumerate(gaps):
        rows = lay_gap(gap, config.length, config.infill.room, config)
        if rows is None:
            raise ValueError(f"gap {index} does not fit into {config.length} tokens")
        samples.append(pack(index, [rows], len(rows.ids)))
        noised.append([] if config.ar_only else list(blocks_of(rows, len(gap.part), config, points)))
        ends.append(len(gap.part) + 1)
    doubled = lay_out(samples, noised, mask_id)
    kernel = make_kernel(config.attention, doubled, decoder.model.embed_tokens.weight.device)
    if config.stage == "filler":
        hidden = clean_alone(decoder, doubled, kernel, config.adapter.name)
    else:
        hidden = clean_first(decoder, doubled, kernel, adapter)
    masked = np.flatnonzero(doubled.weight > 0)
    label = doubled.ids[doubled.source[masked]]
    found = judge(decoder, at(hidden.noisy, masked), label, mask_id, config.loss.chunk)
    bound, causal = np.zeros(len(gaps)), np.zeros(len(gaps))
    number = doubled.block_document[doubled.block[masked]]
    np.add.at(bound, number, doubled.weight[masked] * found.nll / points)
    inside = np.concatenate([rows.gap & rows.supervised for rows in samples if rows.gap is not None])
    before = np.flatnonzero(inside) - 1
    own = judge(decoder, at(hidden.clean, before), doubled.ids[before + 1], mask_id, config.loss.chunk)
    np.add.at(causal, doubled.document[before], own.nll)
    return [Loss(*found) for found in zip(ends, bound.tolist(), causal.tolist(), strict=True)]


def held_gaps(samples: Sequence[Sample], tokenizer: Tokenizer, config: TrainConfig) -> list[Gap]:
    """A gap in the first document of each sample that has room for one, always the same."""
    found = list[Gap]()
    for sample in samples:
        own = sample.document == 0
        gap = find_gap(sample.ids[own], sample.supervised[own], tokenizer, config, np.random.default_rng(sample.index))
        if gap is not None and gap.suffix and lay_gap(gap, config.length, config.infill.room, config) is not None:
            found.append(gap)
    return found


def suffix_gain(
    decoder: Decoder, gaps: Sequence[Gap], config: TrainConfig, mask_id: int, points: int = 2, batch: int = 4
) -> dict[str, float]:
    """gap_nelbo: nats per token of the gaps; suffix_gain: how much less that is than with the suffix of another gap.

    The same for AR, as gap_ar and suffix_gain_ar, which a model that was trained whole has learned, or a filler, which
    has learned nothing else.
    """
    sums = np.zeros(5)
    for first in range(0, len(gaps), batch):
        some = gaps[first : first + batch]
        for true, other in zip(
            gap_losses(decoder, some, config, mask_id, points),
            gap_losses(decoder, shuffled(gaps)[first : first + batch], config, mask_id, points),
            strict=True,
        ):
            sums += (true.tokens, true.nelbo, other.nelbo - true.nelbo, true.ar, other.ar - true.ar)
    names = ("gap_nelbo", "suffix_gain", "gap_ar", "suffix_gain_ar")
    found = dict(zip(names, (sums[1:] / max(sums[0], 1)).tolist(), strict=True))
    return {name: found[name] for name in names[2:]} if config.stage == "filler" else found


def blocks_of(rows: Rows, part: int, config: TrainConfig, points: int) -> Iterator[Block]:
    """The blocks of a gap at each noise level; what only fills the last one carries no weight."""
    size, first = config.blocks.size, int(np.flatnonzero(rows.gap)[0])
    last = first + part
    for point in range(points):
        rng = np.random.default_rng((SEED, part, point))
        for start in range(first, last + 1, size):
            masked, propensity, t = mask_some(size, (point + rng.random()) / points, UNIFORM, rng)
            weight = weights(masked, propensity, UNIFORM) * (np.arange(start, start + size) <= last)
            yield Block(start, masked, min(size, last + 1 - start), weight, t, False, start)


def shuffled(gaps: Sequence[Gap]) -> list[Gap]:
    """Each gap with the suffix of another: of the next one that has as many tokens, cut to as many."""
    return [replace(gap, suffix=other_suffix(gaps, i)) for i, gap in enumerate(gaps)]


def other_suffix(gaps: Sequence[Gap], i: int) -> tuple[int, ...]:
    wanted = len(gaps[i].suffix)
    others = [gaps[(i + step) % len(gaps)].suffix for step in range(1, len(gaps))]
    longest = max(others, key=len, default=())
    return next((suffix[:wanted] for suffix in others if len(suffix) >= wanted), longest)
