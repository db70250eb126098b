"""How much arithmetic a step takes, and how much this machine can do: what MFU is made of."""

from __future__ import annotations

import time

import torch

from unmask.config import ModelConfig
from unmask.training.layout import Doubled
from unmask.training.settings import TrainConfig


def step_flops(model: ModelConfig, config: TrainConfig, doubled: Doubled) -> float:
    """Floating point operations of the matrix products that one micro-batch needs (2 per multiply-add).

    Attention counts the visible pairs only, and recomputation does not count: it is the work, not how it is done.
    """
    width = model.head_dim * (2 * model.heads + 2 * model.kv_heads)
    per_layer = model.hidden_size * width + 3 * model.hidden_size * model.intermediate_size
    row = 2.0 * model.layers * per_layer
    lengths = (doubled.documents[1:] - doubled.documents[:-1]).astype(float)
    sizes = (doubled.blocks[1:] - doubled.blocks[:-1]).astype(float)
    seen = (doubled.limit - doubled.documents[doubled.block_document]).astype(float)
    pair = 4.0 * model.layers * model.heads * model.head_dim
    clean = doubled.clean * row + pair * float((lengths * lengths).sum()) / 2
    noisy = doubled.noisy * row + pair * float((sizes * (seen + doubled.blocks[1:] - doubled.reach)).sum())
    head = 2.0 * model.vocab_size * model.hidden_size
    masked = float((doubled.weight > 0).sum())
    if config.method == "joint":
        return 3 * (clean + noisy + head * (masked + len(doubled.ar)))
    # Clean rows go forward only; of noisy ones the weights need no gradient, the adapter does.
    taught = float((doubled.draft[doubled.block] & (doubled.weight > 0)).sum())
    adapter = 6.0 * doubled.noisy * adapter_size(model, config)
    return clean + 2 * noisy + adapter + head * (2 * masked + taught)


def adapter_size(model: ModelConfig, config: TrainConfig) -> int:
    """Number of weights of the adapter's matrices."""
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.heads * model.head_dim, model.kv_heads * model.head_dim
    ends = {
        "q_proj": hidden + queries,
        "k_proj": hidden + keys,
        "v_proj": hidden + keys,
        "o_proj": queries + hidden,
        "gate_proj": hidden + inner,
        "up_proj": hidden + inner,
        "down_proj": inner + hidden,
    }
    return model.layers * config.adapter.rank * sum(ends[target] for target in config.adapter.targets)


@torch.no_grad()
def matmul_rate(dtype: torch.dtype, device: torch.device, size: int | None = None, seconds: float = 0.2) -> float:
    """Floating point operations a second of square products here: the best of several, the machine's practical peak."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
