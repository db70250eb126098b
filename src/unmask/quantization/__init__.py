"""Matrices in fewer bits, each with the product that its kernel computes. They know tensors and nothing of models."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from unmask.quantization.int4 import Int4, fits
from unmask.quantization.int8 import Int8

__all__ = ["QUANTIZATIONS", "Form", "Int4", "Int8", "Quantize", "Weight", "check", "forms", "shrink"]

Quantize = Literal["int8", "int4"]
QUANTIZATIONS: tuple[Quantize, ...] = ("int8", "int4")


class Weight(Protocol):
    """One matrix [out, in] as its kernel wants it. Calling it: [T, in] -> [T, out], in the dtype of the rows."""

    def __call__(self, x_TD: Tensor) -> Tensor: ...


Form = Callable[[Tensor], Weight]


def forms(quantize: Quantize) -> tuple[Form, Form]:
    """(of the matrices in the layers, of the head): the head, on which every pick hangs, keeps 8 bits."""
    return (Int8, Int8) if quantize == "int8" else (int4_or_8, Int8)


def int4_or_8(weight_OD: Tensor) -> Weight:
    """Int4, or Int8 for a matrix whose sizes its kernel does not take."""
    return Int4(weight_OD) if fits(weight_OD) else Int8(weight_OD)


def check(quantize: str, device: torch.device, dtype: torch.dtype) -> Quantize:
    """ValueError, in one line, for a name that is none, or where there are no kernels."""
    known = next((name for name in QUANTIZATIONS if name == quantize), None)
    if known is None:
        raise ValueError(f"quantize must be one of {', '.join(QUANTIZATIONS)}, got {quantize!r}")
    if device.type != "cpu":
        if known != "int8":
            raise ValueError(f"quantize={quantize!r} computes on a CPU so far, not on {device.type}; int8 does")
        if find_spec("torchao") is None:
            raise ValueError(f"quantize='int8' on {device.type} needs torchao: pip install 'unmask[gpu]'")
        return known
    if not torch.backends.mkldnn.is_available():
        raise ValueError(f"quantize={quantize!r} needs a PyTorch with oneDNN, and this one has none")
    if dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(
            f"quantize={quantize!r} needs dtype bfloat16 or float32, got {str(dtype).removeprefix('torch.')}"
        )
    return known


def shrink(module: nn.Module) -> None:
    """For other devices than a CPU: all linear layers inside with matrices of 8 bits, a scale per output, in place, by
    torchao. Rows stay as they are."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(module, Int8WeightOnlyConfig(set_inductor_config=False))
