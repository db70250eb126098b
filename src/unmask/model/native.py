"""The decoder's layers as one call into our kernels (`kernels/step.cpp`), on processors that have them.

Same mathematics as `decoder.Layer` in bfloat16 with fewer roundings in between, and every row the same bits alone and
among others. Packing takes the weights over, a layer at a time, so adapters have to be attached before.
Shapes: T rows, R rows read, D hidden, O outputs of a matrix, K head dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_void_p
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import cast

import numpy as np
import platformdirs
import torch
from torch import Tensor, nn

from unmask import kernels
from unmask.config import ModelConfig
from unmask.kernels import BatchShape, LayerShape, Library, ModelShape, SegmentShape
from unmask.model import unpacked
from unmask.model.attention import Segment
from unmask.model.blocks import BLOCK, Matrix, Parts, address
from unmask.model.decoder import Batch, Decoder, Embedding, Layer, Projection
from unmask.model.kv import KVCache
from unmask.model.packed import give_back, scaled
from unmask.model.packed_rows import LookedUp, PackedEmbedding, PackedRows
from unmask.model.rope import query_scale

VECTOR = 16  # values that are taken at a time


@dataclass(frozen=True)
class Places:
    """Where the rows of a forward are kept, and what they see. write_slots: int64, one per row."""

    cache: KVCache
    segments: Sequence[Segment]
    write_slots: Tensor


def library() -> Library | None:
    """Our kernels, if this machine can have them. The first time, they are compiled."""
    # Not in UNMASK_HOME, which people share: what is loaded from here runs.
    return kernels.library(Path(platformdirs.user_cache_dir("unmask")) / "kernels")


def prepare() -> None:
    """Begin to compile the kernels, if they are not there yet, while other things are done."""
    Thread(target=library, daemon=True).start()


def version() -> str:
    """Of the kernels: measurements hang on it."""
    return kernels.version()


def fits(decoder: Decoder) -> bool:
    """Whether the kernels take a model of this dtype, on this device, of these sizes, that is whole in this process."""
    config, weight = decoder.config, decoder.model.embed_tokens.weight
    widths = (
        config.hidden_size,
        config.intermediate_size,
        *(n * config.head_dim for n in (config.heads, config.kv_heads)),
    )
    whole = all(part.add_up is None for part in decoder.projections().values())
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and whole
        and all(width % BLOCK == 0 for width in widths)
        and config.head_dim % VECTOR == 0
    )


class Memory:
    """What a forward computes with; it grows and stays."""

    def __init__(self, library: Library) -> None:
        self.library, self.place = library, library.memory()

    def __del__(self) -> None:
        self.library.release(self.place)


class Native:
    """All layers of a decoder, whose weights it takes over."""

    def __init__(
        self, decoder: Decoder, library: Library, eight_bits: bool, balances: Mapping[str, Tensor], memory: Memory
    ) -> None:
        config = decoder.config
        named = (name for part in decoder.projections().values() for name in part.adapters)
        self.library, self.memory, self.adapters = library, memory, list(dict.fromkeys(named))
        self.parts = list[Parts]()
        for i, layer in enumerate(decoder.model.layers):
            give_back()
            places = (f"model.layers.{i}.{name}" for name in ("self_attn.q_proj", "mlp.gate_proj"))
            factors = (balances.get(place) for place in places)
            self.parts.append(Parts(cast(Layer, layer), self.adapters, eight_bits, *factors))
        ranks = [low.rank for part in self.parts for group in part.groups for low in group.adapters]
        self.table = (LayerShape * len(self.parts))(*(part.shape for part in self.parts))
        sizes = (config.layers, config.hidden_size, config.heads, config.kv_heads, config.head_dim)
        self.shape = ModelShape(*sizes, config.intermediate_size, max(ranks, default=0), config.norm_eps, self.table)
        self.slots = np.arange(0, dtype=np.int64)
        self.cos = self.sin = torch.empty(0, device="cpu")

    def __call__(self, decoder: Decoder, batch: Batch, places: Places) -> Tensor:
        """Hidden states [T, D] before the final norm, as `Decoder.forward` gives them."""
        cache, rows, x_TD = places.cache, len(batch.tokens), decoder.embed(batch).contiguous()
        cos, sin = self.angles(decoder, batch.highest)
        scale = decoder.config.query_scale
        scale_T = None if scale is None else query_scale(batch.positions, *scale).to(x_TD.dtype).float()
        adapter = np.full(rows, -1, dtype=np.int32)
        for i, name in enumerate(self.adapters):
            if name in batch.gates:
                rows_of = batch.gates[name].numpy()
                if (adapter[rows_of] >= 0).any():
                    raise ValueError("two adapters cannot act on one row here")
                adapter[rows_of] = i
        if len(self.slots) < cache.keys.shape[1]:
            self.slots = np.arange(cache.keys.shape[1], dtype=np.int64)
        held = [self.segment(segment) for segment in places.segments]
        segments = (SegmentShape * len(held))(*(shape for shape, _ in held))
        shape = BatchShape(
            rows,
            len(held),
            segments,
            places.write_slots.data_ptr(),
            adapter.ctypes.data,
            *map(address, (batch.positions, cos, sin, scale_T, x_TD, cache.keys, cache.values)),
            cache.keys.stride(0),
        )
        self.library.layers(byref(self.shape), byref(shape), self.memory.place, torch.get_num_threads())
        return x_TD

    def layers(self, config: ModelConfig) -> Iterator[nn.Module]:
        """The layers as torch computes them, for an attention that is not over the paged cache."""
        return unpacked.layers(self.parts, self.adapters, config)

    def angles(self, decoder: Decoder, highest: int) -> tuple[Tensor, Tensor]:
        """cos, sin: float32 [., K / 2] of all positions to the highest, rounded as every other way of computing a layer
        has them."""
        if highest >= len(self.cos):
            every = torch.arange(1 << max(highest, 1023).bit_length(), device="cpu")
            self.cos, self.sin = (part.bfloat16().float() for part in decoder.rotary.at(every, len(every) - 1))
        return self.cos, self.sin

    def segment(self, segment: Segment) -> tuple[SegmentShape, object]:
        """The structure, and what has to live as long as it."""
        slots, mask = segment.slots, segment.mask
        place = self.slots.ctypes.data + 8 * slots.start if isinstance(slots, slice) else slots.data_ptr()
        seen = None if mask is None else np.ascontiguousarray(mask)
        where = None if seen is None else c_void_p(seen.ctypes.data)
        return SegmentShape(segment.first, segment.last, segment.keys, place, where), seen


class Head(LookedUp):
    """The matrix of an `lm_head`. rows: it as rows that can be looked up."""

    def __init__(
        self,
        head: Projection,
        tied: Tensor | None,
        eight_bits: bool,
        factors_D: Tensor | None,
        memory: Memory,
        coherent: bool,
    ) -> None:
        """tied: the embedding that is the same matrix. coherent: a coherence head looks rows up, of which 8 bits of an
        untied head would not be enough."""
        super().__init__()
        weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
        self.memory, self.outputs = memory, len(weight)
        self.matrix = Matrix(scaled(weight, factors_D), bias, eight_bits)
        rows: Tensor | PackedRows | None = tied
        if eight_bits and tied is None and coherent:
            rows = weight
        elif not eight_bits:
            rows = PackedRows(self.matrix.values, self.matrix.values.transpose(1, 2), weight.shape[1])
        self.rows = rows
        # Not in the norm: a coherence head reads the same rows.
        self.inverse = None if factors_D is None else (1 / factors_D).to(weight.dtype)

    def forward(self, x_RD: Tensor) -> Tensor:
        """[R, V]."""
        x_RD = (x_RD if self.inverse is None else x_RD * self.inverse).contiguous()
        out = x_RD.new_empty(len(x_RD), self.outputs + -self.outputs % BLOCK)
        self.memory.library.product(
            byref(self.matrix.shape),
            x_RD.data_ptr(),
            len(x_RD),
            out.data_ptr(),
            self.memory.place,
            torch.get_num_threads(),
        )
        return out[:, : self.outputs]


def pack(
    decoder: Decoder, library: Library, eight_bits: bool = False, balances: Mapping[str, Tensor] | None = None
) -> Decoder:
    """The decoder with its layers and head in the kernels' layout, in place; see `model.packed.pack`."""
    decoder.requires_grad_(False)
    factors, memory = balances or {}, Memory(library)
    decoder.native = Native(decoder, library, eight_bits, factors, memory)
    decoder.model.layers = nn.ModuleList()
    tied = decoder.model.embed_tokens.weight if decoder.config.tied else None
    head = Head(decoder.lm_head, tied, eight_bits, factors.get("lm_head"), memory, bool(decoder.coherence))
    decoder.lm_head = cast(Projection, head)
    if tied is not None and isinstance(head.rows, PackedRows):
        decoder.model.embed_tokens = cast(Embedding, PackedEmbedding(head.rows))
    decoder.packed = True
    give_back()
    return decoder
