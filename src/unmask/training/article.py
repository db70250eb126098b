"""The two functions that the article prints (section 4, "The Efficient-DLM Training Trick"), under its names.

They show the idea on one sequence. The trainer itself lays out clean and noised tokens side by side (`layout`) and
masks within blocks (`noise`, whose law "linear" is `position_dependent_mask_rate` of one block).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def build_block_wise_attention_mask(seq_len: int, block_size: int) -> Tensor:
    """bool [seq_len, seq_len], True = attend: all of the own block, both ways, and all blocks before it.

    A last block that is not full counts as a block; the article's code leaves its rows without any attention, which
    softmax turns into NaN. Raises ValueError for a negative seq_len or a block_size below 1.
    """
    if seq_len < 0:
        raise ValueError(f"seq_len must be at least 0, got {seq_len}")
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    block = torch.arange(seq_len) // block_size
    return block[None, :] <= block[:, None]


def position_dependent_mask_rate(
    seq_len: int, base_rate: float = 0.15, position_scale: float = 2.0
) -> NDArray[np.float64]:
    """float64 [seq_len]: base_rate * (1 + position_scale * i / (seq_len - 1)), cut to 0 .. 1.

    The chance that position i is masked: base_rate at the first token, base_rate * (1 + position_scale) at the last.
    With 32 tokens and the defaults, 0.150, ..., 0.295 at index 15 (the article's comment rounds it to 0.300), ...,
    0.450. Raises ValueError for a negative seq_len.
    """
    if seq_len < 0:
        raise ValueError(f"seq_len must be at least 0, got {seq_len}")
    rates = base_rate * (1 + position_scale * np.linspace(0, 1, seq_len))
    return np.asarray(np.clip(rates, 0.0, 1.0), dtype=np.float64)
