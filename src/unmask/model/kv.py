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

    def views(self, slots: slice) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys and values of adjacent slots, of each layer as [1, G, n, K], which show what will be written."""
        return (
            self.keys[:, slots].transpose(1, 2)[:, None].unbind(),
            self.values[:, slots].transpose(1, 2)[:, None].unbind(),
        )

    def read(self, layer: int, slots: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of some slots as [1, G, n, K]."""
        return self.keys[layer][slots].transpose(0, 1)[None], self.values[layer][slots].transpose(0, 1)[None]


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy's zeros are untouched pages; torch's are written.
    raw = np.zeros((*shape[:-1], shape[-1] * dtype.itemsize), dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype)
