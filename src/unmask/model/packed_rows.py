"""Rows of a matrix that exists in oneDNN's own layout only: so that a tied embedding does not stay beside the packed
head, which is the same numbers.

How oneDNN lays a matrix out is its own business. So what is known of it is tried, and compared with the plain matrix
value by value, before anything relies on it.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

# Rows of a block, and neighbours of a row that lie side by side in it.
BLOCKS = tuple((rows, side) for rows in (64, 48, 32, 16) for side in (1, 2, 4))
COMPARED = 4096  # rows at a time


class PackedRows:
    """A packed matrix [V, D] of which rows can be had, `rows[ids]`, as of a plain one."""

    def __init__(self, packed: Tensor, blocks: Tensor, width: int) -> None:
        """packed: owns the memory. blocks: [V / n, n, D / m, m] of it; the last rows and columns may be padding."""
        self.packed, self.blocks, self.width = packed, blocks, width
        self.dtype, self.device = blocks.dtype, blocks.device

    def __getitem__(self, ids: Tensor) -> Tensor:
        """[..., D] for int64 ids [...]."""
        size = self.blocks.shape[1]
        return self.blocks[ids // size, ids % size].flatten(-2)[..., : self.width]


class LookedUp(nn.Module):
    """A packed head. rows: its matrix as rows that can be looked up, where there is one."""

    rows: Tensor | PackedRows | None

    @property
    def weight(self) -> Tensor | PackedRows:
        if self.rows is None:
            raise ValueError("the rows of a packed lm_head cannot be looked up")
        return self.rows


class PackedEmbedding(nn.Module):
    """An embedding whose rows are those of a packed head."""

    def __init__(self, weight: PackedRows) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids]


def rows_of(packed: Tensor, plain_VD: Tensor) -> PackedRows | None:
    """The rows of a packed matrix, which is `plain` in another layout; None where that is a layout unknown here."""
    try:
        size, address = torch.ops.mkldnn._nbytes(packed), torch.ops.mkldnn.data_ptr(packed)
    except (AttributeError, RuntimeError):  # another version of torch
        return None
    values = torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=plain_VD.dtype)
    for rows, side in BLOCKS:
        high = -(-len(plain_VD) // rows) * rows
        wide = len(values) // high
        if wide * high == len(values) and wide % side == 0 and wide >= plain_VD.shape[1]:
            blocks = values.view(high // rows, wide // side, rows, side).transpose(1, 2)
            found = PackedRows(packed, blocks, plain_VD.shape[1])
            if same(found, plain_VD):
                return found
    return None


def same(rows: PackedRows, plain_VD: Tensor) -> bool:
    """Whether every row is that of the plain matrix."""
    return all(
        torch.equal(rows[torch.arange(first, min(first + COMPARED, len(plain_VD)))], part)
        for first, part in zip(range(0, len(plain_VD), COMPARED), plain_VD.split(COMPARED), strict=True)
    )
