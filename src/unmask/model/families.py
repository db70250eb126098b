"""What the supported families of checkpoints call things: settings, tensor names, tensor shapes.

A Hugging Face config.json becomes a ModelConfig and Traits; whatever would change the maths and is not implemented is
refused by name, never ignored. Plain values only: no tensors here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from unmask.config import ModelConfig, Rope
from unmask.types import Traits

Raw = Mapping[str, Any]
NLD = "nemotron_labs_diffusion"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WRAPPER = "mistral3"  # a vision-language config around a mistral or ministral3 `text_config`

# What a config means by leaving a key out: the defaults of transformers 5.24's config classes, held to them by a test.
# An explicit null is not an absent key. Sizes have no default here; Nemotron-Labs-Diffusion files carry every key.
_COMMON = {"hidden_act": "silu", "rms_norm_eps": 1e-6}
_MISTRAL = _COMMON | {"num_key_value_heads": 8, "bos_token_id": 1, "eos_token_id": 2}
_QWEN = _COMMON | {"num_key_value_heads": 32, "max_position_embeddings": 32768}
_QWEN |= {"sliding_window": 4096, "max_window_layers": 28}
_MINISTRAL_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _COMMON | {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": _MISTRAL | {"max_position_embeddings": 131072, "sliding_window": 4096},
    "ministral3": _MISTRAL
    | {"max_position_embeddings": 262144, "head_dim": 128, "rms_norm_eps": 1e-5, "rope_parameters": _MINISTRAL_ROPE},
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128},
    NLD: {"hidden_act": "silu"},
}
FAMILIES = tuple(_DEFAULTS)

# Settings of other decoders that end up in such configs, and the values under which they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (),
    "residual_multiplier": (1,),
    "embedding_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "clip_qkv": (),
    "alibi": (False,),
    "num_experts": (0,),
    "num_local_experts": (0,),
}
_BIASED = {"attention_bias": ("llama", "qwen2", "qwen3"), "mlp_bias": ("llama",)}


def config_from_hf(config: Raw, generation: Raw | None = None) -> tuple[ModelConfig, Traits]:
    """Read a parsed config.json (and generation_config.json), in the spelling of transformers 4 or 5.

    Of a mistral3 wrapper the `text_config` is read. Where a sliding window is active, max_position is cut to the
    window: up to there the two kinds of attention are the same. Stop ids are those of both files.
    Raises ValueError for an unknown model_type, a missing or ill-typed key, or a setting that is not implemented.
    Source: the config classes of transformers 5.24; for Nemotron-Labs-Diffusion its published config.json.
    """
    outer = config
    if config.get("model_type") == WRAPPER:
        config = config.get("text_config") or {}
    family = config.get("model_type")
    if family not in _DEFAULTS:
        raise ValueError(f"model_type {family!r} is not supported; supported: {', '.join(FAMILIES)}")
    raw = {**_DEFAULTS[family], **config}
    _refuse_unsupported(raw, outer)
    hidden, heads = integer(raw, "hidden_size"), integer(raw, "num_attention_heads")
    if raw.get("head_dim") is None and hidden % max(heads, 1):
        raise ValueError(f"hidden_size {hidden} is no multiple of num_attention_heads {heads}, and head_dim is not set")
    max_position, window = integer(raw, "max_position_embeddings"), _window(raw)
    rope, query_scale = _rope(raw)
    result = ModelConfig(
        vocab_size=integer(raw, "vocab_size"),
        hidden_size=hidden,
        layers=integer(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=integer(raw, "num_key_value_heads", heads),
        head_dim=integer(raw, "head_dim", hidden // max(heads, 1)),
        intermediate_size=integer(raw, "intermediate_size"),
        max_position=min(max_position, window) if window else max_position,
        rope=rope,
        norm_eps=number(raw, "rms_norm_eps"),
        # in transformers the wrapper's own flag counts, where it has one
        tied=bool(outer.get("tie_word_embeddings", raw.get("tie_word_embeddings", False))),
        qkv_bias=bool(raw.get("attention_bias")) or family == "qwen2",
        o_bias=bool(raw.get("attention_bias")) and family != "qwen2",
        mlp_bias=bool(raw.get("mlp_bias")),
        qk_norm=family == "qwen3",
        query_scale=query_scale,
        stop_ids=tuple(dict.fromkeys(token_ids(raw, "eos_token_id") + token_ids(generation or {}, "eos_token_id"))),
        bos_id=next(iter(token_ids(raw, "bos_token_id")), None),
    )
    mask_id = raw.get("mask_token_id")
    given: dict[str, Any] = {"mask_id": None if mask_id == -1 else mask_id}
    given |= {"trained": given["mask_id"] is not None}  # no other decoder has that key
    given |= {"block_size": raw["block_size"]} if raw.get("block_size") is not None else {}
    ours = outer.get("unmask") or {}
    if not isinstance(ours, Mapping):
        raise ValueError(f"'unmask' must be an object, got {ours!r}")
    return result, traits_from({**given, **ours}, result.vocab_size)


def traits_from(values: Raw, vocab_size: int) -> Traits:
    """Traits from the `unmask` object of a config.json, keyed by field name.

    Raises ValueError for an unknown key, and for a value that the key cannot have. Keys left out have their default.
    """
    for key, value in values.items():  # types; which values are allowed is Traits' own business
        if key not in _TRAIT_TYPES:
            raise ValueError(f"unknown key {key!r} in 'unmask'; known: {', '.join(_TRAIT_TYPES)}")
        kind, meaning = _TRAIT_TYPES[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"'unmask' or the config has {key} = {value!r}; allowed: {meaning}")
    traits = Traits(**values)
    for name, token in (("mask id", traits.mask_id), ("gap_end", traits.gap_end)):
        if token is not None and not 0 <= token < vocab_size:
            raise ValueError(f"{name} {token} is no token; allowed: 0 to {vocab_size - 1}, or null")
    return traits


_TRAIT_TYPES: dict[str, tuple[Any, str]] = {
    "mask_id": (int | None, "a token id, or null"),
    "trained": (bool, "true or false"),
    "block_size": (int, "an integer of at least 1"),
    "draft_block_size": (int | None, "an integer of at least 1, or null"),
    "seed": (str, "'block', 'causal' or 'copy'"),
    "context": (str, "'causal' or 'block'"),
    "shift": (bool, "true or false"),
    "draft_adapter": (str | None, "the name of an adapter, or null"),
    "denoise_adapter": (str | None, "the name of an adapter, or null"),
    "gap_end": (int | None, "a token id, or null"),
    "gap_room": (int, "an integer"),
    "gap_causal": (bool, "true or false"),
    "gap_adapter": (str | None, "the name of an adapter, or null"),
}


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of such a model by canonical name, in the model's order. Linear weights are (out, in)."""
    h, inner = config.hidden_size, config.intermediate_size
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (h,),
        "self_attn.q_proj.weight": (q, h),
        "self_attn.k_proj.weight": (kv, h),
        "self_attn.v_proj.weight": (kv, h),
        "self_attn.o_proj.weight": (h, q),
        "post_attention_layernorm.weight": (h,),
        "mlp.gate_proj.weight": (inner, h),
        "mlp.up_proj.weight": (inner, h),
        "mlp.down_proj.weight": (h, inner),
    }
    if config.qkv_bias:
        layer |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)}
    if config.o_bias:
        layer |= {"self_attn.o_proj.bias": (h,)}
    if config.mlp_bias:
        layer |= {"mlp.gate_proj.bias": (inner,), "mlp.up_proj.bias": (inner,), "mlp.down_proj.bias": (h,)}
    if config.qk_norm:
        layer |= {"self_attn.q_norm.weight": (config.head_dim,), "self_attn.k_norm.weight": (config.head_dim,)}
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, h)}
    shapes |= {f"model.layers.{n}.{name}": shape for n in range(config.layers) for name, shape in layer.items()}
    shapes["model.norm.weight"] = (h,)
    return shapes if config.tied else shapes | {HEAD: (config.vocab_size, h)}


