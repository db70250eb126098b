"""One decoder for every family: Llama-style layers over flat rows, for inference and training alike.

It knows rows, positions and which adapter acts where; who sees whom is the `attend` callable's business.
Shapes: T rows, R rows read, D hidden, H query heads, G key/value heads, K head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.config import ModelConfig
from unmask.model.adapter import LowRank, outside
from unmask.model.coherence import Coherence
from unmask.model.rope import RotaryTable, query_scale, rotate, whole

# (layer, q [T, H, K], k [T, G, K], v [T, G, K]) -> [T, H, K]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """Flat rows. tokens, positions: int64 [T]; highest: the largest position (kept on the host, to size tables).

    gates: adapter name -> int64 rows on which it acts. unknown: adapter name -> those of them that stand for masks.
    """

    tokens: Tensor
    positions: Tensor
    highest: int
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    unknown: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Numerics:
    """How much a row's bits may depend on the rows beside it.

    tile: with a number of rows, every product has exactly that many (zero padded), so that a row's result does not
    depend on how many rows it is computed with (kernels choose their order of summation by shape).
    steady: no value may depend on where it stands among others (`steady_silu`).
    """

    tile: int | None = None
    steady: bool = False


class Projection(nn.Linear):
    """A linear layer that can carry row-gated low-rank adapters.

    add_up: where several processes have a part of the inputs each, what makes one result of theirs (`model.sharding`).
    """

    numerics = Numerics()
    add_up: Callable[[Tensor], Tensor] | None = None
    adapters: dict[str, LowRank]

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.adapters = {}

    def reset_parameters(self) -> None:
        """As torch does, but not on the meta device: to draw nothing there costs 70 MB and a second of imports."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x_TD: Tensor, gates: Mapping[str, Tensor] | None = None) -> Tensor:
        y = tiled(lambda part: F.linear(part, self.weight, self.bias), x_TD, self.numerics.tile)
        for name, rows in (gates or {}).items():
            if name not in self.adapters:
                continue
            if len(rows) == len(x_TD):  # all of them, so nothing needs to be gathered
                y = y + tiled(self.adapters[name], x_TD, self.numerics.tile).to(y.dtype)
            else:
                y = y.index_add(0, rows, tiled(self.adapters[name], x_TD[rows], self.numerics.tile).to(y.dtype))
        return y if self.add_up is None else self.add_up(y)


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """As `Projection.reset_parameters`."""
        if not self.weight.is_meta:
            super().reset_parameters()


def tiled(product: Callable[[Tensor], Tensor], x_TD: Tensor, tile: int | None) -> Tensor:
    """`product` of the rows, exactly `tile` of them (zero padded) at a time; None: of all at once."""
    if tile is None:
        return product(x_TD)
    padded = F.pad(x_TD, (0, 0, 0, -len(x_TD) % tile))
    return torch.cat([product(part) for part in padded.split(tile)])[: len(x_TD)]


def steady_silu(x_TD: Tensor) -> Tensor:
    """SiLU of which no value depends on where it stands.

    torch's CPU kernel takes values by vectors, and what is left over at the end of a thread's share by another routine
    whose last bit may differ. So: whole vectors, in parts too small to be shared out.
    """
    if x_TD.device.type != "cpu":
        return F.silu(x_TD)
    padded = F.pad(x_TD, (0, -x_TD.shape[1] % 64)).reshape(-1)
    return torch.cat([F.silu(part) for part in padded.split(16384)]).view(len(x_TD), -1)[:, : x_TD.shape[1]]


