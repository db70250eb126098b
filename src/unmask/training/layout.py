"""The doubled sequence of a batch: all clean rows, then the rows of all noised blocks.

Who sees whom is one rule (docs/design.md, last row of the table): a document's clean rows are causal in the order of
rows; a noised block sees itself, both ways, and the clean rows of its document before its `limit`. In a document with a
gap the suffix has its rows before the gap (`Request.context`). `spans` says so in the words that inference uses;
`Doubled` holds the same as flat arrays for the fast paths.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.training.noise import Block, corrupt
from unmask.training.sample import Sample
from unmask.training.settings import TrainConfig
from unmask.types import Span

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Doubled:
    """C clean rows (padding left out), then N noisy rows; D documents, K blocks.

    ids, position: int64 [C + N]. sample_index: the samples in it.
    document: int64 [C], ascending; documents: int64 [D + 1], their first rows, and C.
    blocks: int64 [K + 1], first noisy row of each block (counted from 0), and N. block_document, limit: int64 [K]: a
    block sees the clean rows documents[block_document] .. limit - 1. reach: int64 [K], the first noisy row that it
    sees; the last one is its own. t: float64 [K]; draft: bool [K].
    source: int64 [N], the clean row that a noisy row copies. slot: int64 [N], its number within its block.
    masked: bool [N]. weight: float64 [N], 0 where not masked.
    ar: int64 [A], clean rows whose next row is a target of the AR loss; gap: bool [A], whether that is in a gap.
    taught: bool [N], the source has its AR prediction in the clean row before it, and not in a gap, where a frozen
    model is no teacher. eligible: how many tokens of all blocks could have been masked.
    """

    ids: Longs
    position: Longs
    sample_index: tuple[int, ...]
    document: Longs
    documents: Longs
    blocks: Longs
    block_document: Longs
    limit: Longs
    reach: Longs
    t: NDArray[np.float64]
    draft: Bools
    source: Longs
    slot: Longs
    masked: Bools
    weight: NDArray[np.float64]
    ar: Longs
    gap: Bools
    taught: Bools
    eligible: int

    @property
    def clean(self) -> int:
        return len(self.document)

    @property
    def noisy(self) -> int:
        return len(self.source)

    @property
    def block(self) -> Longs:
        """int64 [N]: the block of each noisy row."""
        return np.repeat(np.arange(len(self.limit)), np.diff(self.blocks))


def double(samples: Sequence[Sample], config: TrainConfig, mask_id: int) -> Doubled:
    """The doubled sequence of a micro-batch, noised."""
    noised = [[] if config.ar_only else corrupt(sample, config) for sample in samples]
    return lay_out(samples, noised, mask_id, config.context == "noisy")


def lay_out(
    samples: Sequence[Sample], noised: Sequence[Sequence[Block]], mask_id: int, noisy_context: bool = False
) -> Doubled:
    """Blocks that mask nothing need no rows, but their tokens count: they could have been masked."""
    eligible = sum(block.eligible for blocks in noised for block in blocks)
    if not noisy_context:
        noised = [[block for block in blocks if block.masked.any()] for blocks in noised]
    ids, position, document, follows, supervised, gap = (list[NDArray[Any]]() for _ in range(6))
    source, limit, block_document = list[Longs](), list[int](), list[int]()
    start = count = 0
    for sample, blocks in zip(samples, noised, strict=True):
        real = sample.document >= 0
        row = np.cumsum(real) - 1 + start  # of the batch, by row of the sample
        number = np.cumsum(np.diff(sample.document[real], prepend=-1) != 0) - 1 + count
        ids.append(sample.ids[real])
        position.append(sample.position[real])
        document.append(number)
        follows.append((np.diff(number, prepend=-1) == 0) & (np.diff(sample.position[real], prepend=0) == 1))
        supervised.append(sample.supervised[real])
        gap.append(np.zeros(int(real.sum()), dtype=np.bool_) if sample.gap is None else sample.gap[real])
        for block in blocks:
            source.append(row[block.first : block.first + len(block.masked)])
            limit.append(int(row[block.first]) + block.sees - block.first)
            block_document.append(int(number[row[block.first] - start]))
        start, count = start + int(real.sum()), (int(number[-1]) + 1 if len(number) else count)
    every = [block for blocks in noised for block in blocks]
    clean_ids, clean_position = joined(ids, np.int64), joined(position, np.int64)
    clean_document, clean_follows = joined(document, np.int64), joined(follows, np.bool_)
    rows, masked = joined(source, np.int64), joined([block.masked for block in every], np.bool_)
    sizes = np.array([len(block.masked) for block in every], dtype=np.int64)
    firsts = np.concatenate(([0], np.cumsum(sizes)))
    reach = firsts[:-1].copy()
    if noisy_context:
        for k in range(1, len(every)):
            # Of one document, and not yet the first block of another view.
            if block_document[k] == block_document[k - 1] and source[k][0] > source[k - 1][0]:
                reach[k] = reach[k - 1]
        limit = [int(np.searchsorted(clean_document, number)) for number in block_document]  # nothing clean
    targets = np.flatnonzero(clean_follows & joined(supervised, np.bool_) & (clean_ids != mask_id))
    return Doubled(
        ids=np.concatenate((clean_ids, np.where(masked, mask_id, clean_ids[rows]))),
        position=np.concatenate((clean_position, clean_position[rows])),
        sample_index=tuple(sample.index for sample in samples),
        document=clean_document,
        documents=np.append(np.flatnonzero(np.diff(clean_document, prepend=-1)), start).astype(np.int64),
        blocks=firsts.astype(np.int64),
        block_document=np.array(block_document, dtype=np.int64),
        limit=np.array(limit, dtype=np.int64),
        reach=reach.astype(np.int64),
        t=np.array([block.t for block in every]),
        draft=np.array([block.draft for block in every], dtype=np.bool_),
        source=rows,
        slot=np.arange(len(rows)) - np.repeat(firsts[:-1], sizes),
        masked=masked,
        # The mask id is never an answer, not even where the text has it.
        weight=np.where(clean_ids[rows] == mask_id, 0.0, joined([block.weight for block in every], np.float64)),
        ar=targets - 1,
        gap=joined(gap, np.bool_)[targets],
        taught=clean_follows[rows] & ~joined(gap, np.bool_)[rows],
        eligible=eligible,
    )


def joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts]).astype(kind, copy=False)


def spans(doubled: Doubled, adapter: str | None) -> tuple[Span, ...]:
    """The same rows in the same order as spans: the reference, and the bridge to what inference runs."""
    made, stretches = list[Span](), list[tuple[int, int]]()
    for first, last in itertools.pairwise(doubled.documents.tolist()):
        # A span has ascending positions; a document with a gap is several.
        jumps = (np.flatnonzero(np.diff(doubled.position[first:last]) != 1) + first + 1).tolist()
        for start, end in itertools.pairwise([first, *jumps, last]):
            sees = tuple((i, b - a) for i, (a, b) in enumerate(stretches) if a >= first)
            made.append(Span(tuple(doubled.ids[start:end].tolist()), int(doubled.position[start]), sees=sees))
            stretches.append((start, end))
    for k, document in enumerate(doubled.block_document.tolist()):
        own = slice(int(doubled.blocks[k]), int(doubled.blocks[k + 1]))
        tokens = doubled.ids[doubled.clean :][own]
        first, limit = int(doubled.documents[document]), int(doubled.limit[k])
        clean = [(i, min(b, limit) - a) for i, (a, b) in enumerate(stretches) if first <= a < limit]
        earlier = np.flatnonzero(doubled.blocks[:k] >= doubled.reach[k]).tolist()
        copies = [(len(stretches) + e, int(doubled.blocks[e + 1] - doubled.blocks[e])) for e in earlier]
        start = int(doubled.position[doubled.clean :][own][0])
        made.append(
            Span(tuple(tokens.tolist()), start, True, (*clean, *copies), adapter, tuple(doubled.masked[own].tolist()))
        )
    return tuple(made)
