"""One model on several processes: which part of every matrix each of them has, and where their results are added up.

A part is a decoder of fewer heads and a narrower MLP, so packing, quantisation, cache and attention know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.config import ModelConfig
from unmask.model.decoder import Decoder
from unmask.model.peft import AdapterWeights

# Each process has some outputs of these, and some inputs of those (Megatron-LM, arXiv 1909.08053 section 3). All else,
# embeddings and head included, every process has whole; only the first one computes logits.
BY_OUTPUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
BY_INPUT = ("o_proj", "down_proj")

Sum = Callable[[Tensor], Tensor]


def sizes(config: ModelConfig) -> list[int]:
    """Numbers of processes that a model can be shared between: heads, key heads and MLP must divide."""
    most = gcd(config.heads, config.kv_heads, config.intermediate_size)
    return [n for n in range(1, most + 1) if most % n == 0]


def check(config: ModelConfig, size: int) -> None:
    """ValueError, in one line, where a model cannot be shared between so many."""
    if size in sizes(config):
        return
    raise ValueError(
        f"tp must divide the heads ({config.heads}), key heads ({config.kv_heads}) and MLP width"
        f" ({config.intermediate_size}) of this model, so it may be {', '.join(map(str, sizes(config)))}; got {size}"
    )


@dataclass(frozen=True, slots=True)
class Shard:
    """Part number `rank` of `size`."""

    rank: int
    size: int

    def config(self, whole: ModelConfig) -> ModelConfig:
        """What the part's decoder is made from."""
        check(whole, self.size)
        return replace(
            whole,
            heads=whole.heads // self.size,
            kv_heads=whole.kv_heads // self.size,
            intermediate_size=whole.intermediate_size // self.size,
        )

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """The part of a tensor of the whole model, by canonical name; a view where it can be one."""
        owner, _, kind = name.rpartition(".")
        leaf = owner.rpartition(".")[2]
        if leaf in BY_OUTPUT:
            return self.cut(tensor, 0)
        if leaf in BY_INPUT:
            if kind == "weight":
                return self.cut(tensor, 1)
            return tensor if self.rank == 0 else torch.zeros_like(tensor)  # added once, not `size` times
        return tensor

    def adapter(self, weights: AdapterWeights) -> AdapterWeights:
        """The part of an adapter. What it adds by input is added up together with the projection's own result."""
        return replace(
            weights, matrices={target: self.low_rank(target, *ab) for target, ab in weights.matrices.items()}
        )

    def low_rank(self, target: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        leaf = target.rpartition(".")[2]
        return (self.cut(a, 1) if leaf in BY_INPUT else a), (self.cut(b, 0) if leaf in BY_OUTPUT else b)

    def cut(self, tensor: Tensor, axis: int) -> Tensor:
        return tensor.chunk(self.size, axis)[self.rank]


def join(decoder: Decoder, add_up: Sum) -> None:
    """Have the results of a part added to those of the others. Before the decoder is packed."""
    for name, projection in decoder.projections().items():
        if name.endswith(BY_INPUT):
            projection.add_up = add_up


def sum_of_processes(steady: bool) -> Sum:
    """Adds up tensors of all processes, in place where it can.

    steady: always in the order of the processes. Otherwise the order may depend on where a value stands, or on how many
    there are, and a row's last bits on the rows beside it.
    """

    def in_any_order(part: Tensor) -> Tensor:
        dist.all_reduce(part)
        return part

    def in_order(part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        total = parts[0]
        for other in parts[1:]:
            total += other
        return total

    return in_order if steady else in_any_order
