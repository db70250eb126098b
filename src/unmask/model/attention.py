"""Attention over the paged cache for a ragged batch of plans, in two numerics, and a dense reference.

"fast": each request's rows in one call. "exact": the same rows in fixed tiles of queries and keys, so that a row's
result does not depend on how many rows or keys it is computed with. Query heads of one key head are taken as rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unmask.model.decoder import Attend
from unmask.model.kv import TAIL, KVCache

# Sizes in which torch's CPU flash kernel walks queries and keys: tiles of these are computed alike wherever they stand.
TILE_QUERIES = 32
TILE_KEYS = 512
assert TILE_KEYS <= TAIL


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


class PagedAttention:
    """An `Attend` for one forward: writes all rows' keys and values to `write_slots` (int64 [T]), then attends."""

    def __init__(self, cache: KVCache, segments: Sequence[Segment], write_slots: Tensor, exact: bool) -> None:
        self.cache, self.segments, self.write_slots = cache, segments, write_slots
        self.tiled = exact
        self.masks: dict[int, Tensor | None] = {}

    def __call__(self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> Tensor:
        self.cache.write(layer, self.write_slots, k_TGK, v_TGK)
        run = self.exact if self.tiled else self.fast
        parts = [run(layer, i, segment, q_THK[segment.first : segment.last]) for i, segment in enumerate(self.segments)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def fast(self, layer: int, index: int, segment: Segment, q_RHK: Tensor) -> Tensor:
        k, v = self.cache.read(layer, segment.slots)
        rows, heads, _ = q_RHK.shape
        if index not in self.masks:
            self.masks[index] = None if segment.mask is None else additive(segment.mask, heads // k.shape[1], q_RHK)
        out = F.scaled_dot_product_attention(
            fold(q_RHK, k.shape[1])[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=self.masks[index],
        )
        return unfold(out[0], rows)

    def exact(self, layer: int, index: int, segment: Segment, q_RHK: Tensor) -> Tensor:
        k, v = self.cache.read(layer, tile_slots(segment))
        rows, heads, _ = q_RHK.shape
        kv_heads = k.shape[1]
        per_tile, height = tile_shape(heads // kv_heads)
        tiles = -(-rows // per_tile)
        if index not in self.masks:
            self.masks[index] = tile_masks(segment, tiles, heads // kv_heads, q_RHK)
        padded = F.pad(q_RHK, (0, 0, 0, 0, 0, tiles * per_tile - rows))
        folded = torch.stack([fold(part, kv_heads) for part in padded.split(per_tile)])
        folded = F.pad(folded, (0, 0, 0, height - folded.shape[2]))
        out = F.scaled_dot_product_attention(
            folded,
            k.transpose(0, 1).expand(tiles, -1, -1, -1),
            v.transpose(0, 1).expand(tiles, -1, -1, -1),
            attn_mask=self.masks[index],
        )
        used = out[:, :, : per_tile * (heads // kv_heads)]
        return torch.cat([unfold(part, per_tile) for part in used])[:rows]


def tile_shape(share: int) -> tuple[int, int]:
    """(rows per tile, query rows of a tile) where `share` query heads read one key head."""
    per_tile = max(1, TILE_QUERIES // share)
    return per_tile, -(-per_tile * share // TILE_QUERIES) * TILE_QUERIES


def tile_slots(segment: Segment) -> slice | Tensor:
    """The segment's slots, with as many (masked) ones after them as fill whole tiles of keys."""
    extra = -segment.keys % TILE_KEYS
    if isinstance(segment.slots, slice):
        return slice(segment.slots.start, segment.slots.stop + extra)
    return F.pad(segment.slots, (0, extra))


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
