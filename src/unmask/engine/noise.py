"""Keyed noise: Gumbel draws that are a pure function of (request seed, absolute position, token id).

Nothing that runs beside a request can change its samples, and a verifier's draw at a position is the draft's draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


def key(seed: int, position: int) -> tuple[int, int]:
    """Two 32-bit words from a seed of any size and a position (splitmix64, Steele et al. 2014, over their mix)."""
    state = (seed * 0xD1342543DE82EF95 + position + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    state ^= state >> 31
    return state & WORD, state >> 32


def scramble(x: Tensor) -> Tensor:
    """A bijection of 32-bit words held in int64 (the finaliser of MurmurHash3). Works in place."""
    x.bitwise_xor_(x >> 16).mul_(0x85EBCA6B).bitwise_and_(WORD)
    x.bitwise_xor_(x >> 13).mul_(0xC2B2AE35).bitwise_and_(WORD)
    return x.bitwise_xor_(x >> 16)


def gumbel(seed: int, positions: Sequence[int], vocab_size: int, device: torch.device) -> Tensor:
    """float32 [R, V]: independent standard Gumbel noise for choosing the token at each absolute position."""
    first, second = zip(*(key(seed, position) for position in positions), strict=True)
    ids = torch.arange(vocab_size, device=device) * 0x9E3779B1
    bits = scramble((ids[None] + torch.tensor(first, device=device)[:, None]).bitwise_and_(WORD))
    bits = scramble(bits.bitwise_xor_(torch.tensor(second, device=device)[:, None]))
    # 23 bits and a half, which float32 holds exactly: 0 < u < 1 (one bit more, and the largest u rounds to 1).
    uniform = ((bits >> 9).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))
