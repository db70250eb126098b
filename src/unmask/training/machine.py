"""What a process should know about its machine before it trains: memory, other processes, sharded weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unmask.model.decoder import Decoder


def prepare_memory() -> None:
    """Take large pages for large tensors on Linux. Call it before the first large tensor is made.

    Without, a fresh tensor is paged in 4 KB at a time, which for the logits of a chunk costs four times the arithmetic
    (measured; `THP_MEM_ALLOC_ENABLE` is read once by torch's CPU allocator).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def processes() -> tuple[int, int]:
    """(rank of this process, number of processes); (0, 1) outside torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def add_up(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if processes()[1] > 1:
        dist.all_reduce(values)
    return values


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """Of each value the largest of all processes: what they can go by together."""
    if processes()[1] == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared.tolist()


def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; one message for all of them."""
    mine = list(parameters)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in mine]
    flat = add_up(torch.cat([grad.reshape(-1) for grad in grads]))
    for parameter, part in zip(mine, flat.split([grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def wait_for_all() -> None:
    if processes()[1] > 1:
        dist.barrier()


def shard(decoder: Decoder, dtype: torch.dtype) -> None:
    """FSDP2: every process keeps its part of each layer (arXiv 2304.11277); float32 weights, `dtype` in between.

    The gradients come back averaged over the processes.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.promote_types(dtype, torch.float32))
    for layer in decoder.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(decoder, mp_policy=policy, reshard_after_forward=False)  # the head is used after the forward


def own_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's rows of sharded tensors; what every process has whole belongs to process 0."""
    first = processes()[0] == 0
    return {
        name: tensor.to_local() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
        if first or isinstance(tensor, DTensor)
    }


def spread_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor laid out as another: on its device, or in its shards."""
    if isinstance(like, DTensor) and whole.ndim:
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
    return whole.to(like.device)
