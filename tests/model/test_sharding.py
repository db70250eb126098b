"""Parts of a model, added up, are the model: every family's extras, adapters, packed or not, on 2 and 4 threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from unmask.config import ModelConfig
from unmask.model.adapter import attach
from unmask.model.attention import dense_attend
from unmask.model.checkpoint import load_into, open_checkpoint
from unmask.model.decoder import Batch, Decoder
from unmask.model.families import tensor_shapes
from unmask.model.packed import pack
from unmask.model.peft import AdapterWeights
from unmask.model.sharding import Shard, check, join, sizes

CONFIG = ModelConfig(
    vocab_size=64, hidden_size=32, layers=2, heads=8, kv_heads=4, head_dim=16, intermediate_size=64, max_position=64
)
CONFIGS = {
    "plain": CONFIG,
    "tied": replace(CONFIG, tied=True),
    "biased": replace(CONFIG, qkv_bias=True, o_bias=True, mlp_bias=True),
    "normed": replace(CONFIG, qk_norm=True),
    "scaled": replace(CONFIG, query_scale=(0.3, 4)),
}
ROWS = 9
ACTS = torch.tensor([2, 3, 7])  # rows that the adapter acts on


class Together:
    """Adds up what several threads bring, in their order."""

    def __init__(self, size: int) -> None:
        self.barrier, self.parts = threading.Barrier(size, timeout=30), list[Tensor]([torch.empty(0)] * size)

    def of(self, rank: int) -> Callable[[Tensor], Tensor]:
        def add_up(part: Tensor) -> Tensor:
            self.parts[rank] = part
            self.barrier.wait()
            total = torch.stack(self.parts).sum(dim=0)
            self.barrier.wait()  # all have read before anybody brings the next one
            return total

        return add_up


def whole_of(config: ModelConfig, dtype: torch.dtype = torch.float64) -> Decoder:
    generator = torch.Generator().manual_seed(5)
    decoder = Decoder(config)
    for name, parameter in decoder.named_parameters():
        scale = 1.2 / parameter.shape[1] ** 0.5 if parameter.dim() == 2 else 0.3
        nn.init.normal_(parameter, mean=float("norm" in name), std=scale, generator=generator)
    return decoder.to(dtype).requires_grad_(False)


def adapter_of(decoder: Decoder) -> AdapterWeights:
    generator, matrices = torch.Generator().manual_seed(6), {}
    for name, projection in decoder.projections().items():
        if name != "lm_head":
            a = torch.randn(3, projection.in_features, generator=generator) / projection.in_features**0.5
            matrices[name] = a, torch.randn(projection.out_features, 3, generator=generator)
    return AdapterWeights(3, 0.5, matrices, torch.randn(CONFIG.hidden_size, generator=generator))


def parts_of(whole: Decoder, size: int) -> list[Decoder]:
    parts, together, state = [], Together(size), whole.state_dict()
    for rank in range(size):
        shard = Shard(rank, size)
        part = Decoder(shard.config(whole.config)).to(whole.lm_head.weight.dtype).requires_grad_(False)
        part.load_state_dict({name: shard.of(name, tensor) for name, tensor in state.items()})
        join(part, together.of(rank))
        parts.append(part)
    return parts


@torch.no_grad()
def logits(decoder: Decoder) -> Tensor:
    """Of some rows, the first of them causal and the rest a block."""
    ids = torch.tensor([(7 * i * i + 3) % CONFIG.vocab_size for i in range(ROWS)])
    seen = np.tril(np.ones((ROWS, ROWS), dtype=np.bool_))
    seen[4:, 4:] = True
    gates = {"draft": ACTS}
    batch = Batch(ids, torch.arange(ROWS), ROWS - 1, gates, {"draft": ACTS[1:]})
    return decoder.logits(decoder(batch, dense_attend(seen)))


def all_logits(parts: Sequence[Decoder]) -> list[Tensor]:
    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(logits, parts))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_parts_together_are_the_whole(name: str, size: int) -> None:
    whole = whole_of(CONFIGS[name])
    weights, parts = adapter_of(whole), parts_of(whole, size)
    before = logits(whole)
    attach(whole, "draft", weights)
    for rank, part in enumerate(parts):
        attach(part, "draft", Shard(rank, size).adapter(weights))
    expected = logits(whole)
    assert not torch.allclose(expected[-1], before[-1], atol=0.1), "the adapter must act"
    for found in all_logits(parts):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_parts_together_are_the_whole(name: str) -> None:
    whole = whole_of(CONFIGS[name], torch.float32)
    weights, parts = adapter_of(whole), parts_of(whole, 2)
    attach(whole, "draft", weights)
    for rank, part in enumerate(parts):
        attach(part, "draft", Shard(rank, 2).adapter(weights))
        pack(part)
    expected = logits(whole)
    for found in all_logits(parts):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [2, 4])
def test_every_value_is_in_one_part_or_in_all(name: str, size: int) -> None:
    whole = whole_of(CONFIGS[name])
    for key, tensor in whole.state_dict().items():
        parts = [Shard(rank, size).of(key, tensor) for rank in range(size)]
        shapes = [tensor_shapes(Shard(rank, size).config(whole.config)).get(key) for rank in range(size)]
        assert key == "lm_head.weight" or shapes == [tuple(part.shape) for part in parts]
        if all(torch.equal(part, tensor) for part in parts):
            assert "norm" in key or "embed" in key or key == "lm_head.weight", key
        elif key.endswith(("o_proj.bias", "down_proj.bias")):
            assert torch.equal(torch.stack(parts).sum(dim=0), tensor), key
        else:
            axis = 1 if key.endswith(("o_proj.weight", "down_proj.weight")) else 0
            assert torch.equal(torch.cat(parts, axis), tensor), key


def test_loading_a_part_is_cutting_the_whole(tiny_folder: Path) -> None:
    checkpoint, shard = open_checkpoint(tiny_folder), Shard(1, 2)
    whole = Decoder(checkpoint.config)
    load_into(whole, checkpoint)
    with torch.device("meta"):
        part = Decoder(shard.config(checkpoint.config))
    load_into(part, checkpoint, shard=shard)
    for name, tensor in part.state_dict().items():
        assert torch.equal(tensor, shard.of(name, whole.state_dict()[name])), name
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, f"{name} holds on to more than its part"


@given(heads=st.integers(1, 6), share=st.integers(1, 4), inner=st.integers(1, 40), size=st.integers(-1, 12))
def test_what_cannot_be_divided_is_refused(heads: int, share: int, inner: int, size: int) -> None:
    config = replace(CONFIG, heads=heads * share, kv_heads=heads, intermediate_size=inner)
    if size >= 1 and heads % size == 0 and inner % size == 0:
        check(config, size)
        assert size in sizes(config)
    else:
        with pytest.raises(ValueError, match=rf"heads \({heads * share}\), key heads \({heads}\).*; got {size}$"):
            check(config, size)
