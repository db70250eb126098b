"""The decoder against transformers: the same weights give the same logits, dense and paged, causal and full."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unmask.config import EngineConfig
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.attention import dense_attend
from unmask.model.checkpoint import load_into, open_checkpoint
from unmask.model.decoder import Batch, Decoder, steady_silu
from unmask.types import Ids, Plan, Read, Request, Span

VOCAB, LENGTH, PREFIX, PAGE = 96, 44, 33, 8
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA, QWEN2, QWEN3 = transformers.LlamaConfig, transformers.Qwen2Config, transformers.Qwen3Config
MISTRAL, MINISTRAL3 = transformers.MistralConfig, transformers.Ministral3Config
# Original contexts are short, so that LENGTH positions pass them. head_dim 32 makes the heads wider than the model.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 16}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LLAMA, {}),
    "llama-tied": (LLAMA, {"tie_word_embeddings": True}),
    "llama-biases": (LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "llama-one-key-head": (LLAMA, {"num_key_value_heads": 1, "head_dim": 32}),
    "llama-linear": (LLAMA, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama-3.1": (LLAMA, {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}}),
    "llama-yarn": (LLAMA, {"rope_parameters": YARN}),  # with YaRN's temperature
    "qwen2": (QWEN2, {}),
    "qwen2-tied": (QWEN2, {"tie_word_embeddings": True}),
    "qwen3": (QWEN3, {"head_dim": 32}),
    "mistral": (MISTRAL, {"head_dim": 32, "sliding_window": None}),
    "ministral3": (
        MINISTRAL3,
        {
            "head_dim": 32,
            "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
        },
    ),
}
IDS: Ids = tuple(np.random.default_rng(0).integers(0, VOCAB, LENGTH).tolist())


def model_of(kind: str) -> Any:
    """A transformers model of random weights, biases and norms, large enough for every one of them to matter."""
    config, settings = KINDS[kind]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**SIZES | settings), attn_implementation="eager")
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.dim() == 1 else 1.0 if "embed" in name else 1.5 / math.sqrt(parameter.shape[1])
        torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=scale)
    return model.eval()


def ours(model: Any, folder: Path) -> Decoder:
    """Our decoder, built on the meta device and loaded from what transformers saves."""
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint)
    assert {parameter.device.type for parameter in decoder.parameters()} == {"cpu"}
    assert sum(parameter.numel() for parameter in decoder.parameters()) == model.num_parameters()
    return decoder.eval()


@torch.no_grad()
def theirs(model: Any, mask: NDArray[np.bool_] | None = None) -> Tensor:
    """transformers' logits of IDS, causal or under a mask of our own."""
    hidden: Tensor | None = None
    if mask is not None:
        hidden = torch.zeros(1, 1, LENGTH, LENGTH, dtype=model.dtype)
        hidden.masked_fill_(~torch.from_numpy(mask), torch.finfo(model.dtype).min)
    return model(torch.tensor([IDS]), attention_mask=hidden, position_ids=torch.arange(LENGTH)[None]).logits[0]


@torch.no_grad()
def dense(decoder: Decoder, mask: NDArray[np.bool_]) -> Tensor:
    batch = Batch(torch.tensor(IDS), torch.arange(LENGTH), LENGTH - 1)
    return decoder.logits(decoder(batch, dense_attend(mask)))


def paged(runner: Runner, spans: Sequence[Span], kept: int) -> Tensor:
    """Log-probabilities of every id at every row, over pages in no order."""
    pages = [5, 2, 3, 0, 7, 6, 9, 1]
    reads = tuple(Read(i, tuple(range(len(span.tokens))), top=VOCAB) for i, span in enumerate(spans))
    (rows,) = runner.run([Job(Request((0,), 1), Plan(tuple(spans), reads), kept, pages)])
    return torch.tensor([[value for _, value in sorted(row.top)] for row in rows])


def runner_of(decoder: Decoder, exact: bool = False) -> Runner:
    return Runner(decoder, EngineConfig(page_size=PAGE, exactness="exact" if exact else "fast"), 10)


