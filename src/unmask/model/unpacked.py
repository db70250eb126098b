"""Layers as torch computes them, made anew from the kernels' blocks: for measurements that bring an attention of their
own. A layer exists while it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from unmask.config import ModelConfig
from unmask.model import adapter
from unmask.model.blocks import BLOCK, Group, LowRank, Matrix, Parts
from unmask.model.decoder import Layer, Projection
from unmask.quantization import int8


def layers(every: Sequence[Parts], adapters: Sequence[str], config: ModelConfig) -> Iterator[Layer]:
    """Each layer, adapters included, in bfloat16."""
    for number, parts in enumerate(every):
        with torch.device("meta"):
            layer = Layer(config, number)
        own, mlp = layer.self_attn, layer.mlp
        projections = (
            (own.q_proj, own.k_proj, own.v_proj),
            (own.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
        for group, some in zip(parts.groups, projections, strict=True):
            fill(some, group, adapters)
        norms = [layer.input_layernorm, layer.post_attention_layernorm]
        norms += [own.q_norm, own.k_norm] if config.qk_norm else []
        for norm, weight in zip(norms, parts.norms, strict=True):
            norm.weight = constant(weight.bfloat16())
        yield layer


def fill(projections: Sequence[Projection], group: Group, adapters: Sequence[str]) -> None:
    """Give projections their part of a group's matrix, and their adapters."""
    sizes = [part.out_features for part in projections]
    for part, weight in zip(projections, plain(group.matrix).split(sizes), strict=True):
        part.weight = constant(weight)
    if group.matrix.bias is not None:
        for part, bias in zip(projections, group.matrix.bias[: sum(sizes)].split(sizes), strict=True):
            part.bias = constant(bias.bfloat16())
    for name, low in zip(adapters, group.adapters, strict=True):
        for part, found in zip(projections, low_ranks(low, sizes), strict=True):
            if found is not None:
                part.adapters[name] = found


def plain(matrix: Matrix) -> Tensor:
    """[O, D] of a matrix in blocks, in bfloat16."""
    outputs, inputs = matrix.shape.outputs, matrix.shape.inputs
    rows = matrix.values.transpose(1, 2).reshape(-1, inputs)
    if matrix.scale is not None:
        rows = ((rows.float() - int8.ZERO) * matrix.scale[:, None]).bfloat16()
    return rows[:outputs]


def low_ranks(low: LowRank, sizes: Sequence[int]) -> list[adapter.LowRank | None]:
    """Of each projection, of `sizes` outputs, what the adapter adds to it."""
    found, blocks, top = list[adapter.LowRank | None](), iter(low.b), 0
    for size in sizes:
        panel = low.panels[top // BLOCK]
        top += size
        if low.a is None or not panel.pairs:
            found.append(None)
            continue
        rank, b = 2 * panel.pairs, next(blocks)
        a = plain(low.a)[panel.left : panel.left + rank]
        found.append(adapter.LowRank(a, b.transpose(1, 2).reshape(-1, rank), 1.0).requires_grad_(False))
    return found


def constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
