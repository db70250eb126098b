"""Configs, names and shapes, held against transformers' own config classes and models."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from unmask.config import ModelConfig, Rope
from unmask.model.families import FAMILIES, NLD, canonical_name, config_from_hf, tensor_shapes
from unmask.types import Traits

CLASSES: dict[str, Any] = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "ministral3": transformers.Ministral3Config,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
}
NLD_8B: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "model_type": NLD,
    "hidden_size": 4096,
    "num_hidden_layers": 34,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "vocab_size": 131072,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "max_position_embeddings": 262144,
    "rope_parameters": YARN
    | {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
    "mask_token_id": 100,
    "block_size": 32,
    "dlm_paradigm": "bidirectional",
    "bos_token_id": 1,
    "eos_token_id": 11,
}


def tiny(family: str = "llama", **changes: Any) -> dict[str, Any]:
    return SIZES | {"model_type": family, "max_position_embeddings": 512, "rms_norm_eps": 1e-5} | changes


def saved(config: Any) -> dict[str, Any]:
    """config.json as transformers writes it."""
    raw: dict[str, Any] = json.loads(config.to_json_string())
    return raw


def expected(config: Any) -> dict[str, Any]:
    """The plain fields of ModelConfig, from a transformers config object as its model code reads it."""
    family = config.model_type
    bias = getattr(config, "attention_bias", False)
    stops = config.eos_token_id
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "norm_eps": config.rms_norm_eps,
        "tied": config.tie_word_embeddings,
        "qkv_bias": bias or family == "qwen2",
        "o_bias": bias,
        "mlp_bias": getattr(config, "mlp_bias", False),
        "qk_norm": family == "qwen3",
        "stop_ids": () if stops is None else tuple(stops) if isinstance(stops, list) else (stops,),
        "bos_id": config.bos_token_id,
    }


def plain(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in expected(CLASSES["llama"]())}


@pytest.mark.parametrize("family", CLASSES)
def test_absent_keys_mean_what_they_mean_to_transformers(family: str) -> None:
    sizes = SIZES | {"num_attention_heads": 32}
    if family not in ("ministral3", "qwen3"):  # these two have a head_dim of their own
        sizes |= {"hidden_size": 256}
    del sizes["num_key_value_heads"]
    config, theirs = config_from_hf({"model_type": family, **sizes})[0], CLASSES[family](**sizes)
    assert plain(config) == expected(theirs)
    window = theirs.sliding_window if family in ("mistral", "ministral3") else None
    assert config.max_position == min(window or math.inf, theirs.max_position_embeddings)
    assert config.rope.theta == theirs.rope_parameters["rope_theta"]
    assert config.rope.kind == theirs.rope_parameters["rope_type"]
    assert config.query_scale == ((0.1, 16384) if family == "ministral3" else None)


@pytest.mark.parametrize("family", CLASSES)
@given(data=st.data())
def test_saved_configs_read_as_transformers_reads_them(family: str, data: st.DataObject) -> None:
    kv_heads, group, head_dim = (data.draw(st.integers(1, 4)) for _ in range(3))
    settings: dict[str, Any] = {
        "vocab_size": data.draw(st.integers(20, 200)),
        "hidden_size": kv_heads * group * 2 * data.draw(st.integers(1, 8)),
        "num_hidden_layers": data.draw(st.integers(1, 4)),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * head_dim,
        "intermediate_size": data.draw(st.integers(1, 64)),
        "max_position_embeddings": data.draw(st.integers(16, 4096)),
        "rms_norm_eps": data.draw(st.sampled_from([1e-5, 1e-6])),
        "tie_word_embeddings": data.draw(st.booleans()),
        "eos_token_id": data.draw(st.sampled_from([None, 2, [3, 5]])),
        "bos_token_id": data.draw(st.sampled_from([None, 1])),
    }
    if family in ("llama", "qwen3"):
        settings["attention_bias"] = data.draw(st.booleans())
    if family == "llama":
        settings["mlp_bias"] = data.draw(st.booleans())
    if family == "mistral":
        settings["sliding_window"] = None
    theta = data.draw(st.sampled_from([10_000.0, 1e6]))
    settings["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    theirs = CLASSES[family](**settings)
    new = saved(theirs)
    old = {key: value for key, value in new.items() if key != "rope_parameters"} | {"rope_theta": theta}
    if family != "ministral3":  # whose absent rope settings are not the plain ones
        assert config_from_hf(old) == config_from_hf(new)
    config = config_from_hf(new)[0]
    assert plain(config) == expected(theirs)
    assert config.max_position == theirs.max_position_embeddings
    assert config.rope == Rope(theta=theta)


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {"mscale": 0.707, "mscale_all_dim": 1.0},
        {"mscale": 0.707},
        {"attention_factor": 1.25},
        {"factor": 0.25},
        {"factor": None, "original_max_position_embeddings": 128},
        {"beta_fast": 16, "beta_slow": 2, "truncate": True},
    ],
)
def test_yarn_settings(spelling: str, extra: dict[str, Any]) -> None:
    rope = YARN | {"original_max_position_embeddings": 64} | extra
    rope = rope if spelling == "rope_parameters" else {**rope, "type": rope["rope_type"]}
    raw = tiny() | {spelling: rope}
    theirs = transformers.LlamaConfig(**{k: v for k, v in raw.items() if k != "model_type"})
    _, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](theirs)
    found = config_from_hf(raw)[0].rope
    assert found == Rope(
        theta=1e6,
        kind="yarn",
        factor=rope["factor"] or 4.0,
        original_max_position=rope["original_max_position_embeddings"],
        beta_fast=rope.get("beta_fast", 32.0),
        beta_slow=rope.get("beta_slow", 1.0),
        attention_factor=found.attention_factor,
    )
    assert found.attention_factor == pytest.approx(attention_factor, abs=1e-12)


def test_linear_and_llama3_settings() -> None:
    linear = config_from_hf(tiny(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2}))[0].rope
    assert linear == Rope(theta=5e5, kind="linear", factor=2.0)
    bands = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    scaling = {"rope_type": "llama3", "factor": 32.0, **bands}
    found = config_from_hf(tiny(rope_theta=5e5, rope_scaling=scaling))[0].rope
    assert found == Rope(theta=5e5, kind="llama3", factor=32.0, original_max_position=8192)
    del scaling["original_max_position_embeddings"]
    assert config_from_hf(tiny(rope_scaling=scaling))[0].rope.original_max_position == 512


@pytest.mark.parametrize(
    ("family", "settings", "max_position"),
    [
        ("mistral", {"sliding_window": 128}, 128),
        ("mistral", {"sliding_window": None}, 512),
        ("mistral", {"sliding_window": 4096}, 512),
        ("ministral3", {"sliding_window": 128}, 128),
        ("llama", {"sliding_window": 128}, 512),
        ("qwen2", {"sliding_window": 128}, 512),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 1}, 128),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 2}, 512),
        ("qwen3", {"sliding_window": 128, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}, 512),
        (
            "qwen3",
            {"sliding_window": 128, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
            128,
        ),
    ],
)
def test_an_active_sliding_window_bounds_the_context(family: str, settings: dict[str, Any], max_position: int) -> None:
    assert config_from_hf(tiny(family, **settings))[0].max_position == max_position


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (tiny("gpt2"), r"model_type 'gpt2' is not supported; supported: llama, mistral,"),
        ({}, "model_type None"),
        (tiny(hidden_act="gelu"), "hidden_act = 'gelu' is not supported; supported: silu"),
        (tiny(partial_rotary_factor=0.5), "partial_rotary_factor = 0.5"),
        (tiny(rope_parameters={"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5"),
        (tiny(rope_parameters={"full_attention": {"rope_type": "default"}}), "one flat object"),
        (tiny(rope_scaling="yarn"), "one flat object"),
        (tiny(attn_logit_softcapping=50.0), "attn_logit_softcapping = 50.0"),
        (tiny(final_logit_softcapping=30.0), "final_logit_softcapping"),
        (tiny(num_local_experts=8), "num_local_experts = 8"),
        (tiny(embedding_multiplier=12.0), "embedding_multiplier"),
        (tiny(quantization_config={"quant_method": "fp8"}), "quantized with 'fp8'"),
        (tiny("mistral", attention_bias=True), "attention_bias = True is not supported for model_type 'mistral'"),
        (tiny("qwen3", mlp_bias=True), "mlp_bias"),
        (tiny("qwen2", layer_types=["chunked_attention"] * 2), "layer type 'chunked_attention'"),
        (tiny(rope_scaling={"type": "dynamic", "factor": 2.0}), "rope type 'dynamic' is not supported; supported:"),
        (tiny(rope_scaling={"type": "linear"}), "no factor"),
        (tiny(rope_scaling={"type": "linear", "factor": 0}), "above 0"),
        (tiny(rope_scaling=YARN | {"truncate": False}), "truncate"),
        (tiny(rope_scaling=YARN | {"llama_4_scaling_beta": 0.1}), "llama_4_scaling_beta"),
        (tiny(hidden_size=None), "no hidden_size"),
        (tiny(hidden_size="64"), "hidden_size must be an integer, got '64'"),
        (tiny(hidden_size=66), "66 is no multiple of num_attention_heads 4"),
        (tiny(num_attention_heads=0), "heads must be at least 1"),
        (tiny(rms_norm_eps=True), "rms_norm_eps must be a number"),
        (tiny(eos_token_id="</s>"), "eos_token_id"),
        (tiny(mask_token_id=96), "mask id 96 is no token; allowed: 0 to 95"),
        (tiny(unmask={"seeds": "copy"}), "unknown key 'seeds' in 'unmask'; known: mask_id,"),
        (tiny(unmask={"seed": "cpoy"}), "seed must be 'block', 'causal' or 'copy', got 'cpoy'"),
        (tiny(unmask={"context": "full"}), "context must be"),
        (tiny(unmask={"shift": "yes"}), "shift = 'yes'; allowed: true or false"),
        (tiny(unmask={"seed": 1}), "seed = 1"),
        (tiny(unmask={"draft_adapter": 1}), "draft_adapter = 1"),
        (tiny(unmask={"block_size": 0}), "block_size must be at least 1"),
        (tiny(unmask={"block_size": True}), "block_size = True"),
        (tiny(block_size="32"), "block_size = '32'"),
        (tiny(block_size=0), "block_size must be at least 1"),
        (tiny(unmask={"mask_id": "9"}), "mask_id = '9'"),
        (tiny(unmask=["seed"]), "'unmask' must be an object"),
        ({"model_type": "mistral3", "text_config": {"model_type": "pixtral"}}, "model_type 'pixtral'"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        config_from_hf(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "parameters", "tensors", "factor"),
    [
        ({}, 8_489_553_920, 309, 16.0),
        ({"hidden_size": 5120, "num_hidden_layers": 40, "intermediate_size": 16384}, 13_506_073_600, 363, 16.0),
        (
            {
                **{"hidden_size": 3072, "num_hidden_layers": 26, "intermediate_size": 9216},
                **{"max_position_embeddings": 4096, "rope_parameters": NLD_8B["rope_parameters"] | {"factor": 0.25}},
            },
            3_831_659_520,
            237,
            0.25,
        ),
    ],
)
def test_published_nemotron_labs_diffusion_configs(
    changes: dict[str, Any], parameters: int, tensors: int, factor: float
) -> None:
    raw = NLD_8B | changes
    config, traits = config_from_hf(raw)
    assert traits == Traits(mask_id=100, trained=True, block_size=32)
    assert config.rope == Rope(theta=1e6, kind="yarn", factor=factor, original_max_position=16384, attention_factor=1.0)
    assert config.query_scale == (0.1, 16384)
    assert (config.max_position, config.stop_ids, config.bos_id) == (raw["max_position_embeddings"], (11,), 1)
    shapes = tensor_shapes(config)
    assert config.parameters == parameters == sum(map(math.prod, shapes.values()))
    assert len(shapes) == tensors
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (1024, raw["hidden_size"])
    mirrored = raw | {"rope_scaling": raw["rope_parameters"] | {"factor": 8.0}, "rope_theta": 1.0}
    assert config_from_hf(mirrored) == (config, traits)


def test_a_rope_factor_that_does_not_fit_is_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"rope factor 16 is not .* 0\.25"):
        config, _ = config_from_hf(NLD_8B | {"max_position_embeddings": 4096})
    assert config.rope.factor == 16.0


def test_our_own_settings_and_stop_ids_of_both_files() -> None:
    ours = {"seed": "copy", "context": "causal", "shift": True, "draft_adapter": "draft", "mask_id": 7}
    config, traits = config_from_hf(tiny(eos_token_id=[2, 3], mask_token_id=6, unmask=ours), {"eos_token_id": [3, 4]})
    assert traits == Traits(mask_id=7, trained=True, seed="copy", shift=True, draft_adapter="draft")
    assert config.stop_ids == (2, 3, 4)
    assert config_from_hf(tiny(mask_token_id=-1))[1].mask_id is None


def test_the_text_part_of_a_wrapper_is_read() -> None:
    text = saved(CLASSES["ministral3"](**SIZES, max_position_embeddings=512, tie_word_embeddings=False))
    wrapped = {"model_type": "mistral3", "text_config": text, "tie_word_embeddings": True, "unmask": {"mask_id": 3}}
    config, traits = config_from_hf(wrapped)
    assert (config.hidden_size, config.tied, traits.mask_id) == (64, True, 3)
    del wrapped["tie_word_embeddings"]
    assert not config_from_hf(wrapped)[0].tied


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
        ("mistral", {"sliding_window": None, "head_dim": 32}),
        ("ministral3", {}),
        ("qwen2", {}),
        ("qwen3", {"attention_bias": True}),
    ],
)
def test_shapes_are_those_of_transformers_models(family: str, settings: dict[str, Any], tied: bool) -> None:
    theirs = CLASSES[family](**(SIZES | settings | {"tie_word_embeddings": tied}))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    config = config_from_hf(saved(theirs))[0]
    assert tensor_shapes(config) == found
    assert config.parameters == sum(map(math.prod, found.values()))


@pytest.mark.parametrize(
    ("model_type", "theirs", "ours"),
    [
        (NLD, "encoder.layers.3.self_attn.o_proj.weight", "model.layers.3.self_attn.o_proj.weight"),
        (NLD, "encoder.embed_tokens.weight", "model.embed_tokens.weight"),
        (NLD, "encoder.norm.weight", "model.norm.weight"),
        (NLD, "diffusion_head.weight", "lm_head.weight"),
        (NLD, "language_model.model.norm.weight", "model.norm.weight"),
        (NLD, "language_model.lm_head.weight", "lm_head.weight"),
        (NLD, "encoder.layers.0.self_attn.rotary_emb.inv_freq", None),
        (NLD, "base_model.model.encoder.layers.0.self_attn.o_proj.lora_A.weight", None),
        (NLD, "vision_tower.ln_pre.weight", None),
        ("mistral3", "model.language_model.norm.weight", "model.norm.weight"),
        ("mistral3", "model.multi_modal_projector.norm.weight", None),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", None),
        ("llama", "encoder.norm.weight", "encoder.norm.weight"),
        ("llama", "vision_tower.ln_pre.weight", "vision_tower.ln_pre.weight"),
    ],
)
def test_names(model_type: str, theirs: str, ours: str | None) -> None:
    assert canonical_name(model_type, theirs) == ours


def test_every_family_is_covered_here() -> None:
    assert {*CLASSES, NLD} == set(FAMILIES)
