"""A tiny random Nemotron-Labs-Diffusion checkpoint in its published layout, and what the tests of it share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from unmask import visibility
from unmask.config import EngineConfig
from unmask.engine.engine import Engine, Limits
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model import adapter
from unmask.model.attention import dense_attend
from unmask.model.checkpoint import load_into, open_checkpoint
from unmask.model.decoder import Batch, Decoder
from unmask.types import Ids, Plan, Read, Request, Span, Traits

VOCAB, MASK, EOS, LORA, PAGES = 257, 100, 11, "linear_spec_lora", 320
# The head prefers these by far, so that a random model drafts what it would decode about one time in four.
COMMON = (5, 6, 7, 8)
# Every key of the published config. Positions pass the original context early; the heads are wider than the model.
CONFIG: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "model_type": "nemotron_labs_diffusion",
    "auto_map": {
        "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
        "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
    },
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "max_position_embeddings": 256,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    "mask_token_id": MASK,
    "block_size": 32,
    "dlm_paradigm": "bidirectional",
    "ar_loss_weight": 1.0,
    "dlm_loss_weight": None,
    "dp_varying_mask_ratio": False,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "attn_implementation": "sdpa",
    "torch_dtype": "bfloat16",
    "transformers_version": "5.0.0",
    "use_cache": False,
}
RANK, ALPHA = 8, 32
ADAPTER_CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "nvidia/Nemotron-Labs-Diffusion-8B",
    "r": RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.0,
    "target_modules": ["o_proj"],
    "bias": "none",
    "inference_mode": True,
    "task_type": None,
}


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of such a model, under the published names."""
    h, inner, attention, kv = 64, 96, 4 * 32, 2 * 32
    shapes: dict[str, tuple[int, ...]] = {"encoder.embed_tokens.weight": (VOCAB, h)}
    for n in range(2):
        layer: dict[str, tuple[int, ...]] = {"input_layernorm": (h,), "post_attention_layernorm": (h,)}
        layer |= {"self_attn.q_proj": (attention, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h)}
        layer |= {"self_attn.o_proj": (h, attention), "mlp.gate_proj": (inner, h), "mlp.up_proj": (inner, h)}
        layer |= {"mlp.down_proj": (h, inner)}
        shapes |= {f"encoder.layers.{n}.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"encoder.norm.weight": (h,), "diffusion_head.weight": (VOCAB, h)}
    random = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=random) / math.sqrt(shape[-1]) for name, shape in shapes.items()}
    made = {name: t + 1 if t.dim() == 1 else 2 * t for name, t in made.items()}
    made["encoder.embed_tokens.weight"] *= 4
    made["diffusion_head.weight"][list(COMMON)] *= 4
    return made


def lora(seed: int = 1) -> dict[str, Tensor]:
    """Random adapter tensors, under the published names."""
    random = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for n in range(2):
        name = f"base_model.model.encoder.layers.{n}.self_attn.o_proj"
        made[f"{name}.lora_A.weight"] = torch.randn(RANK, 128, generator=random) / math.sqrt(128)
        made[f"{name}.lora_B.weight"] = torch.randn(64, RANK, generator=random) / math.sqrt(RANK)
    return made


def save(
    folder: Path, tensors: dict[str, Tensor] | None = None, adapter: dict[str, Tensor] | None = None, shards: int = 1
) -> Path:
    """Write the checkpoint: one file of weights, or an index and several."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS, "use_cache": False}))
    tensors = weights() if tensors is None else tensors
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
        for file in set(files.values()):
            save_file({n: t for n, t in tensors.items() if files[n] == file}, folder / file, {"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    if adapter is not None:
        (folder / LORA).mkdir(exist_ok=True)
        (folder / LORA / "adapter_config.json").write_text(json.dumps(ADAPTER_CONFIG))
        save_file(adapter, folder / LORA / "adapter_model.safetensors", {"format": "pt"})
    return folder


def loaded(folder: Path) -> tuple[Decoder, Traits]:
    """The decoder of a folder, its adapters attached."""
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint)
    for name in checkpoint.adapters:
        adapter.attach(decoder, name, checkpoint.adapter(name))
    return decoder.eval(), checkpoint.traits


def runner_of(decoder: Decoder, exact: bool = False) -> Runner:
    """A runner of many small pages."""
    return Runner(decoder, EngineConfig(page_size=8, exactness="exact" if exact else "fast"), PAGES)


def opened(folder: Path) -> tuple[Engine, Traits]:
    """An engine on the folder's decoder, and its traits. Every page that it frees is soon used again."""
    decoder, traits = loaded(folder)
    runner, config = runner_of(decoder), decoder.config
    return Engine(runner, PAGES, runner.config, Limits(config.vocab_size, config.max_position, (LORA,))), traits


def logprobs(runner: Runner, spans: Sequence[Span], kept: int = 0, pages: Sequence[int] = range(32)) -> Tensor:
    """log p of every id at every row of the plan, through the runner: float32 [rows, V]."""
    reads = tuple(Read(i, tuple(range(len(span.tokens))), top=VOCAB) for i, span in enumerate(spans))
    (rows,) = runner.run([Job(Request((0,), 1), Plan(tuple(spans), reads), kept, pages)])
    result = torch.empty(len(rows), VOCAB)
    for i, row in enumerate(rows):
        for token, value in row.top:
            result[i, token] = value
    return result


@torch.no_grad()
def dense(
    decoder: Decoder, tokens: Ids, mask: NDArray[np.bool_], positions: Sequence[int] = (), lora_rows: Sequence[int] = ()
) -> Tensor:
    """The same, without runner, pages or cache, under any mask over the rows themselves."""
    positions = positions or range(len(tokens))
    gates = {LORA: torch.tensor(lora_rows)} if lora_rows else {}
    batch = Batch(torch.tensor(tokens), torch.tensor(positions), max(positions), gates)
    return decoder.logits(decoder(batch, dense_attend(mask))).log_softmax(dim=-1)


def causal(decoder: Decoder, tokens: Ids) -> Tensor:
    """`dense` of plain AR."""
    return dense(decoder, tokens, np.tri(len(tokens), dtype=np.bool_))


def of_spans(decoder: Decoder, spans: Sequence[Span]) -> Tensor:
    """`dense` under the visibility of spans, as the training side computes them."""
    tokens = tuple(token for span in spans for token in span.tokens)
    positions = [span.start + i for span in spans for i in range(len(span.tokens))]
    starts = visibility.offsets(spans)
    gated = [starts[i] + r for i, span in enumerate(spans) if span.adapter for r in range(len(span.tokens))]
    return dense(decoder, tokens, visibility.mask(spans), positions, gated)


def ids(count: int, seed: int = 0) -> Ids:
    """Random token ids."""
    return tuple(np.random.default_rng(seed).integers(0, VOCAB, count).tolist())
