"""GGUF files as models: settings, canonical names, and tensors dequantised one at a time from a memory map.

Dequantisation is the gguf package's; what is undone here is llama.cpp's row order of Q and K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from unmask.config import ModelConfig
from unmask.model.families import EMBEDDING, HEAD, config_from_hf, integer, token_ids
from unmask.model.gguf_header import Header, Stored, read_header
from unmask.types import Traits

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"
# Values that are dequantised at a time: the package needs several times their memory.
PART = 1 << 20
# Whose converters reorder the rows of Q and K for interleaved RoPE. Mistral is exported as llama too.
_PERMUTED = ("llama",)

_GLOBAL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def canonical_name(name: str) -> str:
    """Our name of a tensor of a GGUF file; unknown names come back unchanged, for a strict loader to refuse."""
    stem, _, kind = name.rpartition(".")
    if stem in _GLOBAL:
        return f"{_GLOBAL[stem]}.{kind}"
    block, _, part = stem.removeprefix("blk.").partition(".")
    return f"model.layers.{block}.{_LAYER[part]}.{kind}" if stem.startswith("blk.") and part in _LAYER else name


def stored_shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by canonical name, as `read_tensors` will yield them."""
    return {canonical_name(name): stored.shape for name, stored in header.tensors.items() if name != ROPE_FACTORS}


def read_metadata(path: Path) -> dict[str, Any]:
    """All key-value pairs of a GGUF file as plain Python values; vocabulary and merges are lists of str.

    Raises as `read_header`.
    """
    return read_header(path).metadata


