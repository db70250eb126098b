"""A model's settings back into the config.json that `unmask.model.families` and transformers read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from unmask.config import ModelConfig
from unmask.model.families import NLD, config_from_hf
from unmask.types import Traits

# Families that the published Nemotron-Labs-Diffusion layout is made for, and those that keep their own.
_PUBLISHED = ("mistral", "ministral3", "mistral3", NLD)
_ARCHITECTURES = {
    NLD: "NemotronLabsDiffusionModel",
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def target_family(model_type: str, config: ModelConfig) -> str:
    """The model_type that a trained model of such a source is written as; for GGUF it follows from the settings."""
    if model_type in _PUBLISHED or config.query_scale is not None:
        return NLD
    if model_type in _ARCHITECTURES:
        return model_type
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias and not config.o_bias else "llama"


def to_hf(config: ModelConfig, traits: Traits, family: str, dtype: str) -> dict[str, Any]:
    """The config.json of a model; family: one of `target_family`'s. dtype: of the weights, "bfloat16" for one.

    For Nemotron-Labs-Diffusion all keys of the published files but auto_map, which names code that we do not ship.
    Traits are under `unmask`, whatever the family. Raises ValueError where the file would not mean the same model.
    """
    published = family == NLD
    raw: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tied,
        "attention_bias": config.o_bias if not published else False,
        "mlp_bias": config.mlp_bias,
        "attention_dropout": 0.0,
        "sliding_window": None,
        "max_position_embeddings": config.max_position,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.stop_ids[0] if len(config.stop_ids) == 1 else list(config.stop_ids) or None,
        "torch_dtype": dtype,
        "use_cache": not published,
        **_rope(config),
    }
    if family == "qwen2":
        del raw["attention_bias"]  # its q, k and v always have one, and the key would say more
    if published:
        raw |= {
            "mask_token_id": -1 if traits.mask_id is None else traits.mask_id,
            "block_size": traits.block_size,
            "dlm_paradigm": "bidirectional",
            "ar_loss_weight": 1.0,
            "dlm_loss_weight": None,
            "dp_varying_mask_ratio": False,
            "attn_implementation": "sdpa",
            "transformers_version": "5.0.0",
        }
    raw["unmask"] = asdict(traits)
    found = config_from_hf(raw)
    if found != (config, traits):
        raise ValueError(f"a {family} config.json cannot say what this model is: {found[0]} is not {config}")
    return raw


def _rope(config: ModelConfig) -> dict[str, Any]:
    """Under the key of transformers 5, and under those of transformers 4 beside it."""
    rope = config.rope
    raw: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        raw["factor"] = rope.factor
    if rope.kind in ("yarn", "llama3"):
        raw["original_max_position_embeddings"] = rope.original_max_position
    if rope.kind == "llama3":
        raw |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        raw |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        neutral = {"mscale": 1.0, "mscale_all_dim": 1.0}  # as published; they cancel out
        raw |= neutral if rope.attention_factor == 1.0 else {"attention_factor": rope.attention_factor}
    if config.query_scale is not None:
        raw["llama_4_scaling_beta"], raw["original_max_position_embeddings"] = config.query_scale
    return {"rope_parameters": raw, "rope_theta": rope.theta, "rope_scaling": raw if len(raw) > 2 else None}
