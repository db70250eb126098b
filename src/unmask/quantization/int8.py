"""8-bit weights with a scale per output, times rows rounded to 8 bits with a scale per row (dynamic).

The integers are multiplied and summed exactly, and every scale is a row's or an output's own, so a row's result never
depends on the rows beside it: one copy of the weights, and one arithmetic, for single tokens, blocks and prompts.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

# Rows are stored unsigned around this zero, as the kernels take them.
ZERO = 128


def row_levels() -> int:
    """Largest magnitude of a rounded row. Without VNNI the kernels add pairs of products in 16 bits: 7 bits fit."""
    return 127 if torch.cpu._is_vnni_supported() else 63


def rounded(weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [O, D], float32 scale [O]) of a matrix, symmetric, to the nearest."""
    parts = [_rounded(part.float()) for part in weight_OD.detach().split(4096)]  # a head is large
    whole, scale = zip(*parts, strict=True)
    return torch.cat(whole), torch.cat(scale)


def _rounded(weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    scale = weight_OD.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (weight_OD / scale[:, None]).round_().to(torch.int8), scale


class Int8:
    """A matrix for oneDNN's product of unsigned and signed bytes."""

    def __init__(self, weight_OD: Tensor) -> None:
        whole, scale = rounded(weight_OD)
        levels = row_levels()
        self.packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self.scale, self.levels = scale / levels, torch.full((1, 1), float(levels))
        self.zeros = torch.zeros(len(scale), dtype=torch.int32)

    def __call__(self, x_TD: Tensor) -> Tensor:
        peak = x_TD.abs().amax(dim=-1, keepdim=True)
        # Adding a half and cutting off rounds; nothing is negative. A row of zeros is divided by zero here, and
        # multiplied by it below.
        whole = (x_TD * (self.levels / peak)).add_(ZERO + 0.5).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, ZERO, self.packed, self.scale, self.zeros, None, 1.0, 0, x_TD.dtype, "none", [], ""
        )
        return cast(Tensor, y).mul_(peak)
