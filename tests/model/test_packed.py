"""Packed layers compute what plain ones compute, keep a row's bits in any company, and take the weights over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.config import EngineConfig, ModelConfig
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.adapter import attach
from unmask.model.attention import PagedAttention, Segment, Way, dense_attend
from unmask.model.balance import balances, factors
from unmask.model.coherence import Coherence
from unmask.model.decoder import Batch, Decoder, Layer
from unmask.model.kv import KVCache
from unmask.model.packed import PackedLayer, Prepacked, can_pack, pack
from unmask.model.packed_rows import PackedRows, rows_of
from unmask.model.peft import AdapterWeights
from unmask.model.sizes import FEW_ROWS, KEYS, ROWS, padded_keys, padded_rows
from unmask.quantization import Int8
from unmask.types import Plan, Read, Request, Row, Span

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=96, hidden_size=64, layers=2, heads=6, kv_heads=2, head_dim=16, intermediate_size=80, max_position=2048
)
CONFIGS = {
    "plain": CONFIG,
    "tied": replace(CONFIG, tied=True),
    "biased": replace(CONFIG, qkv_bias=True, o_bias=True, mlp_bias=True),
    "normed": replace(CONFIG, qk_norm=True),
    "scaled": replace(CONFIG, query_scale=(0.3, 8)),
}
IDS = [(7 * i * i + 3) % 96 for i in range(40)]
needs_bfloat16 = pytest.mark.skipif(not can_pack(torch.bfloat16, CPU), reason="no bfloat16 kernels here")
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]


def decoder(config: ModelConfig = CONFIG, dtype: torch.dtype = torch.float32, adapter: bool = False) -> Decoder:
    generator = torch.Generator().manual_seed(3)
    made = Decoder(config)
    for name, parameter in made.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.2 / parameter.shape[1] ** 0.5, generator=generator)
        else:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2, generator=generator)
    made = made.to(dtype).requires_grad_(False)
    if adapter:
        attach(made, "draft", low_rank(made))
    return made


def low_rank(model: Decoder) -> AdapterWeights:
    """Random matrices on all projections of the layers but the second layer's q_proj and up_proj."""
    generator, matrices = torch.Generator().manual_seed(5), dict[str, tuple[Tensor, Tensor]]()
    for name, projection in model.projections().items():
        if name != "lm_head" and name not in ("model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"):
            outputs, inputs = projection.weight.shape
            a = torch.randn(3, inputs, generator=generator) / inputs**0.5
            matrices[name] = a, torch.randn(outputs, 3, generator=generator) / 2
    return AdapterWeights(3, 0.7, matrices, torch.randn(64, generator=generator))


def layers_of(model: Decoder) -> list[Layer]:
    return [cast(Layer, layer) for layer in model.model.layers]