_PREFIXES = {
    "encoder.": "model.",
    "diffusion_head.": "lm_head.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}


def canonical_name(model_type: str, name: str) -> str | None:
    """Our name of a tensor in a safetensors file; None: it carries nothing that the text decoder needs.

    model_type: as written at the top of config.json. Unknown names come back unchanged, for a strict loader to refuse.
    """
    if name.endswith("rotary_emb.inv_freq"):
        return None
    if model_type not in (NLD, WRAPPER):
        return name
    if name.removeprefix("model.").startswith(("vision_tower.", "multi_modal_projector.")):
        return None
    if model_type == NLD and name.startswith("base_model."):  # an adapter's tensors beside the weights
        return None
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return _PREFIXES.get(prefix, "") + name.removeprefix(prefix)


def _rope(raw: Raw) -> tuple[Rope, tuple[float, int] | None]:
    """Rope, and the query scale that ships among its settings. Formulas: transformers' modeling_rope_utils."""
    family = raw["model_type"]
    # transformers prefers the old key where there are two; Nemotron-Labs-Diffusion's old key only mirrors the new one
    keys = ("rope_parameters", "rope_scaling") if family == NLD else ("rope_scaling", "rope_parameters")
    given: Any = next((raw[key] for key in keys if raw.get(key)), {})
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise ValueError(f"rope settings must be one flat object for all layers, got {given!r}")
    if given.get("partial_rotary_factor") not in (None, 1):
        raise ValueError(f"partial_rotary_factor = {given['partial_rotary_factor']} is not supported; supported: 1")
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise ValueError(f"rope type {kind!r} is not supported; supported: default, linear, llama3, yarn")
    theta = number(given, "rope_theta", number(raw, "rope_theta", 10_000.0))
    max_position = integer(raw, "max_position_embeddings")
    original = integer(given, "original_max_position_embeddings", max_position)
    original = integer(raw, "original_max_position_embeddings", original)
    beta = number(given, "llama_4_scaling_beta", 0.0)
    if beta and family not in ("ministral3", NLD):
        raise ValueError(f"llama_4_scaling_beta = {beta} is not supported for model_type {family!r}")
    query_scale = (beta, original) if beta else None
    if kind == "default":
        return Rope(theta=theta), query_scale
    implied = max_position / original
    factor = number(given, "factor", implied if kind == "yarn" else None)
    if factor <= 0:
        raise ValueError(f"rope factor must be above 0, got {factor}")
    if kind == "linear":
        return Rope(theta=theta, kind="linear", factor=factor), query_scale
    if kind == "llama3":
        low, high = number(given, "low_freq_factor"), number(given, "high_freq_factor")
        bands = {"low_freq_factor": low, "high_freq_factor": high}
        return Rope(theta=theta, kind="llama3", factor=factor, original_max_position=original, **bands), query_scale
    if given.get("truncate") not in (None, True):
        raise ValueError("rope setting truncate = false (YaRN with an unrounded range) is not supported")
    if family == NLD and factor != implied:
        warnings.warn(
            f"rope factor {factor:g} is not max_position_embeddings / original_max_position_embeddings ="
            f" {implied:g}; it is used as the checkpoint has it",
            stacklevel=3,
        )
    mscale, all_dim = number(given, "mscale", 0.0), number(given, "mscale_all_dim", 0.0)
    temperature = _mscale(factor, mscale) / _mscale(factor, all_dim) if mscale and all_dim else _mscale(factor, 1.0)
    return Rope(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_max_position=original,
        beta_fast=number(given, "beta_fast", 32.0) or 32.0,
        beta_slow=number(given, "beta_slow", 1.0) or 1.0,
        attention_factor=number(given, "attention_factor", temperature),
    ), query_scale


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _window(raw: Raw) -> int | None:
    """The sliding window where any layer has one. Llama has none, whatever its config says; Qwen's needs a switch."""
    if raw["model_type"] == "llama" or raw.get("sliding_window") is None:
        return None
    if raw["model_type"] in ("qwen2", "qwen3"):
        kinds = raw.get("layer_types") or ()
        full = integer(raw, "max_window_layers")
        slides = "sliding_attention" in kinds if kinds else full < integer(raw, "num_hidden_layers")
        if not (raw.get("use_sliding_window") and slides):
            return None
    return integer(raw, "sliding_window")


def _refuse_unsupported(raw: Raw, outer: Raw) -> None:
    for key, neutral in _NEUTRAL.items():
        if raw.get(key) is not None and raw[key] not in neutral:
            hint = f"; supported: {', '.join(map(str, neutral))}" if neutral else ""
            raise ValueError(f"{key} = {raw[key]!r} is not supported{hint}")
    if quantized := raw.get("quantization_config") or outer.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
        raise ValueError(f"weights quantized with {method!r} are not supported; take a bfloat16 folder or a .gguf file")
    for key, families in _BIASED.items():
        if raw.get(key) and raw["model_type"] not in families:
            raise ValueError(f"{key} = {raw[key]!r} is not supported for model_type {raw['model_type']!r}")
    for kind in raw.get("layer_types") or ():
        if kind not in ("full_attention", "sliding_attention"):
            raise ValueError(f"layer type {kind!r} is not supported; supported: full_attention, sliding_attention")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(raw: Raw, key: str, default: int | None = None) -> int:
    """raw[key]; the default where it is absent or null. ValueError if it is no integer, or missing without default."""
    value = default if raw.get(key) is None else raw[key]
    if not _is_integer(value):
        raise ValueError(f"the config has no {key}" if value is None else f"{key} must be an integer, got {value!r}")
    return int(value)  # type: ignore[arg-type]


def number(raw: Raw, key: str, default: float | None = None) -> float:
    """As `integer`, for a float."""
    value = default if raw.get(key) is None else raw[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the config has no {key}" if value is None else f"{key} must be a number, got {value!r}")
    return float(value)


def token_ids(raw: Raw, key: str) -> tuple[int, ...]:
    """The id or ids under a key, () where it is absent or null."""
    value = raw.get(key)
    values = () if value is None else value if isinstance(value, list | tuple) else (value,)
    if not all(_is_integer(item) for item in values):
        raise ValueError(f"{key} must be a token id or a list of them, got {value!r}")
    return tuple(values)
