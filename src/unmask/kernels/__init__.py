"""Kernels of our own, in C++, for what libraries are slow at: compiled once by the system's compiler, then loaded.

They know numbers and addresses; what they mean to a model is `model.native`'s business. Without a compiler, or on
another processor, there are none, and everything is computed by torch.
"""

from unmask.kernels.compiled import Library, library, version
from unmask.kernels.shapes import (
    BatchShape,
    GroupShape,
    LayerShape,
    LowRankShape,
    MatrixShape,
    ModelShape,
    PanelShape,
    SegmentShape,
)

__all__ = [
    "BatchShape",
    "GroupShape",
    "LayerShape",
    "Library",
    "LowRankShape",
    "MatrixShape",
    "ModelShape",
    "PanelShape",
    "SegmentShape",
    "library",
    "version",
]
