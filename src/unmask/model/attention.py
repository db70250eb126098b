"""Attention over the paged cache for a ragged batch of plans, in several ways, and a dense reference.

"flash": torch's kernel, each request's rows in one call. "tiles": the same kernel on fixed tiles of queries and keys,
so that a row's result does not depend on how many rows or keys it is computed with. "products": bfloat16 on a CPU as
plain products, with that same property, and the fastest but for few rows. "mixed": flash for few rows, else products.
Query heads of one key head are taken as rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unmask.model.decoder import Attend
from unmask.model.kv import TAIL, KVCache
from unmask.model.sizes import FEW_ROWS, KEYS, padded_keys, padded_rows

Way = Literal["flash", "tiles", "products", "mixed"]

# Sizes in which torch's CPU flash kernel walks queries and keys: tiles of these are computed alike wherever they stand.
TILE_QUERIES = 32
TILE_KEYS = 512
# "mixed": rows of a request for which "flash" is quicker.
FLASH_ROWS = 8
# "products": the count of keys that get scores is a multiple of this, so that the softmax takes whole vectors.
SCORED_KEYS = 64
# "products": query rows of one product are a multiple of this (with fewer, MKL's order of summation depends on how
# many), and how many scores there are at a time: what a processor's cache holds while they become weights.
SOME_QUERIES = 16
SCORES = 1 << 19
assert max(TILE_KEYS, KEYS[-1]) <= TAIL


@dataclass(frozen=True, slots=True)
class QueryPart:
    """Query rows [first:last] of a segment, heads of one key head as rows, that are taken in one product.

    keys: how many get scores, none of the later ones being seen. clear: how many from the start on all rows see.
    bias: float32 [rows, keys - clear], added to the scores of the others: 0, or -inf where they are not seen.
    """

    first: int
    last: int
    keys: int
    clear: int
    bias: Tensor | None


@dataclass(frozen=True)
class Segment:
    """The rows of one request in the flat batch: rows[first:last], with keys in `slots`, kept context first.

    mask: bool [rows, keys], or None where every row sees every key.
    """

    first: int
    last: int
    slots: slice | Tensor
    keys: int
    mask: NDArray[np.bool_] | None


def fold(q_RHK: Tensor, kv_heads: int) -> Tensor:
    """[R, H, K] -> [G, R * H/G, K]: the query heads that share a key head become rows."""
    rows, heads, dim = q_RHK.shape
    return q_RHK.view(rows, kv_heads, heads // kv_heads, dim).transpose(0, 1).reshape(kv_heads, -1, dim)


def unfold(out_GQK: Tensor, rows: int) -> Tensor:
    """[G, R * H/G, K] -> [R, H, K]."""
    kv_heads, _, dim = out_GQK.shape
    return out_GQK.view(kv_heads, rows, -1, dim).transpose(0, 1).reshape(rows, -1, dim)


def additive(mask: NDArray[np.bool_], repeat: int, like: Tensor) -> Tensor:
    """0 where visible and -inf elsewhere, each row `repeat` times, in the dtype of `like`."""
    hidden = torch.from_numpy(~np.repeat(mask, repeat, axis=0)).to(like.device)
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -math.inf)


# Masked keys after those of a segment, by the way of attention.
EXTRA: dict[str, Callable[[int], int]] = {
    "flash": lambda keys: 0,
    "tiles": lambda keys: -keys % TILE_KEYS,
    "products": lambda keys: padded_keys(keys) - keys,
}


class PagedAttention:
    """An `Attend` for one forward: writes the rows' keys and values to `write_slots` (int64), then attends.

    Rows after the last one that is written are padding: nothing is stored for them, and zeros come out.
    """

    def __init__(self, cache: KVCache, segments: Sequence[Segment], write_slots: Tensor, way: Way) -> None:
        self.cache, self.segments, self.write_slots = cache, segments, write_slots
        few = ["flash" if segment.last - segment.first <= FLASH_ROWS else "products" for segment in segments]
        self.ways = few if way == "mixed" else [way] * len(segments)
        self.slots = [more_slots(s.slots, EXTRA[own](s.keys)) for s, own in zip(segments, self.ways, strict=True)]
        self.views = [cache.views(slots) if isinstance(slots, slice) else None for slots in self.slots]
        # Of each segment, the same in every layer.
        self.masks: dict[int, Tensor | None] = {}
        self.parts: dict[int, list[QueryPart]] = {}

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        written, rows = len(self.write_slots), len(q_THK)
        if written < rows:
            k_TGK, v_TGK = k_TGK[:written], v_TGK[:written]
        self.cache.write(layer, self.write_slots, k_TGK, v_TGK)
        if written == rows and len(self.segments) == 1:
            return self.attend(layer, 0, q_THK)
        parts = [self.attend(layer, i, q_THK[segment.first : segment.last]) for i, segment in enumerate(self.segments)]
        return torch.cat([*parts, q_THK.new_zeros(rows - written, *q_THK.shape[1:])])

    def attend(self, layer: int, index: int, q_RHK: Tensor) -> Tensor:
        """One segment's rows."""
        way = self.ways[index]
        run = self.flash if way == "flash" else self.tiles if way == "tiles" else self.products
        return run(layer, index, q_RHK)

    def read(self, layer: int, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, G, n, K] that a segment sees, after they were written."""
        views = self.views[index]
        return (views[0][layer], views[1][layer]) if views else self.cache.read(layer, self.slots[index])

    def flash(self, layer: int, index: int, q_RHK: Tensor) -> Tensor:
        (k, v), mask = self.read(layer, index), self.segments[index].mask
        if index not in self.masks:
            self.masks[index] = None if mask is None else additive(mask, q_RHK.shape[1] // k.shape[1], q_RHK)
        out = F.scaled_dot_product_attention(fold(q_RHK, k.shape[1])[None], k, v, attn_mask=self.masks[index])
        return unfold(out[0], len(q_RHK))

    def products(self, layer: int, index: int, q_RHK: Tensor) -> Tensor:
        """Scores and softmax in float32, weights in the rows' dtype, values 512 keys at a time and summed in float32.

        oneDNN's product of weights and values gets rows and keys of few sizes, the more of them with weight zero.
        """
        k, v = (both[0] for both in self.read(layer, index))
        (rows, heads, dim), kv_heads = q_RHK.shape, k.shape[0]
        height = padded_rows(rows, FEW_ROWS) * (heads // kv_heads)
        height += -height % SOME_QUERIES
        if index not in self.parts:
            self.parts[index] = query_parts(self.segments[index], height, heads // kv_heads, kv_heads, q_RHK.device)
        parts = self.parts[index]
        keys_GKN = k[:, : max(part.keys for part in parts)].float().transpose(1, 2)
        folded = fold(q_RHK, kv_heads).float() * dim**-0.5
        queries = F.pad(folded, (0, 0, 0, height - folded.shape[1]))
        out = list[Tensor]()
        for part in parts:
            scores = torch.bmm(queries[:, part.first : part.last], keys_GKN[..., : part.keys])
            if part.bias is not None:
                scores[..., part.clear :] += part.bias
            out.append(weigh(scores.softmax(dim=-1), v[:, : padded_keys(part.keys)]))
        return unfold((out[0] if len(out) == 1 else torch.cat(out, dim=1))[:, : folded.shape[1]], rows)

    def tiles(self, layer: int, index: int, q_RHK: Tensor) -> Tensor:
        k, v = self.read(layer, index)
        rows, heads, _ = q_RHK.shape
        kv_heads = k.shape[1]
        per_tile, height = tile_shape(heads // kv_heads)
        tiles = -(-rows // per_tile)
        if index not in self.masks:
            self.masks[index] = tile_masks(self.segments[index], tiles, heads // kv_heads, q_RHK)
        padded = F.pad(q_RHK, (0, 0, 0, 0, 0, tiles * per_tile - rows))
        folded = torch.stack([fold(part, kv_heads) for part in padded.split(per_tile)])
        folded = F.pad(folded, (0, 0, 0, height - folded.shape[2]))
        k, v = k.expand(tiles, -1, -1, -1), v.expand(tiles, -1, -1, -1)
        out = F.scaled_dot_product_attention(folded, k, v, attn_mask=self.masks[index])
        used = out[:, :, : per_tile * (heads // kv_heads)]
        return torch.cat([unfold(part, per_tile) for part in used])[:rows]


def tile_shape(share: int) -> tuple[int, int]:
    """(rows per tile, query rows of a tile) where `share` query heads read one key head."""
    per_tile = max(1, TILE_QUERIES // share)
    return per_tile, -(-per_tile * share // TILE_QUERIES) * TILE_QUERIES


def more_slots(slots: slice | Tensor, extra: int) -> slice | Tensor:
    """The slots and as many after them, which will be masked."""
    if isinstance(slots, slice):
        return slice(slots.start, slots.stop + extra)
    return F.pad(slots, (0, extra))


def query_parts(segment: Segment, height: int, share: int, kv_heads: int, device: torch.device) -> list[QueryPart]:
    """All `height` query rows of a segment, `share` of them for each of its rows; those after the last are like it."""
    most = max(SCORES // (kv_heads * max(segment.keys, SCORED_KEYS)) // SOME_QUERIES, 1) * SOME_QUERIES
    size = -(-height // -(-height // most) // SOME_QUERIES) * SOME_QUERIES
    return [query_part(segment, first, min(first + size, height), share, device) for first in range(0, height, size)]


def query_part(segment: Segment, first: int, last: int, share: int, device: torch.device) -> QueryPart:
    if segment.mask is None:
        seen = np.ones((1, segment.keys), dtype=np.bool_)
    else:
        seen = segment.mask[np.minimum(np.arange(first, last) // share, len(segment.mask) - 1)]
    keys = int(np.flatnonzero(seen.any(axis=0))[-1]) + 1
    keys += -keys % SCORED_KEYS
    clear = int(np.append(np.flatnonzero(~seen.all(axis=0)), segment.keys)[0])
    if clear == keys:
        return QueryPart(first, last, keys, clear, None)
    hidden = np.ones((len(seen), keys - clear), dtype=np.bool_)
    hidden[:, : segment.keys - clear] = ~seen[:, clear:keys]
    bias = torch.zeros(hidden.shape, device=device).masked_fill_(torch.from_numpy(hidden).to(device), -math.inf)
    return QueryPart(first, last, keys, clear, bias)


def weigh(weights_GQN: Tensor, v_GNK: Tensor) -> Tensor:
    """[G, Q, K]: values weighted and summed, parts of KEYS[-1] keys one after the other. The last values get none."""
    weights_GQN, more = weights_GQN.to(v_GNK.dtype), v_GNK.shape[1] - weights_GQN.shape[2]
    if more:
        weights_GQN = F.pad(weights_GQN, (0, more))
    if v_GNK.shape[1] <= KEYS[-1]:
        return torch.bmm(weights_GQN, v_GNK)
    total = torch.zeros((), device=v_GNK.device)
    for weights, part in zip(weights_GQN.split(KEYS[-1], dim=2), v_GNK.split(KEYS[-1], dim=1), strict=True):
        total = total + torch.bmm(weights, part)
    return total.to(v_GNK.dtype)


def tile_masks(segment: Segment, tiles: int, share: int, like: Tensor) -> Tensor:
    """Additive [tiles, 1, height, keys]; padding rows see one key, so that no row is empty."""
    rows = segment.last - segment.first
    per_tile, height = tile_shape(share)
    seen = np.ones((rows, segment.keys), dtype=np.bool_) if segment.mask is None else segment.mask
    padded = np.zeros((tiles * per_tile, segment.keys + -segment.keys % TILE_KEYS), dtype=np.bool_)
    padded[:rows, : segment.keys] = seen
    padded[rows:, 0] = True
    folded = additive(padded, share, like).view(tiles, 1, per_tile * share, -1)
    return F.pad(folded, (0, 0, 0, height - per_tile * share))


def dense_attend(mask: NDArray[np.bool_]) -> Attend:
    """Reference: softmax over explicit scores under a dense boolean [T, T] mask, in float64. No cache."""
    seen = torch.from_numpy(mask)

    def attend(layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        share = q_THK.shape[1] // k_TGK.shape[1]
        k = k_TGK.double().repeat_interleave(share, dim=1)
        v = v_TGK.double().repeat_interleave(share, dim=1)
        scores = torch.einsum("qhk,shk->hqs", q_THK.double(), k) / math.sqrt(q_THK.shape[2])
        weights = scores.masked_fill(~seen.to(scores.device), -math.inf).softmax(dim=-1)
        return torch.einsum("hqs,shk->qhk", weights, v).to(q_THK.dtype)

    return attend
