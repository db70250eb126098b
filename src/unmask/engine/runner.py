"""Executes the plans of all live requests as one ragged forward: the only place where plans meet tensors.

Linear layers run once over the concatenated rows, attention per request, logits for the rows that are read, and one
device synchronisation brings all results to the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask import visibility
from unmask.config import EngineConfig
from unmask.engine.chain import Shortlist, joined, linked, settle, shortlist
from unmask.engine.graphs import Forward, Graphs, Kind, cuda_recorder, proven
from unmask.engine.readout import COLUMNS, PICK_ROWS, Wanted, pick, some, unpack, wanted, wide
from unmask.engine.scheduler import Job
from unmask.model.attention import PagedAttention, Segment, Way
from unmask.model.coherence import Coherence
from unmask.model.decoder import Batch, Decoder, Numerics
from unmask.model.kv import KVCache
from unmask.model.native import Places
from unmask.model.sizes import padded_rows
from unmask.types import Ids, Plan, Read, Request, Row, Rows, Span, Traits

# Rows of every matrix product in "exact". More rows per tile make blocks cheaper and single tokens dearer.
TILE_ROWS = 16
# Rows whose logits are on the device at a time.
READ_ROWS = 64


class Part(NamedTuple):
    """What the forward of one plan takes: its spans, and the pages of its request, which hold `kept` rows."""

    spans: tuple[Span, ...]
    kept: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One forward, and the arithmetic chosen for it: what the other processes of a shared model are told."""

    parts: tuple[Part, ...]
    tile: int | None
    way: Way


# Tells the others of a step, and is left when this process has done its part of it.
Tell = Callable[[Step], AbstractContextManager[None]]


def nobody(step: Step) -> AbstractContextManager[None]:
    """Tells nobody."""
    return nullcontext()


