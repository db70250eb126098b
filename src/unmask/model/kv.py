"""Memory for keys and values: one slot per cached row and layer. Who owns which page is the engine's business."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress

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
    # Untouched pages, and small ones: a context has its rows in as many places as there are layers, and numpy, whose
    # zeros are untouched as well, asks for pages of 2 MB.
    size = math.prod(shape) * dtype.itemsize
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    memory = mmap.mmap(-1, size, flags=private) if private else mmap.mmap(-1, size)
    with suppress(AttributeError, OSError):  # where there are none
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
