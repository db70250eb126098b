"""FlexAttention over a doubled sequence: one fused kernel per half, compiled, for CUDA.

Rows are padded to a few sizes, so that the kernel is compiled a few times in a run and not once per batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention

from unmask.training.dense import attend_dense
from unmask.training.layout import Doubled, Longs

BUCKET = 1024  # rows are padded to a multiple of this on CUDA

MaskRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Flex:
    """On the CPU the kernel has no backward; there the mask rule is used densely when a gradient is wanted (tests)."""

    def __init__(self, doubled: Doubled, device: torch.device) -> None:
        step = BUCKET if device.type == "cuda" else 1
        self.device, self.rows = device, (doubled.clean, doubled.noisy)
        self.padded = tuple(-(-rows // step) * step for rows in self.rows)
        clean, noisy = self.padded

        def tensor(values: Longs, size: int, fill: int) -> Tensor:
            return torch.from_numpy(np.pad(values, (0, size - len(values)), constant_values=fill)).to(device)

        document = tensor(doubled.document, clean, -1)
        block = doubled.block
        reach = tensor(doubled.reach[block], noisy, 0) + clean
        last = tensor(doubled.blocks[block + 1], noisy, 0) + clean
        first = tensor(doubled.documents[doubled.block_document][block], noisy, 0)
        limit = tensor(doubled.limit[block], noisy, 0)

        def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (document[q] == document[k]) & (k <= q) & (document[q] >= 0)

        def doubled_rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return ((k >= first[q]) & (k < limit[q])) | ((k >= reach[q]) & (k < last[q]))

        self.rules: tuple[MaskRule, MaskRule] = causal, doubled_rule
        self.masks: dict[int, BlockMask] = {}

    def clean(self, q_CHK: Tensor, k_CGK: Tensor, v_CGK: Tensor) -> Tensor:
        size = self.padded[0]
        return self.attend(0, padded(q_CHK, size), padded(k_CGK, size), padded(v_CGK, size))

    def noisy(self, q_NHK: Tensor, clean: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> Tensor:
        k, v = (
            torch.cat((padded(context, self.padded[0]), padded(mine, self.padded[1])))
            for context, mine in zip(clean, own, strict=True)
        )
        return self.attend(1, padded(q_NHK, self.padded[1]), k, v)

    def attend(self, half: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, keys = len(q), len(k)
        if rows == 0:
            return q
        if self.device.type == "cpu" and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
            mask = create_mask(self.rules[half], None, None, rows, keys, device="cpu")
            return attend_dense(q, k, v, mask[0, 0].numpy())[: self.rows[half]]
        if half not in self.masks:
            self.masks[half] = create_block_mask(
                self.rules[half], None, None, rows, keys, device=self.device, _compile=self.device.type == "cuda"
            )
        # Under autocast q and k have come back from RoPE in float32.
        q, k, v = (x.to(v.dtype).transpose(0, 1)[None] for x in (q, k, v))
        out = kernel(self.device.type)(q, k, v, block_mask=self.masks[half], enable_gqa=q.shape[1] != k.shape[1])
        return out[0].transpose(0, 1)[: self.rows[half]]


def padded(x: Tensor, rows: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, rows - len(x)))


@cache
def kernel(device: str) -> Any:
    return torch.compile(flex_attention) if device == "cuda" else on_cpu


def on_cpu(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return flex_attention(q, k, v, **settings)