class Norm(nn.Module):
    """RMSNorm: the mean square in float32, the result cast back, then multiplied by the weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float32, torch.float64):
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return self.weight * F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = Projection(config.hidden_size, width, config.qkv_bias)
        self.k_proj = Projection(config.hidden_size, kv_width, config.qkv_bias)
        self.v_proj = Projection(config.hidden_size, kv_width, config.qkv_bias)
        self.o_proj = Projection(width, config.hidden_size, config.o_bias)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = Norm(config.head_dim, config.norm_eps)
            self.k_norm = Norm(config.head_dim, config.norm_eps)

    def forward(self, x_TD: Tensor, turn: Turn, attend: Attend) -> Tensor:
        rows, gates = x_TD.shape[0], turn.gates
        q = self.q_proj(x_TD, gates).view(rows, self.heads, self.head_dim)
        k = self.k_proj(x_TD, gates).view(rows, self.kv_heads, self.head_dim)
        v = self.v_proj(x_TD, gates).view(rows, self.kv_heads, self.head_dim)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, turn.cos, turn.sin), rotate(k, turn.cos, turn.sin)
        if turn.scale is not None:
            q = q * turn.scale
        return self.o_proj(attend(self.layer, q, k, v).reshape(rows, -1), gates)


class Mlp(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Projection(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.up_proj = Projection(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.down_proj = Projection(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, x_TD: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        silu = steady_silu if self.gate_proj.numerics.steady else F.silu
        return self.down_proj(silu(self.gate_proj(x_TD, gates)) * self.up_proj(x_TD, gates), gates)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x_TD: Tensor, turn: Turn, attend: Attend) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), turn, attend)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD), turn.gates)


@dataclass(frozen=True)
class Turn:
    """What all layers of one forward share. cos, sin: [T, 1, K / 2]; scale: [T, 1, 1] or None; gates as in Batch.

    For packed layers cos and sin are [T, 1, K] (`rope.whole`). outside: adapter -> bool [T, 1], where it does not act.
    """

    cos: Tensor
    sin: Tensor
    scale: Tensor | None
    gates: Mapping[str, Tensor]
    outside: Mapping[str, Tensor]


class WholeStack(Protocol):
    """All layers as one (`model.native`)."""

    def __call__(self, decoder: Decoder, batch: Batch, places: Any) -> Tensor: ...
    def layers(self, config: ModelConfig) -> Iterator[nn.Module]: ...


class Stack(nn.Module):
    """Embeddings, layers and the final norm, under the names that Hugging Face gives them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = Norm(config.hidden_size, config.norm_eps)


class Decoder(nn.Module):
    """The model. `forward` gives hidden states of all rows; `logits` reads only the rows that were asked for."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config)
        self.lm_head = Projection(config.hidden_size, config.vocab_size)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.rotary = RotaryTable(config.rope, config.head_dim)
        self.mask_embeddings: dict[str, Tensor] = {}
        self.coherence: dict[str, Coherence] = {}
        self.packed = False  # `model.packed.pack` or `model.native.pack` has been at work
        self.native: WholeStack | None = None  # all layers in one call, with attention over the paged cache

    def forward(self, batch: Batch, attend: Attend) -> Tensor:
        """Hidden states [T, D] before the final norm."""
        x = self.embed(batch)
        turn = self.turn(batch, x.dtype)
        for layer in self.model.layers if self.native is None else self.native.layers(self.config):
            x = layer(x, turn, attend)
        return x

    def embed(self, batch: Batch) -> Tensor:
        x = self.model.embed_tokens(batch.tokens)
        for name, rows in batch.unknown.items():
            if name in self.mask_embeddings:
                x = x.index_copy(0, rows, self.mask_embeddings[name].to(x.dtype).expand(len(rows), -1))
        return x

    def turn(self, batch: Batch, dtype: torch.dtype) -> Turn:
        cos, sin = self.rotary.at(batch.positions, batch.highest)
        scale = None
        if self.config.query_scale is not None:
            scale = query_scale(batch.positions, *self.config.query_scale).to(dtype)[:, None, None]
        cos, sin = cos.to(dtype)[:, None], sin.to(dtype)[:, None]
        if not self.packed or self.native is not None:
            return Turn(cos, sin, scale, batch.gates, {})
        return Turn(*whole(cos, sin), scale, batch.gates, outside(batch.gates, len(batch.tokens)))

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, V], in the model's dtype."""
        return self.lm_head(self.model.norm(hidden_RD))

    def set_numerics(self, numerics: Numerics) -> None:
        for module in self.modules():
            if hasattr(module, "numerics"):
                module.numerics = numerics  # type: ignore[assignment]  # a field of ours, not a parameter

    def projections(self) -> dict[str, Projection]:
        """Canonical module name -> projection, the places an adapter can act on."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Projection)}
