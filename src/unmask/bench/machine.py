"""What this machine really reads and computes in a second, with the kernels that the models run on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.bench.roofs import Roof
from unmask.engine.known import processor
from unmask.model.packed import Prepacked, can_pack
from unmask.quantization import Int8

# Bytes to read: far more than any cache on the way.
SIZE = {"cpu": 512 << 20, "cuda": 4 << 30}
# (rows, width) of the square product whose rate is measured.
PRODUCT = {"cpu": (512, 2048), "cuda": (8192, 8192)}
Product = Callable[[Tensor], Tensor]


def measure(device: torch.device, size: int | None = None, product: tuple[int, int] | None = None) -> Roof:
    """Bandwidth and rates of a device, each the best of several kernels or repeats: a roof is what can be reached.

    size: bytes to read. product: rows and width. Takes a few seconds.
    """
    kind = device.type
    rows, width = product or PRODUCT[kind]
    rates = {name: rate(make, rows, width, device) for name, make in products(device).items()}
    name = torch.cuda.get_device_name(device) if kind == "cuda" else processor()
    return Roof(name, bandwidth(device, size or SIZE[kind]), rates, f"measured, {torch.get_num_threads()} threads")


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes read per second: the best of a sum, a product with a vector, and a row times a packed matrix."""
    width = 4096
    numbers = torch.ones(size // (4 * width), width, device=device)
    vector = torch.ones(width, device=device)
    readers: list[Callable[[], object]] = [numbers.sum, lambda: numbers @ vector]
    found = [numbers.numel() * 4 / best(reader, device) for reader in readers]
    if can_pack(torch.bfloat16, device):
        weight, row = Prepacked(numbers.view(-1)[: size // 8].view(-1, width).bfloat16()), vector[None].bfloat16()
        found.append(size // 8 * 2 / best(lambda: weight(row), device))
    return max(found)


def products(device: torch.device) -> dict[str, Callable[[Tensor], tuple[Product, torch.dtype]]]:
    """Number format -> from a float32 matrix its product and the dtype of the rows, as models have them here."""

    def plain(dtype: torch.dtype) -> Callable[[Tensor], tuple[Product, torch.dtype]]:
        def make(weight: Tensor) -> tuple[Product, torch.dtype]:
            own = weight.to(dtype)
            return Prepacked(own) if can_pack(dtype, device) else lambda x: F.linear(x, own), dtype

        return make

    found = {str(dtype).removeprefix("torch."): plain(dtype) for dtype in (torch.float32, torch.bfloat16)}
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        found["int8"] = lambda weight: (Int8(weight), torch.bfloat16)
    return found


def rate(make: Callable[[Tensor], tuple[Product, torch.dtype]], rows: int, width: int, device: torch.device) -> float:
    """FLOP/s of a product of `rows` rows with a square matrix (rounding rows to 8 bits is part of it)."""
    product, dtype = make(torch.randn(width, width, device=device))
    x = torch.randn(rows, width, device=device, dtype=dtype)
    return 2 * rows * width * width / best(lambda: product(x), device)


@torch.inference_mode()
def best(call: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Seconds of the quickest of so many calls, after one that warms up."""
    times = list[float]()
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])
