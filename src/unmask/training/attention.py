"""Attention over a doubled sequence, three times: dense (reference), split (two kinds of SDPA call), flex (CUDA).

Each kernel attends for the clean rows alone and for the noisy rows against clean keys and their own, so that the clean
half can run by itself without gradient (`forward.clean_first`) or together with the noisy half.
Shapes: C clean rows, N noisy rows, H query heads, G key/value heads, K head dim.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unmask.model.attention import fold, unfold
from unmask.training.dense import attend_dense
from unmask.training.layout import Bools, Doubled

# Noisy rows of one call: more make fewer calls, but more pairs that are masked anyway.
GROUP = 64


class Kernel(Protocol):
    def clean(self, q_CHK: Tensor, k_CGK: Tensor, v_CGK: Tensor) -> Tensor:
        """[C, H, K]"""
        ...

    def noisy(self, q_NHK: Tensor, clean: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> Tensor:
        """[N, H, K]. clean: keys and values [C, G, K]; own: [N, G, K]."""
        ...


def make_kernel(name: str | None, doubled: Doubled, device: torch.device) -> Kernel:
    """None: flex on CUDA, split elsewhere."""
    if name == "dense":
        return Dense(doubled)
    if name == "flex" or (name is None and device.type == "cuda"):
        from unmask.training.flex import Flex

        return Flex(doubled, device)
    return Split(doubled)


def clean_visible(doubled: Doubled) -> Bools:
    """[C, C]"""
    same = doubled.document[:, None] == doubled.document[None]
    return same & np.tri(doubled.clean, dtype=np.bool_)


def noisy_visible(doubled: Doubled) -> Bools:
    """[N, C + N]"""
    row, block = np.arange(doubled.clean)[None], doubled.block
    first, limit = doubled.documents[doubled.block_document], doubled.limit
    sees_clean = (row >= first[block][:, None]) & (row < limit[block][:, None])
    row = np.arange(doubled.noisy)[None]
    sees_noisy = (row >= doubled.reach[block][:, None]) & (row < doubled.blocks[block + 1][:, None])
    return np.concatenate((sees_clean, sees_noisy), axis=1)


class Dense:
    """Reference: softmax over explicit scores, in the dtype of the queries."""

    def __init__(self, doubled: Doubled) -> None:
        self.clean_mask, self.noisy_mask = clean_visible(doubled), noisy_visible(doubled)

    def clean(self, q_CHK: Tensor, k_CGK: Tensor, v_CGK: Tensor) -> Tensor:
        return attend_dense(q_CHK, k_CGK, v_CGK, self.clean_mask)

    def noisy(self, q_NHK: Tensor, clean: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> Tensor:
        k, v = torch.cat((clean[0], own[0])), torch.cat((clean[1], own[1]))
        return attend_dense(q_NHK, k, v, self.noisy_mask)


@dataclass(frozen=True)
class Group:
    """Adjacent rows first:last (of the clean, or of the noisy ones) against the first `seen` clean rows of a document
    and, noisy ones, against the noisy rows reach:last. mask: bool [last - first, keys]."""

    first: int
    last: int
    document: int
    seen: int
    mask: Bools
    reach: int = 0


def causal_groups(doubled: Doubled, size: int = GROUP) -> list[Group]:
    made, bounds = list[Group](), doubled.documents.tolist()
    for document, (start, end) in enumerate(itertools.pairwise(bounds)):
        for first in range(start, end, size):
            last = min(first + size, end)
            mask = np.tri(last - first, last - start, first - start, dtype=np.bool_)
            made.append(Group(first, last, document, last - start, mask))
    return made


def block_groups(doubled: Doubled, size: int = GROUP) -> list[Group]:
    """Whole blocks of one document, together at most `size` rows (a larger block is alone)."""
    bounds, number, made, k = doubled.blocks.tolist(), doubled.block, list[Group](), 0
    while k < len(doubled.limit):
        end, document = k + 1, int(doubled.block_document[k])
        while (
            end < len(doubled.limit) and doubled.block_document[end] == document and bounds[end + 1] - bounds[k] <= size
        ):
            end += 1
        start = int(doubled.documents[document])
        seen = int(doubled.limit[k:end].max()) - start
        block = number[bounds[k] : bounds[end]]
        sees = np.arange(seen)[None] < (doubled.limit[block] - start)[:, None]
        reach = int(doubled.reach[k:end].min())
        row = np.arange(reach, bounds[end])[None]
        own = (row >= doubled.reach[block][:, None]) & (row < doubled.blocks[block + 1][:, None])
        made.append(Group(bounds[k], bounds[end], document, seen, np.concatenate((sees, own), axis=1), reach))
        k = end
    return made


class Split:
    """One call per group of rows with the keys that any of them sees.

    On the CPU a call is two plain products around a softmax: for such small groups in bfloat16 that takes half the time
    of torch's flash kernel forward, and a third of it backward (measured on AVX512-BF16).
    """

    def __init__(self, doubled: Doubled) -> None:
        self.lengths = np.diff(doubled.documents).tolist()
        self.clean_groups, self.noisy_groups = causal_groups(doubled), block_groups(doubled)
        self.clean_masks, self.noisy_masks = list[Tensor](), list[Tensor]()

    # Slices are taken by `split`, whose backward joins the parts; that of indexing fills a zero tensor for each.
    def clean(self, q_CHK: Tensor, k_CGK: Tensor, v_CGK: Tensor) -> Tensor:
        if not self.clean_masks:
            self.clean_masks = additive([group.mask for group in self.clean_groups], q_CHK, v_CGK)
        q = q_CHK.split([g.last - g.first for g in self.clean_groups])
        k, v = k_CGK.split(self.lengths), v_CGK.split(self.lengths)
        out = [
            attend(q[i], k[g.document][: g.seen], v[g.document][: g.seen], self.clean_masks[i])
            for i, g in enumerate(self.clean_groups)
        ]
        return torch.cat(out)

    def noisy(self, q_NHK: Tensor, clean: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> Tensor:
        if not self.noisy_groups:
            return q_NHK
        if not self.noisy_masks:
            self.noisy_masks = additive([group.mask for group in self.noisy_groups], q_NHK, own[1])
        sizes, out = [g.last - g.first for g in self.noisy_groups], list[Tensor]()
        context = [x.split(self.lengths) for x in clean]
        mine = [x.split(sizes) for x in own]
        for i, (g, q) in enumerate(zip(self.noisy_groups, q_NHK.split(sizes), strict=True)):
            k, v = (
                torch.cat((c[g.document][: g.seen], m[i] if g.reach == g.first else whole[g.reach : g.last]))
                for c, m, whole in zip(context, mine, own, strict=True)
            )
            out.append(attend(q, k, v, self.noisy_masks[i]))
        return torch.cat(out)


def attend(q_RHK: Tensor, k_SGK: Tensor, v_SGK: Tensor, mask: Tensor) -> Tensor:
    """[R, H, K]. mask: [R * H/G, S], additive."""
    kv_heads = k_SGK.shape[1]
    q, k, v = fold(q_RHK, kv_heads), k_SGK.transpose(0, 1), v_SGK.transpose(0, 1)
    if q.device.type == "cpu":
        scores = torch.baddbmm(mask.expand(kv_heads, -1, -1), q, k.mT, alpha=1 / math.sqrt(q.shape[2]))
        out = torch.bmm(scores.softmax(dim=-1), v)
    else:
        out = F.scaled_dot_product_attention(q.to(v.dtype)[None], k.to(v.dtype)[None], v[None], attn_mask=mask)[0]
    return unfold(out, len(q_RHK))


def additive(masks: Sequence[NDArray[np.bool_]], q_THK: Tensor, v_SGK: Tensor) -> list[Tensor]:
    """0 where visible and -inf elsewhere, one row for each query head that shares a key head, in the dtype of v.

    Under autocast q has come back from RoPE in float32; v is what products are computed in.
    """
    share = q_THK.shape[1] // v_SGK.shape[1]
    hidden = [torch.from_numpy(~mask).to(q_THK.device).repeat_interleave(share, dim=0) for mask in masks]
    return [torch.zeros_like(h, dtype=v_SGK.dtype).masked_fill_(h, -math.inf) for h in hidden]
