"""Executes the plans of all live requests as one ragged forward: the only place where plans meet tensors.

Linear layers run once over the concatenated rows, attention per request, logits for the rows that are read, and one
device synchronisation brings all results to the host.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor

from unmask import visibility
from unmask.config import EngineConfig
from unmask.engine.readout import Wanted, pick, unpack, wanted
from unmask.engine.scheduler import Job
from unmask.model.attention import PagedAttention, Segment
from unmask.model.decoder import Batch, Decoder
from unmask.model.kv import KVCache
from unmask.types import Plan, Read, Request, Row, Rows, Span

# Rows of every matrix product in "exact". More rows per tile make blocks cheaper and single tokens dearer.
TILE_ROWS = 16
# Rows whose logits are on the device at a time.
READ_ROWS = 64


class Runner:
    """A decoder with its key/value memory of `pages` pages."""

    def __init__(self, decoder: Decoder, config: EngineConfig, pages: int) -> None:
        weight = decoder.model.embed_tokens.weight
        self.decoder, self.config, self.device = decoder.eval(), config, weight.device
        self.exact = config.exactness == "exact"
        decoder.set_tile(TILE_ROWS if self.exact else None)
        self.page_size = config.page_size
        self.cache = KVCache(decoder.config, pages * config.page_size, weight.dtype, weight.device)

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> list[Rows]:
        """The rows that each plan reads, in order. Keys and values of all rows are written after each kept length."""
        tokens, positions, slots = list[int](), list[int](), list[np.ndarray[tuple[int], np.dtype[np.int64]]]()
        segments = list[Segment]()
        gates, unknown = dict[str, list[int]](), dict[str, list[int]]()
        reads, asked = list[int](), list[list[Wanted]]()
        for job in jobs:
            first = len(tokens)
            starts = [first + start for start in visibility.offsets(job.plan.spans)]
            for start, span in zip(starts, job.plan.spans, strict=False):
                tokens.extend(span.tokens)
                positions.extend(range(span.start, span.start + len(span.tokens)))
                if span.adapter is not None:
                    gates.setdefault(span.adapter, []).extend(range(start, start + len(span.tokens)))
                    unknown.setdefault(span.adapter, []).extend(start + i for i, m in enumerate(span.masked) if m)
            reads.extend(starts[read.span] + row for read in job.plan.reads for row in read.rows)
            asked.append(wanted(job.request, job.plan))
            segment, written = self.segment(job, first)
            segments.append(segment)
            slots.append(written)
        batch = Batch(
            self.tensor(tokens),
            self.tensor(positions),
            max(positions),
            {name: self.tensor(rows) for name, rows in gates.items()},
            {name: self.tensor(rows) for name, rows in unknown.items() if rows},
        )
        attend = PagedAttention(self.cache, segments, self.tensor(np.concatenate(slots)), self.exact)
        hidden = self.decoder(batch, attend)
        return self.read(hidden, reads, asked)

    def read(self, hidden_TD: Tensor, reads: Sequence[int], asked: Sequence[Sequence[Wanted]]) -> list[Rows]:
        flat = [row for rows in asked for row in rows]
        if not flat:
            return [() for _ in asked]
        parts, most = list[Tensor](), max(row.read.top or 0 for row in flat)
        chosen = hidden_TD[self.tensor(reads)]
        for start in range(0, len(flat), READ_ROWS):
            logits = self.decoder.logits(chosen[start : start + READ_ROWS])
            parts.append(pick(logits, flat[start : start + READ_ROWS], most))
        values = iter(torch.cat(parts).tolist())
        return [tuple(unpack(next(values), row) for row in rows) for rows in asked]

    def segment(self, job: Job, first: int) -> tuple[Segment, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """Where the job's keys are (a slice while its pages are adjacent), who sees them, and where new rows go."""
        rows, keys = job.plan.rows, job.kept + job.plan.rows
        pages = np.asarray(job.pages[: -(-keys // self.page_size)], dtype=np.int64)
        everyone = rows == 1 or (len(job.plan.spans) == 1 and job.plan.spans[0].full)
        mask = None if everyone else visibility.mask(job.plan.spans, job.kept)
        if (np.diff(pages) == 1).all():
            base = int(pages[0]) * self.page_size
            return Segment(first, first + rows, slice(base, base + keys), keys, mask), np.arange(
                base + job.kept, base + keys
            )
        slots = (pages[:, None] * self.page_size + np.arange(self.page_size)).reshape(-1)[:keys]
        return Segment(first, first + rows, self.tensor(slots), keys, mask), slots[job.kept :]

    def tensor(self, values: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=self.device)

    def measure(self, rows: Sequence[int], pages: Sequence[int], repeats: int = 3) -> tuple[tuple[int, float], ...]:
        """(rows, seconds) of a forward of so many rows, all of them read; `pages` must hold the largest count."""
        table = list[tuple[int, float]]()
        for count in rows:
            span = Span((0,) * count, 0, full=True)
            job = Job(Request((0,), 1), Plan((span,), (Read(0, tuple(range(count))),)), 0, pages)
            times = list[float]()
            for _ in range(repeats + 1):
                begin = time.perf_counter()
                self.run([job])
                times.append(time.perf_counter() - begin)
            table.append((count, median(times[1:])))
        return tuple(table)

    def same_alone(self) -> bool:
        """Whether a row's result is the same bits alone and among others, here and now: the promise of "exact".

        Tried on a forward of this very model, whose kernels depend on shapes, dtype, processor and thread count.
        """
        vocab, count = self.decoder.config.vocab_size, 2 * TILE_ROWS + 1
        ids = tuple((7919 * i + 13) % vocab for i in range(count))
        pages = list(range(-(-count // self.page_size)))

        def logprobs(span: Span, kept: int, rows: Sequence[int]) -> list[Row]:
            plan = Plan((span,), (Read(0, tuple(rows), top=1),))
            return list(self.run([Job(Request((0,), 1), plan, kept, pages)])[0])

        together = logprobs(Span(ids, 0), 0, range(count))
        alone = [logprobs(Span(ids[i : i + 1], i), i, [0])[0] for i in range(count)]
        return together == alone
