"""The decoder's layers for inference: weights in the layout that the kernels read, projections of one input as one.

Same mathematics as `decoder.Layer`, in about a third of the operations. Packing takes the weights over, a layer at a
time; what is left of the projections is their shapes, so adapters have to be attached before.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.model.decoder import (
    Attend,
    Decoder,
    Embedding,
    Layer,
    Norm,
    Numerics,
    Projection,
    Turn,
    steady_silu,
    tiled,
)
from unmask.model.packed_rows import LookedUp, PackedEmbedding, PackedRows, rows_of
from unmask.model.rope import rotate_in_place
from unmask.model.sizes import padded_rows
from unmask.quantization import Form

# oneDNN keeps a compiled kernel of 0.6 MB for each shape, and row counts that come seldom need not stay: to compile one
# again takes 0.3 ms. Read by oneDNN before its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


class Prepacked:
    """A matrix in oneDNN's own layout: half the time of a plain one where memory is what limits."""

    def __init__(self, weight: Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)

    def __call__(self, x_TD: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x_TD, self.packed, None, "none", [], ""))


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there are kernels for packed weights of this dtype here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


class LowRankGroup:
    """The adapters of several projections of one input as two products. `b` holds theirs on its diagonal."""

    def __init__(self, parts: Sequence[Projection], name: str, factors_D: Tensor | None) -> None:
        found = [(i, part.adapters[name]) for i, part in enumerate(parts) if name in part.adapters]
        a = torch.cat([low.a.detach() for _, low in found])
        b = torch.zeros(sum(part.out_features for part in parts), len(a), dtype=a.dtype, device=a.device)
        tops, left = [sum(part.out_features for part in parts[:i]) for i in range(len(parts))], 0
        for i, low in found:
            outputs, rank = low.b.shape
            b[tops[i] : tops[i] + outputs, left : left + rank] = low.b.detach() * low.scale
            left += rank
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.a, self.b = reorder(scaled(a, factors_D), None), reorder(b, None)

    def onto(self, y_TO: Tensor, x_TD: Tensor, outside_T1: Tensor) -> Tensor:
        """y + B A x on the rows that are not outside; the others get an exact zero added."""
        inner = torch.ops.mkldnn._linear_pointwise(x_TD, self.a, None, "none", [], "").masked_fill_(outside_T1, 0.0)
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(inner, y_TO, self.b, None, "add"))


def scaled(weight_OD: Tensor, factors_D: Tensor | None) -> Tensor:
    return weight_OD if factors_D is None else weight_OD * factors_D.to(weight_OD.dtype)


class Group:
    """Projections that read the same rows, as one product with one matrix. Takes their weights away.

    factors: what the rows were divided by, channel by channel (`model.balance`).
    """

    def __init__(self, parts: Sequence[Projection], form: Form, factors_D: Tensor | None = None) -> None:
        weights = [part.weight.detach() for part in parts]
        self.weight = form(scaled(weights[0] if len(parts) == 1 else torch.cat(weights), factors_D))
        biases = [part.bias for part in parts if part.bias is not None]
        self.bias = torch.cat([bias.detach() for bias in biases]) if biases else None
        names = dict.fromkeys(name for part in parts for name in part.adapters)
        self.adapters = {name: LowRankGroup(parts, name, factors_D) for name in names}
        self.add_up = parts[0].add_up
        for part in parts:
            part.weight = nn.Parameter(part.weight.detach().to("meta"), requires_grad=False)
            part.adapters = {}

    def __call__(self, x_TD: Tensor, outside: Mapping[str, Tensor], tile: int | None) -> Tensor:
        y = tiled(self.weight, x_TD, tile)
        if self.bias is not None:
            y += self.bias
        for name, off in outside.items():
            if name in self.adapters:
                y = self.adapters[name].onto(y, x_TD, off)
        return y if self.add_up is None else self.add_up(y)


class PackedNorm:
    """`decoder.Norm` in one kernel: layer norm of (x, -x), whose mean is 0 and variance the mean square of x."""

    def __init__(self, norm: Norm, factors_D: Tensor | None = None) -> None:
        weight = norm.weight.detach()
        if factors_D is not None:
            weight = weight / factors_D.to(weight.dtype)
        self.weight, self.shape, self.eps = torch.cat((weight, weight)), (2 * len(weight),), norm.eps

    def __call__(self, x_TD: Tensor) -> Tensor:
        both = F.layer_norm(torch.cat((x_TD, -x_TD), dim=-1), self.shape, self.weight, None, self.eps)
        return both[..., : x_TD.shape[-1]]


