"""Row-gated adapters: they act on the rows that name them, on no other, and leave as they came."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask.config import EngineConfig, ModelConfig
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.adapter import attach, detach
from unmask.model.decoder import Decoder
from unmask.model.peft import AdapterWeights
from unmask.types import Plan, Read, Request, Span

VOCAB = 50
CONFIG = ModelConfig(
    vocab_size=VOCAB, hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate_size=48, max_position=64
)
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
ALL = ATTENTION + MLP
PREFIX, BLOCK = Span((3, 1, 4, 1, 5), 0), Span((9, 2, 6), 5, full=True, sees=((0, 5),))
BLOCK_ALONE = Span((9, 2, 6), 0, full=True)


def decoder_of(dtype: torch.dtype = torch.float32) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1.0 if "embed" in name else 2 / parameter.shape[1] ** 0.5)
    return decoder.to(dtype)


def adapter_of(decoder: Decoder, *parts: str, seed: int = 1, mask_embedding: bool = False) -> AdapterWeights:
    """A random adapter of rank 4 on the named projections of both layers."""
    random = torch.Generator().manual_seed(seed)
    matrices: dict[str, tuple[Tensor, Tensor]] = {}
    for name, projection in decoder.projections().items():
        if name.endswith(parts):
            outputs, inputs = projection.weight.shape
            a = torch.randn(4, inputs, generator=random) / inputs**0.5
            matrices[name] = a, torch.randn(outputs, 4, generator=random) / 2
    embedding = torch.randn(CONFIG.hidden_size, generator=random) if mask_embedding else None
    return AdapterWeights(4, 0.5, matrices, embedding)


def run(decoder: Decoder, *plans: list[Span], exact: bool = False) -> list[Tensor]:
    """Log-probabilities of every id at every row of each plan, all of them in one forward."""
    runner = Runner(decoder, EngineConfig(page_size=16, exactness="exact" if exact else "fast"), 4 * len(plans))
    jobs = []
    for i, spans in enumerate(plans):
        reads = tuple(Read(k, tuple(range(len(span.tokens))), top=VOCAB) for k, span in enumerate(spans))
        jobs.append(Job(Request((0,), 1), Plan(tuple(spans), reads), 0, range(4 * i, 4 * i + 4)))
    return [torch.tensor([[log for _, log in sorted(row.top)] for row in rows]) for rows in runner.run(jobs)]


def one(decoder: Decoder, *spans: Span, exact: bool = False) -> Tensor:
    return run(decoder, list(spans), exact=exact)[0]


def merged(decoder: Decoder, weights: AdapterWeights) -> Decoder:
    other = decoder_of()
    for name, (a, b) in weights.matrices.items():
        other.projections()[name].weight.data += weights.scale * b @ a
    return other


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("parts", [*((part,) for part in ALL), ALL])
def test_each_projection_is_adapted(parts: tuple[str, ...]) -> None:
    decoder = decoder_of()
    plain, weights = one(decoder, BLOCK_ALONE), adapter_of(decoder, *parts)
    assert len(weights.matrices) == 2 * len(parts)
    attach(decoder, "draft", weights)
    found = one(decoder, replace(BLOCK_ALONE, adapter="draft"))
    close(found, one(merged(decoder, weights), BLOCK_ALONE))
    assert (found - plain).abs().max() > 0.05


def test_rows_choose_their_adapter() -> None:
    """Two adapters and none, for three requests in one forward, each as if it were alone."""
    decoder = decoder_of()
    first, second = adapter_of(decoder, *ALL, seed=1), adapter_of(decoder, "o_proj", "up_proj", seed=2)
    attach(decoder, "first", first)
    attach(decoder, "second", second)
    spans = [replace(BLOCK_ALONE, adapter=name) for name in ("second", None, "first")]
    found = run(decoder, *([span] for span in spans))
    for rows, model in zip(found, (merged(decoder, second), decoder_of(), merged(decoder, first)), strict=True):
        close(rows, one(model, BLOCK_ALONE))
    assert torch.equal(one(decoder, replace(BLOCK_ALONE, adapter="unknown")), one(decoder, BLOCK_ALONE))


def test_rows_that_name_no_adapter_keep_their_bits() -> None:
    decoder = decoder_of()
    before = one(decoder, PREFIX, BLOCK)
    attach(decoder, "draft", adapter_of(decoder, *ALL, mask_embedding=True))
    assert torch.equal(one(decoder, PREFIX, BLOCK), before)
    gated = one(decoder, PREFIX, replace(BLOCK, adapter="draft", masked=(True, False, True)))
    assert torch.equal(gated[:5], before[:5])
    assert (gated[5:] - before[5:]).abs().amax(dim=1).min() > 0.05
    detach(decoder, "draft")
    assert torch.equal(one(decoder, PREFIX, replace(BLOCK, adapter="draft", masked=(True,) * 3)), before)
    assert not any(projection.adapters for projection in decoder.projections().values())
    assert decoder.mask_embeddings == {}
    detach(decoder, "draft")


def test_a_mask_embedding_stands_in_for_masked_rows_of_its_adapter() -> None:
    decoder = decoder_of()
    weights = adapter_of(decoder, mask_embedding=True)
    assert not weights.matrices
    assert weights.mask_embedding is not None
    attach(decoder, "draft", weights)
    other = decoder_of()
    other.model.embed_tokens.weight.data[49] = weights.mask_embedding
    masked = Span((9, 7, 9), 0, full=True, adapter="draft", masked=(True, False, False))
    close(one(decoder, masked), one(other, Span((49, 7, 9), 0, full=True)))
    # the id of a masked row does not matter, and rows without the adapter are never unknown to it
    assert torch.equal(one(decoder, replace(masked, tokens=(0, 7, 9))), one(decoder, masked))
    base = one(decoder_of(), Span((9, 7, 9), 0, full=True))
    assert torch.equal(one(decoder, replace(masked, adapter=None)), base)
    assert torch.equal(one(decoder, replace(masked, masked=())), base)


def test_attaching_again_replaces() -> None:
    decoder = decoder_of()
    attach(decoder, "draft", adapter_of(decoder, *ALL, seed=1, mask_embedding=True))
    second = adapter_of(decoder, "o_proj", seed=2)
    attach(decoder, "draft", second)
    span = replace(BLOCK_ALONE, adapter="draft", masked=(True,) * 3)
    close(one(decoder, span), one(merged(decoder, second), BLOCK_ALONE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.layers.2.self_attn.o_proj": (4, 64, 32)}, r"'draft' targets 'model.layers.2.self_attn.o_proj', which"),
        ({"model.norm": (4, 32, 32)}, "targets 'model.norm', which this model does not have"),
        (
            {"model.layers.1.mlp.down_proj": (4, 32, 48)},
            r"'model.layers.1.mlp.down_proj' \[32, 48\] and the adapter's matrices \[4, 32\] and \[48, 4\] do not fit",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(changes: dict[str, tuple[int, int, int]], message: str) -> None:
    decoder = decoder_of()
    good = adapter_of(decoder, *ALL, mask_embedding=True)
    attach(decoder, "draft", good)
    before = one(decoder, replace(BLOCK_ALONE, adapter="draft"))
    made = {name: (torch.ones(r, inputs), torch.ones(outputs, r)) for name, (r, inputs, outputs) in changes.items()}
    with pytest.raises(ValueError, match=message) as caught:
        attach(decoder, "draft", replace(good, matrices=adapter_of(decoder, "o_proj", seed=3).matrices | made))
    assert "\n" not in str(caught.value)
    assert torch.equal(one(decoder, replace(BLOCK_ALONE, adapter="draft")), before)


def test_an_adapter_takes_the_models_dtype() -> None:
    decoder = decoder_of(torch.bfloat16)
    weights = adapter_of(decoder, "o_proj", mask_embedding=True)
    attach(decoder, "draft", weights)
    (found,) = {p.dtype for m in decoder.projections().values() for low in m.adapters.values() for p in (low.a, low.b)}
    assert found == torch.bfloat16
    span = replace(BLOCK_ALONE, adapter="draft", masked=(False, True, True))
    precise = decoder_of()
    attach(precise, "draft", weights)
    torch.testing.assert_close(one(decoder, span), one(precise, span), rtol=0, atol=0.5)


@pytest.mark.parametrize("every", [1, 2, 100])  # which requests have the adapter: all, some, the first
def test_exact_rows_depend_on_no_row_beside_them(every: int) -> None:
    decoder = decoder_of()
    attach(decoder, "draft", adapter_of(decoder, *ALL, mask_embedding=True))
    names = ["draft" if i % every == 0 else None for i in range(30)]
    plans = [[Span((i, i + 1, 7)[: 1 + i % 3], 0, full=True, adapter=name)] for i, name in enumerate(names)]
    together = run(decoder, *plans, exact=True)
    for spans, rows in zip(plans, together, strict=True):
        assert torch.equal(one(decoder, *spans, exact=True), rows)