CAUSAL = np.tri(LENGTH, dtype=np.bool_)
BLOCK = CAUSAL.copy()
BLOCK[PREFIX:] = True


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_transformers(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    expected, decoder = theirs(model), ours(model, tmp_path)
    assert expected.std() > 0.5
    torch.testing.assert_close(dense(decoder, CAUSAL), expected, rtol=1e-5, atol=3e-5)
    logs = expected.log_softmax(dim=-1)
    for exact in (False, True):
        runner = runner_of(decoder, exact)
        torch.testing.assert_close(paged(runner, [Span(IDS, 0)], 0), logs, rtol=1e-5, atol=3e-5)
        singly = [paged(runner, [Span((token,), i)], i) for i, token in enumerate(IDS)]
        torch.testing.assert_close(torch.cat(singly), logs, rtol=1e-5, atol=3e-5)
    cuts = [0, 1, 10, 27, LENGTH]
    chunks = [paged(runner, [Span(IDS[a:b], a)], a) for a, b in pairwise(cuts)]
    torch.testing.assert_close(torch.cat(chunks), logs, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("kind", ["llama-biases", "llama-3.1", "qwen3", "ministral3"])
def test_a_full_block_after_a_causal_prefix_equals_transformers(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    expected, decoder = theirs(model, BLOCK), ours(model, tmp_path)
    torch.testing.assert_close(dense(decoder, BLOCK), expected, rtol=1e-5, atol=3e-5)
    logs = expected.log_softmax(dim=-1)
    assert (logs - theirs(model).log_softmax(dim=-1))[PREFIX:-1].abs().amax(dim=-1).min() > 0.05
    prefix, block = Span(IDS[:PREFIX], 0), Span(IDS[PREFIX:], PREFIX, full=True, sees=((0, PREFIX),))
    for exact in (False, True):
        runner = runner_of(decoder, exact)
        torch.testing.assert_close(paged(runner, [prefix, block], 0), logs, rtol=1e-5, atol=3e-5)
        alone = paged(runner, [Span(block.tokens, PREFIX, full=True)], PREFIX)
        torch.testing.assert_close(alone, logs[PREFIX:], rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "ministral3"])
def test_bfloat16_is_as_close_as_transformers_own(kind: str, tmp_path: Path) -> None:
    model = model_of(kind).to(torch.bfloat16)
    decoder, rounded = ours(model, tmp_path), theirs(model).float().log_softmax(dim=-1)
    assert decoder.model.embed_tokens.weight.dtype == torch.bfloat16
    found = paged(runner_of(decoder), [Span(IDS, 0)], 0)
    truth = theirs(model.float()).log_softmax(dim=-1)
    noise = (rounded - truth).square().mean().sqrt()
    assert 1e-3 < noise < 0.2
    assert (found - truth).square().mean().sqrt() < 1.3 * noise
    assert (found - rounded).square().mean().sqrt() < 1.8 * noise


def test_a_position_is_only_a_number(tmp_path: Path) -> None:
    """Rows carry their own positions: out of order in one batch they are what they are in order."""
    model = model_of("ministral3")
    decoder, order = ours(model, tmp_path), torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.tensor(IDS)[order], order, LENGTH - 1)
    with torch.no_grad():
        found = decoder.logits(decoder(batch, dense_attend(CAUSAL[order][:, order])))
    torch.testing.assert_close(found, theirs(model)[order], rtol=1e-5, atol=3e-5)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [48, 14336])
@pytest.mark.usefixtures("three_threads")
def test_a_steady_silu_does_not_depend_on_the_rows_beside(width: int) -> None:
    x = 3 * torch.randn(7, width, generator=torch.Generator().manual_seed(0))
    found = steady_silu(x)
    torch.testing.assert_close(found, F.silu(x))
    assert all(torch.equal(found[i : i + 1], steady_silu(x[i : i + 1].clone())) for i in range(7))


@pytest.mark.slow
def test_the_real_model_equals_transformers(smollm2_gguf: Path) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint)
    c = checkpoint.config
    settings = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        intermediate_size=c.intermediate_size,
        max_position_embeddings=c.max_position,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tied,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope.theta},
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(settings)
    load_into(model, checkpoint)
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)
    expected, found = theirs(model), dense(decoder, CAUSAL)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(found.argmax(dim=-1), expected.argmax(dim=-1))