class Runner:
    """A decoder with its key/value memory of `pages` pages. tell: where it is a part of one, on several processes."""

    def __init__(self, decoder: Decoder, config: EngineConfig, pages: int, tell: Tell = nobody) -> None:
        weight = decoder.model.embed_tokens.weight
        self.decoder, self.config, self.device, self.tell = decoder.eval(), config, weight.device, tell
        self.exact = config.exactness == "exact"
        self.way: Way = "tiles" if self.exact else "flash"
        self.compute_in(TILE_ROWS if self.exact else None)
        self.page_size, self.room = config.page_size, pages * config.page_size
        self.cache = KVCache(decoder.config, self.room, weight.dtype, weight.device)
        self.graphs: Graphs | None = None
        if decoder.native is not None:
            self.compute_in(None)  # a row's bits are the same in any company
        elif decoder.packed and self.exact:
            self.untile()
        elif decoder.packed and weight.dtype == torch.bfloat16:
            self.way = "mixed"
        # In "exact" a row has to have the same bits in a prefill; and parts on several GPUs meet inside a forward.
        if self.device.type == "cuda" and config.graphs and not self.exact and not decoder.packed and tell is nobody:
            self.graph(partial(cuda_recorder, self.device))

    @torch.inference_mode()
    def graph(self, recorder: Callable[[], Callable[[Forward], Forward]]) -> None:
        """Have forwards of few rows recorded from now on, if they come out right here. Writes to the first pages."""

        def make(kind: Kind) -> Graphs:
            return Graphs(self.decoder, self.cache, self.page_size, recorder(), kind)

        names = dict.fromkeys(name for part in self.decoder.projections().values() for name in part.adapters)
        tried = trials(self.page_size, self.room // self.page_size, [None, *names])
        self.graphs = proven(make, self.plain, tried) if tried else None

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> list[Rows]:
        """The rows that each plan reads, in order. Keys and values of all rows are written after each kept length."""
        parts = tuple(Part(job.plan.spans, job.kept, tuple(job.pages)) for job in jobs)
        with self.tell(Step(parts, self.tile, self.way)):
            hidden = self.hidden(parts)
        reads, asked, first = list[int](), list[list[Wanted]](), 0
        for job in jobs:
            starts = [first + start for start in visibility.offsets(job.plan.spans)]
            reads.extend(starts[read.span] + row for read in job.plan.reads for row in read.rows)
            asked.append(wanted(job.request, job.plan))
            first += job.plan.rows
        return self.read(hidden, reads, asked)

    def hidden(self, parts: Sequence[Part]) -> Tensor:
        """[T, D] of the rows of all parts, one after the other, and of padding after them."""
        found = None if self.graphs is None else self.graphs.hidden(parts)
        return self.plain(parts) if found is None else found

    def plain(self, parts: Sequence[Part]) -> Tensor:
        tokens, positions, slots = list[int](), list[int](), list[np.ndarray[tuple[int], np.dtype[np.int64]]]()
        segments = list[Segment]()
        gates, unknown = dict[str, list[int]](), dict[str, list[int]]()
        for part in parts:
            first = len(tokens)
            starts = [first + start for start in visibility.offsets(part.spans)]
            for start, span in zip(starts, part.spans, strict=False):
                tokens.extend(span.tokens)
                positions.extend(range(span.start, span.start + len(span.tokens)))
                if span.adapter is not None:
                    gates.setdefault(span.adapter, []).extend(range(start, start + len(span.tokens)))
                    unknown.setdefault(span.adapter, []).extend(start + i for i, m in enumerate(span.masked) if m)
            segment, written = self.segment(part, first)
            segments.append(segment)
            slots.append(written)
        native = self.decoder.native
        if self.decoder.packed and native is None:
            # One row alone may have an order of summation of its own.
            padding = [0] * (padded_rows(max(len(tokens), 2 if self.exact else 1)) - len(tokens))
            tokens, positions = tokens + padding, positions + padding
        batch = Batch(
            self.tensor(tokens),
            self.tensor(positions),
            max(positions),
            {name: self.tensor(rows) for name, rows in gates.items()},
            {name: self.tensor(rows) for name, rows in unknown.items() if rows},
        )
        kept = self.tensor(np.concatenate(slots))
        if native is not None:
            return native(self.decoder, batch, Places(self.cache, segments, kept))
        return self.decoder(batch, PagedAttention(self.cache, segments, kept, self.way))

    def read(self, hidden_TD: Tensor, reads: Sequence[int], asked: Sequence[Sequence[Wanted]]) -> list[Rows]:
        flat = [row for rows in asked for row in rows]
        if not flat:
            return [() for _ in asked]
        most, chosen = max(row.read.top or 0 for row in flat), hidden_TD[self.tensor(reads)]
        heads = [linked(self.decoder, row) for row in flat]
        packed = self.read_linked(chosen, asked, heads, most) if any(heads) else self.read_apart(chosen, flat, most)
        values = iter(packed.tolist())
        return [tuple(unpack(next(values), row) for row in rows) for rows in asked]

    def read_apart(self, hidden_RD: Tensor, rows: Sequence[Wanted], most: int) -> Tensor:
        """Every row picked for itself, as `readout.pick` packs them."""
        parts = list[Tensor]()
        for start in range(0, len(rows), READ_ROWS):
            logits, few = self.decoder.logits(hidden_RD[start : start + READ_ROWS]), rows[start : start + READ_ROWS]
            parts += [
                pick(logits[i : i + PICK_ROWS], few[i : i + PICK_ROWS], most) for i in range(0, len(few), PICK_ROWS)
            ]
        return torch.cat(parts)

    def read_linked(
        self, hidden_RD: Tensor, asked: Sequence[Sequence[Wanted]], heads: Sequence[Coherence | None], most: int
    ) -> Tensor:
        """Rows without a coherence head for themselves, then each of the others by what stands before it."""
        firsts = accumulate((len(rows) for rows in asked), initial=0)
        # A row of a plan that is referred to counts from the start of the plan; from here on, from the start of all.
        flat = [
            replace(row, before=row.before - first) if row.before is not None and row.before < 0 else row
            for first, rows in zip(firsts, asked, strict=False)
            for row in rows
        ]
        packed = hidden_RD.new_zeros(len(flat), COLUMNS + 2 * most, dtype=wide(hidden_RD.dtype))
        short: dict[Coherence, list[Shortlist]] = {head: [] for head in heads if head is not None}
        for start in range(0, len(flat), READ_ROWS):
            logits = self.decoder.logits(hidden_RD[start : start + READ_ROWS])
            for head in (None, *short):
                places = [i for i, other in enumerate(heads[start : start + READ_ROWS]) if other is head]
                for first in range(0, len(places), PICK_ROWS):
                    own = places[first : first + PICK_ROWS]
                    few = [flat[start + i] for i in own]
                    if head is None:
                        packed[[start + i for i in own]] = pick(some(logits, own), few, most)
                    else:
                        short[head].append(shortlist(some(logits, own), few))
        picks = packed[:, 0].long()
        for head, parts in short.items():
            places = [i for i, other in enumerate(heads) if other is head]
            normed, rows = self.decoder.model.norm(hidden_RD[places]), [flat[i] for i in places]
            packed[places, :COLUMNS] = settle(head, self.decoder, normed, joined(parts), rows, places, picks)
        return packed

    def segment(self, part: Part, first: int) -> tuple[Segment, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """Where the part's keys are (a slice while its pages are adjacent), who sees them, and where new rows go."""
        rows = sum(len(span.tokens) for span in part.spans)
        keys = part.kept + rows
        pages = np.asarray(part.pages[: -(-keys // self.page_size)], dtype=np.int64)
        everyone = rows == 1 or (len(part.spans) == 1 and part.spans[0].full)
        mask = None if everyone else visibility.mask(part.spans, part.kept)
        if (np.diff(pages) == 1).all():
            base = int(pages[0]) * self.page_size
            return Segment(first, first + rows, slice(base, base + keys), keys, mask), np.arange(
                base + part.kept, base + keys
            )
        slots = (pages[:, None] * self.page_size + np.arange(self.page_size)).reshape(-1)[:keys]
        return Segment(first, first + rows, self.tensor(slots), keys, mask), slots[part.kept :]

    def tensor(self, values: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=self.device)

    def measure(
        self,
        rows: Sequence[int],
        pages: Sequence[int],
        repeats: int = 5,
        adapter: str | None = None,
        kept: int = 0,
        own: bool = False,
    ) -> tuple[tuple[int, float], ...]:
        """(rows, seconds) of a forward of so many rows, all of them read, that see `kept` rows of context; `pages` must
        hold those and the largest count. Seconds: the least of `repeats`.

        adapter: it acts on all of them, and they are read as the masks of groups are. own: the processor's time of this
        thread, where it says what a forward takes (on a CPU, in one process): other work on the machine disturbs it
        less.
        """
        clock = time.thread_time if own and self.device.type == "cpu" and self.tell is nobody else time.perf_counter
        table = list[tuple[int, float]]()
        for count in rows:
            span = Span((0,) * count, kept, True, (), adapter, (adapter is not None,) * count)
            reads = (Read(0, tuple(range(count))),) if adapter is None else groups_of_masks(count)
            job = Job(Request((0,), 1, traits=Traits(mask_id=0)), Plan((span,), reads), kept, pages)
            times = list[float]()
            for _ in range(repeats + 1):
                begin = clock()
                self.run([job])
                times.append(clock() - begin)
            table.append((count, min(times[1:])))
        return tuple(table)

    def compute_in(self, tile: int | None) -> None:
        """Rows of every matrix product from now on; None: all of them."""
        self.tile = tile
        self.decoder.set_numerics(Numerics(tile, steady=self.exact))

    def untile(self) -> None:
        """Compute in whole products instead of tiles where those, too, give a row the same bits in any company."""
        bfloat16 = self.cache.keys.dtype == torch.bfloat16
        ways: list[Way] = ["products", "tiles"] if bfloat16 else ["tiles"]
        for tile, self.way in [*((None, way) for way in ways), (TILE_ROWS, "tiles")]:
            self.compute_in(tile)
            if (tile, self.way) == (TILE_ROWS, "tiles") or self.same_alone():
                return

    def same_alone(self) -> bool:
        """Whether a row's result is the same bits alone and among others, here and now: the promise of "exact".

        Tried on forwards of this very model, whose kernels depend on shapes, dtype, processor and thread count.
        """
        vocab, edges = self.decoder.config.vocab_size, (0, 1, 2, 4, 5, 9, 16, 17, 28, 2 * TILE_ROWS + 1)

        def logprobs(kept: int, first: int, last: int) -> list[Row]:
            ids = tuple((7919 * i + 13) % vocab for i in range(first, last))
            plan = Plan((Span(ids, kept + first),), (Read(0, tuple(range(last - first)), top=1),))
            pages = range(-(-(kept + last) // self.page_size))
            return list(self.run([Job(Request((0,), 1), plan, kept + first, pages)])[0])

        return all(
            logprobs(kept, 0, edges[-1]) == [row for a, b in pairwise(edges) for row in logprobs(kept, a, b)]
            for kept in (0, 500)  # parts of attention end at 512
            if kept + edges[-1] <= self.room
        )


class Follower(Runner):
    """Another process's part of a shared model: runs what it is told, and reads nothing."""

    def graph(self, recorder: Callable[[], Callable[[Forward], Forward]]) -> None:
        """Never: a forward meets the other processes, which would have to play the same recording."""

    def untile(self) -> None:
        """The first process tries, and its steps say what it came to."""

    @torch.inference_mode()
    def follow(self, step: Step) -> None:
        if step.tile != self.tile:
            self.compute_in(step.tile)
        self.way = step.way
        self.hidden(step.parts)


def groups_of_masks(rows: int, size: int = 8) -> tuple[Read, ...]:
    """Reads as those of drafting groups, of so many masks each."""
    reads = list[Read]()
    for first in range(0, rows, size):
        own = tuple(range(first, min(first + size, rows)))
        follows: tuple[int | tuple[int, int], ...] = (0, *((len(reads), place) for place in range(len(own) - 1)))
        reads.append(Read(0, own, shift=0, detail=True, bans_mask=True, follows=follows))
    return tuple(reads)


def trials(page_size: int, pages: int, adapters: Sequence[str | None]) -> list[list[Part]]:
    """Forwards of every kind, one after the other, of two requests of unequal length and of one: contexts, single rows,
    blocks, masks. Twice, with other tokens on other pages, so that what is recorded is played over other inputs.

    pages: how many there are; nothing where they are too few.
    """
    lengths = (2 * page_size + 3, 5) if pages >= 16 else (5, 3)
    needed = [-(-(length + 8) // page_size) for length in lengths]
    if sum(needed) > pages:
        return []
    found = list[list[Part]]()
    for turn in range(2):
        order = list(range(sum(needed)))[:: 1 - 2 * turn]
        several = list(zip(lengths, (tuple(order[: needed[0]]), tuple(order[needed[0] :])), strict=True))
        found.append([Part((Span(tuple((i + n + turn) % 10 for i in range(n)), 0),), 0, own) for n, own in several])
        for name in adapters:
            spans = [spans_tried(n, tuple(range(5 + turn, 9 + turn)), name) for n, _ in several]
            for kind in zip(*spans, strict=True):
                both = [Part(those, n, own) for those, (n, own) in zip(kind, several, strict=True)]
                found += [both, both[:1]]
    return found


def spans_tried(kept: int, word: Ids, adapter: str | None) -> list[tuple[Span, ...]]:
    """A row, a block, and a row with masks behind it."""
    masked = () if adapter is None else (True,) * 4
    behind = Span(word[2:3] * 4, kept + 1, True, ((0, 1),), adapter, masked)
    return [
        (Span(word[:1], kept, adapter=adapter),),
        (Span(word, kept, True, (), adapter, masked),),
        (Span(word[:2], kept), behind),
    ]
