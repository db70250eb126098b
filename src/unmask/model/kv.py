"""Memory for keys and values: one slot per cached row and layer. Who owns which page is the engine's business."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unmask.config import ModelConfig

# Attention in fixed tiles may read this many slots past the last one; they are masked, and must be finite.
TAIL = 512


class KVCache:
    """keys, values: [layers, slots + TAIL, G, K]. Host memory is claimed as rows are written, not at the start."""

    def __init__(self, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.layers, slots + TAIL, config.kv_heads, config.head_dim)
        self.keys, self.values = zeros(shape, dtype, device), zeros(shape, dtype, device)

    def write(self, layer: int, slots_T: Tensor, k_TGK: Tensor, v_TGK: Tensor) -> None:
        self.keys[layer].index_copy_(0, slots_T, k_TGK)
        self.values[layer].index_copy_(0, slots_T, v_TGK)

    def read(self, layer: int, slots: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [n, G, K] of some slots; a view for a slice, a copy otherwise."""
        return self.keys[layer][slots], self.values[layer][slots]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are untouched pages; torch's are written.
    raw = np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype)