class PackedLayer(nn.Module):
    """A `decoder.Layer` made of groups. The weights of `layer` are taken over and gone from it afterwards."""

    def __init__(self, layer: Layer, form: Form, before: Tensor | None, inside: Tensor | None) -> None:
        """before, inside: factors of the rows that attention and MLP read."""
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.layer = attention.layer
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim
        self.norm = PackedNorm(layer.input_layernorm, before)
        self.mlp_norm = PackedNorm(layer.post_attention_layernorm, inside)
        self.head_norms = [PackedNorm(attention.q_norm), PackedNorm(attention.k_norm)] if attention.qk_norm else []
        self.qkv = Group([attention.q_proj, attention.k_proj, attention.v_proj], form, before)
        self.o = Group([attention.o_proj], form)
        self.gate_up = Group([mlp.gate_proj, mlp.up_proj], form, inside)
        self.down = Group([mlp.down_proj], form)
        self.numerics = Numerics()

    def forward(self, x_TD: Tensor, turn: Turn, attend: Attend) -> Tensor:
        rows, queries, outside, tile = len(x_TD), self.heads, turn.outside, self.numerics.tile
        x = self.qkv(self.norm(x_TD), outside, tile).view(rows, -1, self.head_dim)
        q, k, v = x.split((queries, self.kv_heads, self.kv_heads), dim=1)
        for norm, part in zip(self.head_norms, (q, k), strict=False):
            part.copy_(norm(part))
        rotate_in_place(x[:, : queries + self.kv_heads], turn.cos, turn.sin)
        if turn.scale is not None:
            q *= turn.scale
        y_TD = self.o(attend(self.layer, q, k, v).reshape(rows, -1), outside, tile).add_(x_TD)
        gate, up = self.gate_up(self.mlp_norm(y_TD), outside, tile).chunk(2, dim=-1)
        inner = steady_silu(gate) if self.numerics.steady else F.silu(gate)
        return self.down(inner.mul_(up), outside, tile).add_(y_TD)


class Head(LookedUp):
    """A packed `lm_head`. rows: the matrix as rows that can be looked up, where there is one."""

    def __init__(self, head: Projection, form: Form, tied: Tensor | None, factors_D: Tensor | None) -> None:
        """tied: the embedding that is the same matrix; where its rows can be had of the packed one, those are taken."""
        super().__init__()
        self.group = Group([head], form, factors_D)
        own = self.group.weight
        packed = None if tied is None or not isinstance(own, Prepacked) else rows_of(own.packed, tied)
        self.rows = tied if packed is None else packed
        # Not in the norm: a coherence head reads the same rows.
        self.inverse = None if factors_D is None else (1 / factors_D).to(head.weight.dtype)
        self.numerics = Numerics()

    def forward(self, x_RD: Tensor) -> Tensor:
        count = len(x_RD)
        if self.inverse is not None:
            x_RD = x_RD * self.inverse
        padded = padded_rows(max(count, 2 if self.numerics.steady else 1))
        return self.group(F.pad(x_RD, (0, 0, 0, padded - count)), {}, self.numerics.tile)[:count]


def pack(
    decoder: Decoder,
    form: Form = Prepacked,
    head: Form | None = None,
    balances: Mapping[str, Tensor] | None = None,
) -> Decoder:
    """The decoder with packed layers and head, in place. head: a form of its own for that. balances: factors per
    projection (`model.balance`), none by default.

    No weight exists twice, but for a tied embedding beside a head of another form, or one whose rows cannot be looked
    up (`model.packed_rows`). An untied head stays plain where a coherence head reads its rows.
    """
    decoder.requires_grad_(False)
    factors = balances or {}
    for i, layer in enumerate(decoder.model.layers):
        give_back()
        before, inside = (factors.get(f"model.layers.{i}.{name}") for name in ("self_attn.q_proj", "mlp.gate_proj"))
        decoder.model.layers[i] = PackedLayer(cast(Layer, layer), form, before, inside)
    if decoder.config.tied or not decoder.coherence:
        pack_head(decoder, head or form, factors.get("lm_head"))
    decoder.packed = True
    give_back()
    return decoder


def pack_head(decoder: Decoder, form: Form, factors_D: Tensor | None) -> None:
    """Pack the head, in place; a tied embedding becomes its rows where they can be looked up."""
    tied = decoder.model.embed_tokens.weight if decoder.config.tied else None
    head = Head(decoder.lm_head, form, tied, factors_D)
    decoder.lm_head = cast(Projection, head)
    if isinstance(head.rows, PackedRows):
        decoder.model.embed_tokens = cast(Embedding, PackedEmbedding(head.rows))


def give_back() -> None:
    """Let the system have what was freed: glibc keeps blocks of a few megabytes, and a model is made of those."""
    with suppress(OSError, AttributeError, TypeError):  # another system, another C library
        ctypes.CDLL(None).malloc_trim(0)
