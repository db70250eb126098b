"""Matrices and adapters in the blocks that our kernels read, with the structures that say where they are.

Shapes: D inputs, O outputs of a matrix. What packs takes the weights over: projections keep their shapes only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.kernels import GroupShape, LayerShape, LowRankShape, MatrixShape, PanelShape
from unmask.model.decoder import Layer, Norm, Projection
from unmask.model.packed import scaled
from unmask.quantization import int8

BLOCK = 32  # outputs that lie side by side


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def in_blocks(weight_OD: Tensor, side: int) -> Tensor:
    """[O / 32, D / side, 32, side]; missing outputs are zeros."""
    more = -len(weight_OD) % BLOCK
    padded = F.pad(weight_OD, (0, 0, 0, more)) if more else weight_OD
    return padded.view(-1, BLOCK, padded.shape[1] // side, side).transpose(1, 2).contiguous()


class Matrix:
    """One matrix [O, D] in blocks, in bfloat16 or 8 bits, and the structure that says where it is."""

    def __init__(self, weight_OD: Tensor, bias_O: Tensor | None = None, eight_bits: bool = False) -> None:
        (outputs, inputs), more = weight_OD.shape, -len(weight_OD) % BLOCK
        self.scale = None
        if eight_bits:
            whole, scale = int8.rounded(weight_OD)
            unsigned = whole.view(torch.uint8) ^ int8.ZERO  # with ZERO added
            self.values, self.scale = in_blocks(unsigned, 4), F.pad(scale, (0, more))
        else:
            self.values = in_blocks(weight_OD, 2)
        self.bias = None if bias_O is None else F.pad(bias_O.float(), (0, more))
        parts = (self.values, self.scale, self.bias)
        self.shape = MatrixShape(*map(address, parts), outputs, inputs)


class LowRank:
    """One adapter of the projections of a group: their A as one matrix, and of each its B, in blocks of outputs."""

    def __init__(self, parts: Sequence[Projection], name: str, factors_D: Tensor | None) -> None:
        a, self.b, panels, left = list[Tensor](), list[Tensor](), list[PanelShape](), 0
        for part in parts:
            low, count = part.adapters.get(name), part.out_features // BLOCK
            if low is None:
                panels += [PanelShape(None, 0, 0)] * count
                continue
            more = len(low.a) % 2  # inner values are taken by pairs
            a.append(F.pad(scaled(low.a.detach(), factors_D), (0, 0, 0, more)))
            blocks = in_blocks(F.pad(low.b.detach() * low.scale, (0, more)), 2)
            size, rank = blocks[0].numel() * blocks.itemsize, len(a[-1])
            panels += [PanelShape(blocks.data_ptr() + i * size, left, rank // 2) for i in range(count)]
            self.b.append(blocks)
            left += rank
        self.rank = left + -left % BLOCK
        self.a = Matrix(torch.cat(a)) if a else None
        self.panels = (PanelShape * len(panels))(*panels)
        self.shape = LowRankShape(self.a.shape if self.a else MatrixShape(), self.panels)


class Group:
    """Projections that read the same rows, as one matrix. Takes their weights away.

    factors: what the rows were divided by, channel by channel (`model.balance`).
    """

    def __init__(
        self, parts: Sequence[Projection], adapters: Sequence[str], eight_bits: bool, factors_D: Tensor | None = None
    ) -> None:
        weights = [part.weight.detach() for part in parts]
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        weight = scaled(weights[0] if len(parts) == 1 else torch.cat(weights), factors_D)
        self.matrix = Matrix(weight, torch.cat(biases) if biases else None, eight_bits)
        self.adapters = [LowRank(parts, name, factors_D) for name in adapters]
        self.lows = (LowRankShape * len(adapters))(*(low.shape for low in self.adapters))
        self.shape = GroupShape(self.matrix.shape, self.lows)
        for part in parts:
            part.weight = nn.Parameter(part.weight.detach().to("meta"), requires_grad=False)
            part.adapters = {}


class Parts:
    """A layer's matrices and norms as the kernels read them. The weights of `layer` are gone from it afterwards."""

    def __init__(
        self,
        layer: Layer,
        adapters: Sequence[str],
        eight_bits: bool,
        before: Tensor | None = None,
        inside: Tensor | None = None,
    ) -> None:
        """before, inside: factors of the rows that attention and MLP read."""
        attention, mlp = layer.self_attn, layer.mlp
        own = [attention.q_norm, attention.k_norm] if attention.qk_norm else []
        self.norms = [of_norm(layer.input_layernorm, before), of_norm(layer.post_attention_layernorm, inside)]
        self.norms += [of_norm(norm, None) for norm in own]
        self.groups = [
            Group([attention.q_proj, attention.k_proj, attention.v_proj], adapters, eight_bits, before),
            Group([attention.o_proj], adapters, eight_bits),
            Group([mlp.gate_proj, mlp.up_proj], adapters, eight_bits, inside),
            Group([mlp.down_proj], adapters, eight_bits),
        ]
        norms = [*map(address, self.norms), None, None][:4]
        self.shape = LayerShape(*norms, *(group.shape for group in self.groups))


def of_norm(norm: Norm, factors_D: Tensor | None) -> Tensor:
    weight = norm.weight.detach().float()
    return weight if factors_D is None else weight / factors_D.float()
