"""Forwards of few rows on a GPU as recorded graphs: one launch instead of hundreds of small ones that wait for Python.

A forward is laid out as a rectangle, requests by rows, in room for so many keys. Every such shape is recorded once,
over inputs that stay where they are, and played again for what these hold by then. Rows that only fill the rectangle
are computed and thrown away, and what they write goes behind the cache's last page.
Shapes: N requests, R rows of each, S keys of each, P pages of each, T = N * R + 1 rows in all, D hidden.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from unmask import visibility
from unmask.model.decoder import Batch, Decoder
from unmask.model.kv import TAIL, KVCache
from unmask.types import Span

log = logging.getLogger("unmask.engine")
# "paged": torch's FlashAttention reads the pages where they are, which takes rows that see every key (FlashAttention 2:
# and pages of 256 rows). "gathered": keys and values are copied side by side first, and any mask can lie over them.
Kind = Literal["paged", "gathered"]
# Computes a forward from what its inputs hold by then.
Forward = Callable[[], Tensor]

MOST_ROWS, FEWEST_KEYS = 256, 256  # of a rectangle
MOST_SHAPES = 64
# How far a normed row may be from that of the plain way, by its largest value: bfloat16 is summed in another order.
CLOSE = 0.05


class Part(Protocol):
    """One request's rows, as the runner has them."""

    @property
    def spans(self) -> tuple[Span, ...]: ...
    @property
    def kept(self) -> int: ...
    @property
    def pages(self) -> tuple[int, ...]: ...


class Shape(NamedTuple):
    """What a recorded forward has room for. adapters: those that act on some row of it."""

    kind: Kind
    requests: int
    rows: int
    keys: int
    adapters: tuple[str, ...]


class Inputs(NamedTuple):
    """All that changes between two forwards of one shape.

    tokens, positions: int64 [T]. write: int64 [T - 1], slots of new rows. gates, unknown: adapter -> int64 [T - 1], the
    rows where it acts and those of them that stand for masks, and T - 1, a row that is thrown away, for the rest.
    "gathered": slots int64 [N, S], seen bool [N, R, S]. "paged": tables int32 [N, P], used int32 [N]; edges, key_edges:
    int32 [N + 1]. What the other kind needs is empty.
    """

    tokens: Tensor
    positions: Tensor
    write: Tensor
    gates: dict[str, Tensor]
    unknown: dict[str, Tensor]
    slots: Tensor
    seen: Tensor
    tables: Tensor
    used: Tensor
    edges: Tensor
    key_edges: Tensor

    def each(self) -> Iterator[Tensor]:
        for field in self:
            yield from field.values() if isinstance(field, dict) else (field,)

    def on(self, device: torch.device) -> Inputs:
        """A copy there."""
        tensors = (tensor.to(device, copy=True) for tensor in self.each())
        fields: list[Any] = [
            {name: next(tensors) for name in field} if isinstance(field, dict) else next(tensors) for field in self
        ]
        return Inputs(*fields)


def shape_of(parts: Sequence[Part], kind: Kind) -> Shape | None:
    """The smallest shape that holds the parts; None where it would be mostly filling, or is large enough to be busy."""
    counts = [sum(len(span.tokens) for span in part.spans) for part in parts]
    requests, rows = power_of_two(len(parts)), power_of_two(max(counts))
    if requests * rows > min(MOST_ROWS, 4 * sum(counts)):
        return None
    most = max(part.kept + count for part, count in zip(parts, counts, strict=True))
    adapters = {span.adapter for part in parts for span in part.spans if span.adapter is not None}
    if not all(map(everyone, parts)):
        kind = "gathered"
    return Shape(kind, requests, rows, power_of_two(max(most, FEWEST_KEYS)), tuple(sorted(adapters)))


def everyone(part: Part) -> bool:
    """Whether every row of a part sees every key."""
    first, *others = part.spans
    return not others and (first.full or len(first.tokens) == 1)


def power_of_two(number: int) -> int:
    """The smallest that is no less."""
    return 1 << (number - 1).bit_length()