@torch.no_grad()
def hidden(model: Decoder, rows: int = 24, gated: tuple[int, ...] = ()) -> Tensor:
    gates = {"draft": torch.tensor(gated)} if gated else {}
    batch = Batch(torch.tensor(IDS[:rows]), torch.arange(rows), rows - 1, gates, gates)
    return model(batch, dense_attend(np.tril(np.ones((rows, rows), dtype=np.bool_))))


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-4 if expected.dtype == torch.float32 else 0.04
    error = (found.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1)
    assert error.max() < tolerance, error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_layers_equal_plain_ones(name: str, dtype: torch.dtype) -> None:
    expected, packed = decoder(CONFIGS[name], dtype), pack(decoder(CONFIGS[name], dtype))
    assert all(isinstance(layer, PackedLayer) for layer in packed.model.layers)
    close(hidden(packed), hidden(expected))
    rows = hidden(expected)
    close(packed.logits(rows), expected.logits(rows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [(2, 3, 4, 9), tuple(range(24)), (23,)])
def test_packed_adapters_equal_plain_ones(dtype: torch.dtype, gated: tuple[int, ...]) -> None:
    expected, packed = decoder(dtype=dtype, adapter=True), pack(decoder(dtype=dtype, adapter=True))
    close(hidden(packed, gated=gated), hidden(expected, gated=gated))
    assert (hidden(packed, gated=gated) - hidden(packed)).abs().amax(dim=1)[list(gated)].min() > 0.05


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_name_no_adapter_keep_their_bits(dtype: torch.dtype) -> None:
    """Beside rows that do, and whether an adapter is loaded or not."""
    bare, packed = pack(decoder(dtype=dtype)), pack(decoder(dtype=dtype, adapter=True))
    assert torch.equal(hidden(packed), hidden(bare))
    assert torch.equal(hidden(packed, gated=(20, 21, 22, 23))[:20], hidden(bare)[:20])


def test_packing_leaves_no_weight_behind() -> None:
    """Of a tied model the embedding is kept where it cannot be had of the packed head; of another always."""
    for config in (CONFIG, CONFIGS["tied"]):
        plain = decoder(config)
        kept = [layer.mlp.down_proj for layer in layers_of(plain)]
        pack(plain)
        assert all(projection.weight.device.type == "meta" for projection in kept)
        assert {name for name, _ in plain.named_parameters()} <= {
            "model.embed_tokens.weight", "model.norm.weight", "lm_head.rows",
        }  # fmt: skip


def test_adapters_come_before_packing() -> None:
    packed = pack(decoder())
    with pytest.raises(ValueError, match="'draft' has to be attached before the model's weights are packed"):
        attach(packed, "draft", low_rank(decoder()))


def test_rows_of_a_head_can_be_looked_up_where_a_coherence_head_needs_them() -> None:
    head = Coherence(torch.ones(4, 64), torch.ones(4, 64), torch.ones(64, 4))
    for config in (CONFIG, CONFIGS["tied"]):
        expected, model = decoder(config).lm_head.weight, decoder(config)
        model.coherence["draft"] = head
        ids = torch.arange(96)
        assert torch.equal(pack(model).lm_head.weight[ids], expected)
    with pytest.raises(ValueError, match="rows of a packed lm_head"):
        _ = pack(decoder()).lm_head.weight


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(1, 150), st.integers(1, 80), st.integers(0, 10**6))
@settings(max_examples=30)
def test_rows_of_a_packed_matrix(dtype: torch.dtype, count: int, width: int, seed: int) -> None:
    """Are those of the plain one, or cannot be had; what is packed of another matrix is noticed."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(count, width, generator=generator).to(dtype)
    packed = Prepacked(plain).packed
    ids = torch.randint(count, (2, 7), generator=generator)
    found = rows_of(packed, plain)
    if found is not None:
        assert torch.equal(found[ids], plain[ids])
        assert (found.dtype, found.device) == (plain.dtype, plain.device)
    other = plain.clone()
    other[count // 2, width // 2] += 1
    assert rows_of(packed, other) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [None, Int8])
def test_a_tied_embedding_stays_the_same(dtype: torch.dtype, form: type[Int8] | None) -> None:
    """Whether it is kept, or its rows are those of the packed head."""
    expected, model = decoder(CONFIGS["tied"], dtype).model.embed_tokens.weight, decoder(CONFIGS["tied"], dtype)
    pack(model) if form is None else pack(model, form)
    weight = model.model.embed_tokens.weight
    assert torch.equal(model.model.embed_tokens(torch.tensor(IDS)), expected[IDS])
    assert (weight.dtype, weight.device) == (dtype, CPU)
    if form is Int8:
        assert not isinstance(weight, PackedRows)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from Linux")
def test_a_cache_takes_memory_for_what_is_written() -> None:
    def resident() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    many = replace(CONFIG, layers=24)
    before = resident()
    cache = KVCache(many, 65536, torch.float32, CPU)  # 400 MB
    for layer in range(24):
        cache.write(layer, torch.tensor([0, 40000]), *(torch.ones(2, 2, 16) for _ in range(2)))
    assert resident() - before < 10 << 20
    assert float(cache.keys.sum()) == 24 * 2 * 2 * 16


def test_a_decoder_on_the_meta_device_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would import half of torch's compiler."""
    for name in ("kaiming_uniform_", "uniform_", "normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda *_, **__: pytest.fail("values were drawn"))
    with torch.device("meta"):
        made = Decoder(CONFIGS["biased"])
    assert all(parameter.is_meta for parameter in made.parameters())


def test_padded_sizes() -> None:
    for rows in range(1, 1200):
        assert rows <= padded_rows(rows) <= max(rows + 128, 1.34 * rows)
        assert rows <= padded_rows(rows, FEW_ROWS) < max(2 * rows, rows + 128)
        assert padded_rows(padded_rows(rows)) == padded_rows(rows)
    for keys in range(1, 3000):
        padded = padded_keys(keys)
        assert keys <= padded <= max(keys + 255, 128)
        assert padded % KEYS[-1] == 0 or padded % KEYS[-1] in KEYS
    assert list(ROWS) == sorted(set(ROWS))


@pytest.mark.parametrize(
    "way", ["flash", "tiles", *(pytest.param(way, marks=needs_bfloat16) for way in ("products", "mixed"))]
)
@given(
    st.integers(0, 1100),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.integers(0, 5),
    st.integers(0, 10**6),
)
@settings(max_examples=12)
def test_each_way_of_attention_equals_explicit_scores(
    way: Way, kept: int, counts: list[int], padding: int, seed: int
) -> None:
    """Segments of some rows with masks of any kind, adjacent slots and scattered ones, and padding rows behind."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if way in ("products", "mixed") else torch.float32
    cache = KVCache(CONFIG, 4096, dtype, CPU)
    rows = sum(counts) + padding
    q = torch.randn(rows, 6, 16, generator=generator).to(dtype)
    k, v = (torch.randn(rows, 2, 16, generator=generator).to(dtype) for _ in range(2))
    segments, slots, masks, first, free = list[Segment](), list[int](), [], 0, 0
    for i, count in enumerate(counts):
        keys = kept + count
        own = list(range(free, free + keys))
        if i % 2:
            own = [own[j] for j in torch.randperm(keys, generator=generator).tolist()]
        free += keys
        mask = torch.rand(count, keys, generator=generator).numpy() < 0.7
        mask[:, kept : kept + 1] = True
        whole = None if i == 2 else mask
        place = torch.tensor(own) if i % 2 else slice(own[0], own[0] + keys)
        segments.append(Segment(first, first + count, place, keys, whole))
        masks.append(np.ones_like(mask) if whole is None else mask)
        for tensor in (cache.keys, cache.values):
            tensor[0, own[:kept]] = torch.randn(kept, 2, 16, generator=generator).to(dtype)
        slots += own[kept:]
        first += count
    attend = PagedAttention(cache, segments, torch.tensor(slots), way)
    found = attend(0, q, k, v)
    assert found.shape == q.shape
    assert not found[rows - padding :].any()
    for segment, mask in zip(segments, masks, strict=True):
        keys_NGK, values_NGK = (tensor[0][segment.slots].double() for tensor in (cache.keys, cache.values))
        scores = torch.einsum("qgsk,ngk->gsqn", q[segment.first : segment.last].double().unflatten(1, (2, 3)), keys_NGK)
        weights = (scores / 4).masked_fill(~torch.from_numpy(mask), -torch.inf).softmax(dim=-1)
        expected = torch.einsum("gsqn,ngk->qgsk", weights, values_NGK).flatten(1, 2)
        torch.testing.assert_close(
            found[segment.first : segment.last].double(),
            expected,
            rtol=0,
            atol=1e-5 if dtype == torch.float32 else 0.03,
        )


def read(run: Runner, spans: list[tuple[Span, int, range]]) -> list[tuple[Row, ...]]:
    jobs = [
        Job(
            Request((0,), 1), Plan((span,), (Read(0, tuple(range(len(span.tokens))), top=3, detail=True),)), kept, pages
        )
        for span, kept, pages in spans
    ]
    return run.run(jobs)


@pytest.mark.parametrize("form", ["packed", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_rows_have_the_same_bits_in_any_company(dtype: torch.dtype, form: str) -> None:
    """Chunks of any size, beside others or not, adapter on or off."""
    model = decoder(dtype=dtype, adapter=True)
    pack(model, Int8) if form == "int8" else pack(model)
    run = Runner(model, EngineConfig(page_size=16, exactness="exact"), 40)
    ids = tuple((11 * i + 5) % 96 for i in range(70))
    whole = read(run, [(Span(ids, 0), 0, range(10))])[0]
    for chunk in (1, 3, 17, 33):
        rows = list[Row]()
        for i, start in enumerate(range(0, 70, chunk)):
            part = Span(ids[start : start + chunk], start)
            mates = [
                (Span(ids[: 1 + (3 * j) % 19], 0, True, (), "draft"), 0, range(20 + 4 * j, 24 + 4 * j))
                for j in range(i % 3)
            ]
            rows += read(run, [(part, start, range(10)), *mates])[0]
        assert rows == list(whole)


def test_a_runner_of_packed_layers_reads_the_rows_of_plain_ones() -> None:
    """Padding rows change nothing: counts that no kernel size fits, several requests, adapters."""
    plain, packed = decoder(adapter=True), pack(decoder(adapter=True))
    config = EngineConfig(page_size=16)
    for counts in ((1,), (3,), (9, 1), (1, 1, 1), (5, 21, 33)):
        spans = [(Span(tuple(IDS[: counts[0]]), 0), 0, range(4))]
        for i, count in enumerate(counts[1:], 1):
            span = Span(tuple(IDS[:count]), 0, i == 1, (), "draft", (True,) * count)
            spans.append((span, 0, range(4 * i, 4 * i + 4)))
        expected, found = (read(Runner(model, config, 16), spans) for model in (plain, packed))
        for left, right in zip(expected, found, strict=True):
            assert [row.id for row in left] == [row.id for row in right]
            np.testing.assert_allclose([row.prob for row in left], [row.prob for row in right], rtol=1e-3)


def test_balanced_weights_compute_the_same_and_lose_less_in_8_bits() -> None:
    """A model some of whose channels are large after a norm, as real ones have."""

    def made() -> Decoder:
        model = decoder(adapter=True)
        for layer in layers_of(model):
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[::16] *= 24.0
            for projection in (layer.self_attn.q_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.self_attn.k_proj):
                projection.weight[:, ::16] /= 24.0
        return model

    expected, gated = made(), (3, 4, 5)
    found = balances(made(), IDS)
    assert set(found) == {
        *(f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.q_proj", "mlp.gate_proj")), "lm_head",
    }  # fmt: skip
    close(hidden(pack(made(), balances=found), gated=gated), hidden(expected, gated=gated))
    rows = hidden(expected)
    close(pack(made(), balances=found).logits(rows), expected.logits(rows))

    def error(model: Decoder) -> float:
        return float((hidden(model) - hidden(expected)).norm())

    assert error(pack(made(), Int8, balances=found)) < 0.5 * error(pack(made(), Int8))


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_factors_are_powers_of_two_that_bring_rows_and_weights_together(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, weight = torch.rand(16, generator=generator) * 100 + 0.1, torch.randn(8, 16, generator=generator)
    found = factors(rows, [weight[:3], weight[3:]])
    assert torch.equal(found.log2(), found.log2().round())
    ratio = (rows / found) / (weight.abs().amax(dim=0) * found)
    assert ratio.max() / ratio.min() <= 4.01