def read_tensors(path: Path, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor as (canonical name, values in torch's layout), dequantised when its turn comes, in file order.

    dtype: what the float32 values are rounded to. Q and K rows of architectures whose converter interleaves them are
    put back for rotate-half RoPE. Raises as `read_header`, and ValueError for a type that gguf cannot dequantise.
    """
    header = read_header(path)
    arch = header.metadata.get("general.architecture")
    heads: dict[str, int] = {}
    if arch in _PERMUTED:
        heads["self_attn.q_proj"] = integer(header.metadata, f"{arch}.attention.head_count")
        kv_heads = integer(header.metadata, f"{arch}.attention.head_count_kv", heads["self_attn.q_proj"])
        heads["self_attn.k_proj"] = kv_heads
    for theirs, stored in header.tensors.items():
        if theirs == ROPE_FACTORS:
            continue
        name, values = canonical_name(theirs), _dequantize(path, theirs, stored, dtype)
        if count := next((count for part, count in heads.items() if part in name), None):
            values = _rotate_half_rows(values, count)
        yield name, values


def read_config(path: Path) -> tuple[ModelConfig, Traits]:
    """Settings of the model in a GGUF file. Raises as `read_header` and `config_from_gguf`."""
    header = read_header(path)
    stored = header.tensors.get(ROPE_FACTORS)
    factors = _dequantize(path, ROPE_FACTORS, stored).tolist() if stored else ()
    try:
        return config_from_gguf(header.metadata, stored_shapes(header), factors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_from_gguf(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], rope_factors: Sequence[float] = ()
) -> tuple[ModelConfig, Traits]:
    """Read a GGUF header of architecture llama (which Mistral is exported as), qwen2 or qwen3.

    shapes: of the tensors by canonical name; they alone tell vocabulary, biases and whether the head is tied.
    rope_factors: contents of the `rope_freqs.weight` tensor where there is one (Llama 3.1 and later).
    Raises ValueError for another architecture, or a setting that is not implemented.
    """
    arch = metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise ValueError(f"GGUF architecture {arch!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    if EMBEDDING not in shapes:
        raise ValueError("the file has no token_embd.weight tensor")
    settings = {key.removeprefix(f"{arch}."): v for key, v in metadata.items() if key.startswith(f"{arch}.")}
    if missing := next((key for key in _SETTINGS if key not in settings and key not in _OPTIONAL), None):
        raise ValueError(f"the file has no {arch}.{missing}")
    raw = {ours: settings.get(theirs) for theirs, ours in _SETTINGS.items()}
    raw |= {"model_type": arch, "vocab_size": shapes[EMBEDDING][0], "tie_word_embeddings": HEAD not in shapes}
    raw["rope_parameters"] = _rope_parameters(settings, raw, rope_factors)
    raw["eos_token_id"] = [i for end in ("eos", "eot", "eom") for i in token_ids(metadata, _TOKEN.format(end))]
    raw["bos_token_id"], raw["mask_token_id"] = (metadata.get(_TOKEN.format(kind)) for kind in ("bos", "mask"))
    raw["unmask"] = {"trained": False}  # a mask id is any vocabulary's here
    config, traits = config_from_hf(raw)
    neutral = _NEUTRAL | dict.fromkeys(("rope.dimension_count", "attention.value_length"), config.head_dim)
    for key, value in settings.items():
        if key not in _SETTINGS and key not in _READ and neutral.get(key) != value:
            raise ValueError(f"GGUF setting {arch}.{key} = {value!r} is not supported")
    window = integer(settings, "attention.sliding_window", 0) or config.max_position
    return replace(
        config,
        max_position=min(config.max_position, window),
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in shapes,
        o_bias="model.layers.0.self_attn.o_proj.bias" in shapes,
        mlp_bias="model.layers.0.mlp.down_proj.bias" in shapes,
    ), traits


_TOKEN = "tokenizer.ggml.{}_token_id"
_SETTINGS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_OPTIONAL = ("attention.head_count_kv", "attention.key_length")
_ROPE = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
# Settings read elsewhere, or without meaning for the maths; all others must have their neutral value.
_READ = {*_ROPE, "rope.freq_base", "rope.scaling.type", "rope.scaling.finetuned", "attention.sliding_window"}
_READ |= {"vocab_size", "tensor_data_layout"}
_NEUTRAL: dict[str, Any] = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scale_linear": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
}


def _rope_parameters(settings: Mapping[str, Any], raw: Mapping[str, Any], factors: Sequence[float]) -> dict[str, Any]:
    theta = settings.get("rope.freq_base", 10_000.0)
    if any(factor != 1 for factor in factors):
        head_dim = integer(raw, "head_dim", integer(raw, "hidden_size") // integer(raw, "num_attention_heads"))
        return {"rope_theta": theta} | _llama3_parameters(factors, theta, head_dim)
    # llama.cpp takes a factor without a type for a linear one, and a factor of 0 for none
    kind = settings.get("rope.scaling.type", "linear") if settings.get("rope.scaling.factor") else "none"
    if kind == "none":
        return {"rope_theta": theta}
    return {"rope_theta": theta, "rope_type": kind} | {ours: settings.get(theirs) for theirs, ours in _ROPE.items()}


def _llama3_parameters(factors: Sequence[float], theta: float, head_dim: int) -> dict[str, Any]:
    """The Llama 3.1 settings behind these frequency divisors: the file has the divisors, not the settings."""
    low, high, original, factor = 1.0, 4.0, 8192, round(max(factors), 3)

    def divisor(j: int) -> float:
        rotations = original * theta ** (-2 * j / head_dim) / (2 * math.pi)  # within the original context
        smooth = min(max((rotations - low) / (high - low), 0.0), 1.0)
        return float(1 / ((1 - smooth) / factor + smooth))

    expected = [divisor(j) for j in range(head_dim // 2)]
    if len(factors) != len(expected) or not np.allclose(factors, expected, rtol=1e-4):
        raise ValueError(f"{ROPE_FACTORS} holds other frequencies than Llama 3.1's; that is not supported")
    bands = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original}
    return {"rope_type": "llama3", "factor": factor} | bands


def _dequantize(path: Path, name: str, stored: Stored, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values of the stored shape, in memory of their own. Of the float32 values only a part exists at a time."""
    raw = np.memmap(path, np.uint8, "r", stored.offset, gguf.quant_shape_to_byte_shape(stored.shape, stored.kind))
    rows, whole = raw.reshape(-1, raw.shape[-1]), torch.empty(stored.shape, dtype=dtype)
    flat = whole.view(len(rows), -1)
    step = max(PART // flat.shape[1], 1)
    for first in range(0, len(rows), step):
        try:
            values = gguf.dequantize(rows[first : first + step], stored.kind)
        except NotImplementedError as error:
            raise ValueError(
                f"{path}: tensor {name} has type {stored.kind.name}, which cannot be dequantised"
            ) from error
        flat[first : first + step] = torch.from_numpy(np.require(values, np.float32, ["C", "W", "E"]))
    return whole


def _rotate_half_rows(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's reordering: within each head, rows (0, 1, 2, 3, ...) were (0, d/2, 1, d/2 + 1, ...)."""
    pairs = values.view(heads, -1, 2, *values.shape[1:])
    return pairs.transpose(1, 2).reshape(values.shape)