def laid_out(parts: Sequence[Part], shape: Shape, page_size: int, spare: int) -> tuple[Inputs, list[int]]:
    """The inputs, and where in the rectangle the rows of the parts are. spare: a slot behind the last page."""
    paged, filling = shape.kind == "paged", shape.requests * shape.rows
    requests, keys = shape.requests, 0 if paged else shape.keys
    tokens, positions = np.zeros(filling + 1, dtype=np.int64), np.zeros(filling + 1, dtype=np.int64)
    write = np.full(filling, spare, dtype=np.int64)
    gates, unknown = ({name: np.full(filling, filling) for name in shape.adapters} for _ in range(2))
    slots = np.full((requests, keys), spare, dtype=np.int64)
    seen = np.zeros((requests, shape.rows, keys), dtype=np.bool_)
    seen[:, :, :1] = True  # what only fills sees something, so that it is a number
    tables = np.zeros((requests, -(-shape.keys // page_size) if paged else 0), dtype=np.int32)
    used = np.ones(requests, dtype=np.int32)
    own = list[int]()
    for number, part in enumerate(parts):
        first = row = number * shape.rows
        for span in part.spans:
            last = row + len(span.tokens)
            tokens[row:last] = span.tokens
            positions[row:last] = np.arange(span.start, span.start + len(span.tokens))
            if span.adapter is not None:
                masks = row + np.flatnonzero(span.masked)
                gates[span.adapter][row:last], unknown[span.adapter][masks] = np.arange(row, last), masks
            row = last
        own.extend(range(first, row))
        held = part.kept + row - first
        pages = np.asarray(part.pages[: -(-held // page_size)], dtype=np.int64)
        where = (pages[:, None] * page_size + np.arange(page_size)).reshape(-1)[:held]
        write[first:row] = where[part.kept :]
        if paged:
            tables[number, : len(pages)], used[number] = pages, held
        else:
            slots[number, :held] = where
            seen[number, : row - first, :held] = True if everyone(part) else visibility.mask(part.spans, part.kept)
    edges, key_edges = (np.arange(requests + 1, dtype=np.int32) * size for size in (shape.rows, shape.keys))
    arrays = tokens, positions, write, gates, unknown, slots, seen, tables, used, edges, key_edges
    return Inputs(*map(as_tensors, arrays)), own


def as_tensors(arrays: Any) -> Any:
    """An array, or a dictionary of arrays, over the same memory."""
    if isinstance(arrays, dict):
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    return torch.from_numpy(arrays)


class Attention:
    """An `Attend` of which nothing changes from one forward to the next but what its inputs hold."""

    def __init__(self, cache: KVCache, page_size: int, shape: Shape, inputs: Inputs) -> None:
        self.cache, self.page_size, self.shape, self.inputs = cache, page_size, shape, inputs

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        self.cache.write(layer, self.inputs.write, k_TGK[:-1], v_TGK[:-1])
        attend = self.paged if self.shape.kind == "paged" else self.gathered
        return F.pad(attend(q_THK[:-1], self.cache.keys[layer], self.cache.values[layer]), (0, 0, 0, 0, 0, 1))

    def gathered(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Query heads of one key head as rows: no kernel takes both a mask and heads that share keys."""
        (_, requests, rows, _, _), (kv_heads, dim) = self.shape, keys.shape[1:]
        share = q.shape[1] // kv_heads
        q_NRGHK = q.view(requests, rows, kv_heads, share, dim)
        q_NGQK = q_NRGHK.transpose(1, 2).reshape(requests, kv_heads, rows * share, dim)
        k_NGSK, v_NGSK = (part[self.inputs.slots].transpose(1, 2) for part in (keys, values))
        seen = self.inputs.seen.repeat_interleave(share, dim=1)[:, None]
        out = F.scaled_dot_product_attention(q_NGQK, k_NGSK, v_NGSK, attn_mask=seen)
        return out.view(requests, kv_heads, rows, share, dim).transpose(1, 2).reshape(q.shape)

    def paged(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        k_pages, v_pages = (part[:-TAIL].unflatten(0, (-1, self.page_size)) for part in (keys, values))
        inputs, (_, _, rows, most, _) = self.inputs, self.shape
        out = varlen_attn(
            q,
            k_pages,
            v_pages,
            inputs.edges,
            inputs.key_edges,
            rows,
            most,
            enable_gqa=True,
            seqused_k=inputs.used,
            block_table=inputs.tables,
        )
        assert isinstance(out, Tensor)
        return out


class Graphs:
    """The forwards of one decoder, recorded as their shapes come up."""

    def __init__(
        self, decoder: Decoder, cache: KVCache, page_size: int, record: Callable[[Forward], Forward], kind: Kind
    ) -> None:
        self.decoder, self.cache, self.page_size = decoder, cache, page_size
        self.record, self.kind, self.spare = record, kind, cache.keys.shape[1] - TAIL
        self.angles, self.sure = list[Tensor](), False
        self.made = dict[Shape, tuple[Inputs, Forward] | None]()

    def hidden(self, parts: Sequence[Part]) -> Tensor | None:
        """Hidden states [rows, D] of the parts, one after the other; None where the plain way is to be taken."""
        shape = shape_of(parts, self.kind)
        # A draft's last slots may lie behind the last position, for which there are no angles in a recording.
        ends = (span.start + len(span.tokens) for part in parts for span in part.spans)
        if shape is None or max(ends) > self.decoder.config.max_position:
            return None
        layout, own = laid_out(parts, shape, self.page_size, self.spare)
        made = self.made.pop(shape) if shape in self.made else self.recorded(shape, layout)
        if len(self.made) == MOST_SHAPES:
            del self.made[next(iter(self.made))]  # the one that was not played for longest
        self.made[shape] = made
        if made is None:
            return None
        inputs, forward = made
        for tensor, values in zip(inputs.each(), layout.each(), strict=True):
            tensor.copy_(values)
        return forward()[torch.tensor(own, device=self.cache.keys.device)]

    def recorded(self, shape: Shape, layout: Inputs) -> tuple[Inputs, Forward] | None:
        """None, once it is proven that others can be, where this one cannot: memory may be short by now."""
        try:
            return self.record_one(shape, layout)
        except RuntimeError as error:
            if not self.sure:
                raise
            log.warning("%s is not recorded: %s", shape, str(error).partition("\n")[0])
            return None

    def record_one(self, shape: Shape, layout: Inputs) -> tuple[Inputs, Forward]:
        inputs, longest = layout.on(self.cache.keys.device), self.decoder.config.max_position
        # Angles of all positions are in tables that stay for as long as a recording reads them.
        self.decoder.rotary.at(inputs.positions, longest - 1)
        angles = self.decoder.rotary.cos, self.decoder.rotary.sin
        batch = Batch(inputs.tokens, inputs.positions, longest - 1, inputs.gates, inputs.unknown)
        attend = Attention(self.cache, self.page_size, shape, inputs)
        played = self.record(lambda: self.decoder(batch, attend))
        self.angles += [part for part in angles if all(part is not other for other in self.angles)]
        return inputs, played


def cuda_recorder(device: torch.device) -> Callable[[Forward], Forward]:
    """Makes CUDA graphs, which share their memory: what one has computed is read before another is played."""
    pool = torch.cuda.graph_pool_handle()

    def record(forward: Forward) -> Forward:
        with torch.cuda.device(device):
            aside, now = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(now)
            with torch.cuda.stream(aside):
                for _ in range(3):  # what is chosen and allocated the first time is not to be a part of it
                    forward()
            now.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads (a tokenizer's, an oracle's) may use the device meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                out = forward()

        def replay() -> Tensor:
            with torch.cuda.device(device):
                graph.replay()
            return out

        return replay

    return record


def proven(
    make: Callable[[Kind], Graphs], plain: Callable[[Sequence[Any]], Tensor], trials: Sequence[Sequence[Any]]
) -> Graphs | None:
    """Graphs whose forwards are the plain ones here and now, one after the other; with the other kind of attention if
    the first one is not to be had, and None, the reason logged, where neither is."""
    kinds: tuple[Kind, ...] = ("paged", "gathered")
    for kind in kinds:
        try:
            graphs = make(kind)
            far = [far_from(graphs, plain, parts) for parts in trials]
        except Exception as error:  # whatever a device, a driver or another torch says: there is a plain way
            log.warning("no %s graphs: %s", kind, str(error).partition("\n")[0] or type(error).__name__)
            continue
        if graphs.made and max(far) <= CLOSE:  # what was never recorded has proven nothing
            graphs.sure = True
            return graphs
        reason = f"their rows are {max(far):.2g} from the plain ones" if graphs.made else "no forward could be tried"
        log.warning("no %s graphs: %s", kind, reason)
    return None


def far_from(graphs: Graphs, plain: Callable[[Sequence[Any]], Tensor], parts: Sequence[Any]) -> float:
    """The largest difference of a normed row, over the row's largest value; infinite where it is no number. What is too
    large to be recorded is only computed, for those after it."""
    expected, found = plain(parts), graphs.hidden(parts)
    if found is None:
        return 0.0
    norm = graphs.decoder.model.norm
    a, b = norm(found).float(), norm(expected).float()
    far = float(((a - b).abs().amax(dim=1) / b.abs().amax(dim=1)).max())
    return far if far == far else float("inf")
