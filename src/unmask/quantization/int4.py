"""4-bit weights, a scale and an offset per 32 of them: weight only, for memory.

The kernel turns them into bfloat16 as it goes: quick for a single row, slow for blocks. A Q4_1 file comes back nearly
as it was, since its groups are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 32


def fits(weight_OD: Tensor) -> bool:
    """Whether the kernel takes a matrix of this shape."""
    return weight_OD.shape[0] % 16 == 0 and weight_OD.shape[1] % GROUP == 0


def rounded(weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    """(int32 [O, D] of 0..15, bfloat16 [D / 32, O, 2] of scale and offset): w is about (n - 8) * scale + offset."""
    outputs, inputs = weight_OD.shape
    groups = weight_OD.detach().float().view(outputs, -1, GROUP)
    low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-12).bfloat16().float()
    offset = (low + 8 * scale).bfloat16().float()
    whole = ((groups - offset) / scale + 8).round_().clamp_(0, 15)
    pairs = torch.cat((scale, offset), dim=2).transpose(0, 1).bfloat16()
    return whole.view(outputs, inputs).to(torch.int32), pairs.contiguous()


class Int4:
    def __init__(self, weight_OD: Tensor) -> None:
        whole, self.pairs = rounded(weight_OD)
        self.packed = torch._convert_weight_to_int4pack_for_cpu(whole, 1)

    def __call__(self, x_TD: Tensor) -> Tensor:
        y = torch._weight_int4pack_mm_for_cpu(x_TD.bfloat16().contiguous(), self.packed, GROUP, self.pairs)
        return y.to(x_TD.dtype)
