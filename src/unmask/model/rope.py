"""Rotary position embedding (rotate-half layout) and the query scale that some families add to it.

Frequencies are computed in float64 and tabled in float32, as transformers tables them, then cast to the activations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmask.config import Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """float64 [head_dim / 2]. YaRN: arXiv 2309.00071 section 3.2, correction range rounded outwards; Llama 3.1: the
    wavelength-dependent interpolation of its released code."""
    base = rope.theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim)
    if rope.kind == "linear":
        return base / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * math.pi / base
        ratio = rope.original_max_position / wavelength
        smooth = (ratio - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        smooth = smooth.clamp(0, 1)
        return smooth * base + (1 - smooth) * base / rope.factor
    if rope.kind == "yarn":

        def dimension(rotations: float) -> float:
            return (
                head_dim * math.log(rope.original_max_position / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))
            )

        low = max(math.floor(dimension(rope.beta_fast)), 0)
        high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
        ramp = (torch.arange(head_dim // 2, dtype=torch.float64, device="cpu") - low) / max(high - low, 0.001)
        ramp = ramp.clamp(0, 1)
        return ramp * base / rope.factor + (1 - ramp) * base
    return base


def query_scale(positions: Tensor, beta: float, original: int) -> Tensor:
    """1 + beta * ln(1 + floor(position / original)), float32, the shape of `positions` (Llama 4, Ministral 3)."""
    return 1.0 + beta * torch.log1p((positions // original).to(torch.float32))


class RotaryTable:
    """cos and sin by absolute position, grown on demand. Rows: float32 [head_dim / 2].

    Made on the CPU whatever the default device is, so that a decoder can be built on the meta device.
    """

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self.inverse = inverse_frequencies(rope, head_dim).to(torch.float32)
        self.factor = rope.attention_factor
        self.cos = self.sin = torch.empty(0, head_dim // 2, device="cpu")

    def at(self, positions: Tensor, highest: int) -> tuple[Tensor, Tensor]:
        """cos, sin: float32 [T, head_dim / 2] for int64 `positions` [T], none above `highest`."""
        if highest >= len(self.cos) or self.cos.device != positions.device:
            length = max(1024, 1 << highest.bit_length())
            angles = torch.arange(length, dtype=torch.float32, device="cpu")[:, None] * self.inverse
            self.cos = (angles.cos() * self.factor).to(positions.device)
            self.sin = (angles.sin() * self.factor).to(positions.device)
        return self.cos[positions], self.sin[positions]


def rotate(x_THK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate each head's (first half, second half) pairs by the row's angles; [T, heads, dim], [T, 1, dim / 2]."""
    first, second = x_THK.chunk(2, dim=-1)
    return torch.cat((first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK), dim=-1)


def whole(cos_TK: Tensor, sin_TK: Tensor) -> tuple[Tensor, Tensor]:
    """The tables [T, 1, dim / 2] as `rotate_in_place` takes them: [T, 1, dim], the first half of sin negative."""
    return torch.cat((cos_TK, cos_TK), dim=-1), torch.cat((-sin_TK, sin_TK), dim=-1)


def rotate_in_place(x_THK: Tensor, cos_THK: Tensor, sin_THK: Tensor) -> None:
    """`rotate`, bit for bit, in half as many operations."""
    other = torch.roll(x_THK, x_THK.shape[-1] // 2, -1).mul_(sin_THK)
    x_THK.mul_(cos_THK).add_(other)
