"""The two limits of a machine: bytes it reads and products it computes in a second. Published ones, and the floor that
limits set for a forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unmask.bench.work import Work


@dataclass(frozen=True, slots=True)
class Roof:
    """bandwidth: bytes per second. rates: FLOP/s (int8: operations) by number format. source: where they come from."""

    name: str
    bandwidth: float
    rates: Mapping[str, float]
    source: str

    def seconds(self, work: Work, dtype: str, quantize: str | None = None) -> float:
        """The least time of a forward: of reading and computing the longer one, as if they overlapped perfectly."""
        return max(self.reading(work), self.computing(work, dtype, quantize))

    def reading(self, work: Work) -> float:
        return work.bytes / self.bandwidth

    def computing(self, work: Work, dtype: str, quantize: str | None = None) -> float:
        """4-bit weights are multiplied in `dtype`, 8-bit ones with 8-bit rows; attention is computed in `dtype`."""
        products = self.rate("int8") if quantize == "int8" else self.rate(dtype)
        return work.products / products + work.attention / self.rate(dtype)

    def rate(self, kind: str) -> float:
        if kind not in self.rates:
            raise ValueError(f"no rate of {kind} is known for {self.name}; known: {', '.join(self.rates)}")
        return self.rates[kind]

    def ridge(self, kind: str) -> float:
        """FLOPs per byte from which on arithmetic is what limits."""
        return self.rate(kind) / self.bandwidth


def _gpu(name: str, tb: float, float32: float, sixteen: float, int8: float, source: str) -> Roof:
    """TB/s, then TFLOP/s and TOP/s, dense (without structured sparsity), sixteen bits summed up in float32."""
    rates = {"float32": float32 * 1e12, "bfloat16": sixteen * 1e12, "float16": sixteen * 1e12, "int8": int8 * 1e12}
    return Roof(name, tb * 1e12, rates, source)


# Peaks that makers publish; nothing reaches them. float32 without tensor cores.
GPUS = {
    roof.name: roof
    for roof in (
        _gpu("a100", 2.039, 19.5, 312, 624, "NVIDIA A100 80GB SXM data sheet"),
        _gpu("h100", 3.35, 67, 989, 1979, "NVIDIA H100 SXM data sheet"),
        _gpu("h200", 4.8, 67, 989, 1979, "NVIDIA H200 SXM data sheet"),
        _gpu("b200", 8.0, 75, 2250, 4500, "NVIDIA B200 SXM data sheet"),
        _gpu("l4", 0.3, 30.3, 121, 242, "NVIDIA L4 data sheet"),
        _gpu("l40s", 0.864, 91.6, 362, 733, "NVIDIA L40S data sheet"),
        _gpu("rtx4090", 1.008, 82.6, 165.2, 660.6, "NVIDIA Ada GPU architecture paper"),
        _gpu("mi300x", 5.3, 163.4, 1307, 2615, "AMD Instinct MI300X data sheet"),
    )
}


def gpu(name: str) -> Roof:
    """A published one; ValueError naming those there are."""
    if name.lower() not in GPUS:
        raise ValueError(f"gpu must be one of {', '.join(GPUS)}, got {name!r}")
    return GPUS[name.lower()]
