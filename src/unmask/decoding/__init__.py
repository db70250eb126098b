"""How a request is decoded: pure strategies, one module each, found here by name. No tensors below this door."""

from __future__ import annotations

from types import ModuleType

from unmask.decoding import adaptivespec, ar, auto, fastdiffuser, linearspec, quadspec
from unmask.decoding.common import Strategy, context_spans
from unmask.types import Request

STRATEGIES: dict[str, ModuleType] = {
    "ar": ar,
    "fastdiffuser": fastdiffuser,
    "linearspec": linearspec,
    "quadspec": quadspec,
    "adaptivespec": adaptivespec,
}

__all__ = ["STRATEGIES", "Strategy", "auto", "context_spans", "scratch_rows", "strategy"]


def strategy(name: str) -> Strategy:
    """The strategy of that name; ValueError naming those there are."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def scratch_rows(request: Request) -> int:
    """Most rows that one plan of this request can have beyond the ids it may keep."""
    block = getattr(request.settings, "draft_block_size", getattr(request.settings, "block_size", 0))
    return request.prefill_chunk + block + (block + 1) * (block + 2) + 64
