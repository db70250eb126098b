"""Loading: what transformers saves arrives whole in a module, and whatever does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unmask.model import families
from unmask.model.checkpoint import load_into, open_checkpoint, verify
from unmask.model.families import NLD
from unmask.types import Traits

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
LLAMA, QWEN2, QWEN3 = transformers.LlamaConfig, transformers.Qwen2Config, transformers.Qwen3Config
MISTRAL, MINISTRAL3 = transformers.MistralConfig, transformers.Ministral3Config
FIRST, LAST = "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"


def made(kind: Any = LLAMA, **settings: Any) -> Any:
    """A tiny transformers model with random weights, biases and norms."""
    model = transformers.AutoModelForCausalLM.from_config(kind(**(SIZES | settings)))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")))
    return model


def empty(model: Any) -> Any:
    """The same architecture on the meta device."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(model.config)


def folder(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A saved tiny model, to be damaged."""
    made().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def change(path: Path, **tensors: Tensor | None) -> None:
    """Replace, add or remove (None) tensors of the one file of a folder; "." is written as "__"."""
    content: dict[str, Tensor | None] = {**load_file(path / "model.safetensors")}
    content |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: t for name, t in content.items() if t is not None}, path / "model.safetensors")


def configure(path: Path, **settings: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | settings
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("shard", ["1GB", "4KB"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LLAMA, {}),
        (LLAMA, {"tie_word_embeddings": True}),
        (LLAMA, {"attention_bias": True, "mlp_bias": True}),
        (MISTRAL, {"head_dim": 8}),
        (MINISTRAL3, {"head_dim": 8}),
        (QWEN2, {"tie_word_embeddings": True}),
        (QWEN3, {"head_dim": 8}),
    ],
)
def test_what_transformers_saves_is_loaded(kind: Any, settings: dict[str, Any], shard: str, tmp_path: Path) -> None:
    model = made(kind, **settings)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "4KB")
    checkpoint, module = open_checkpoint(tmp_path), empty(model)
    load_into(module, checkpoint)
    expected, found = model.state_dict(), module.state_dict()
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    assert (checkpoint.kind, checkpoint.dtype, checkpoint.adapters) == ("hf", torch.float32, {})
    assert {name for name, _ in checkpoint.tensors()} == set(dict(model.named_parameters()))


def test_dtype_gradients_and_memory_of_its_own(tmp_path: Path) -> None:
    model = made(tie_word_embeddings=True).to(torch.float16)
    model.save_pretrained(tmp_path)
    checkpoint, module = open_checkpoint(tmp_path), empty(model)
    assert checkpoint.dtype == torch.float16
    module.get_parameter(FIRST).requires_grad = False
    load_into(module, checkpoint, torch.float64, "cpu")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}
    assert not module.get_parameter(FIRST).requires_grad
    assert module.get_parameter(LAST).requires_grad
    assert module.get_parameter("lm_head.weight") is module.get_parameter(FIRST)
    load_into(module, checkpoint)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float16}
    (file,) = checkpoint.files
    with file.open("r+b") as raw:  # in place, as a file that is being written again
        raw.write(bytes(file.stat().st_size))
    assert torch.equal(module.get_parameter(FIRST), model.get_parameter(FIRST))


def test_nemotron_labs_diffusion_in_its_published_layout(tmp_path: Path) -> None:
    model = made(MINISTRAL3, head_dim=8)
    names = {"model.": "encoder.", "lm_head.": "diffusion_head."}
    theirs = {
        names[prefix] + name.removeprefix(prefix): tensor
        for name, tensor in model.state_dict().items()
        for prefix in names
        if name.startswith(prefix)
    }
    theirs["encoder.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    config = json.loads(model.config.to_json_string())
    rope = {**config["rope_parameters"], "factor": 64 / 16384}
    config |= {"model_type": NLD, "mask_token_id": 30, "block_size": 32, "rope_parameters": rope}
    checkpoint = open_checkpoint(folder(tmp_path, config, theirs))
    assert checkpoint.traits == Traits(mask_id=30, trained=True)
    assert checkpoint.config.query_scale == (0.1, 16384)
    module = empty(model)
    load_into(module, checkpoint)
    for name, tensor in model.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    (tmp_path / "linear_spec_lora").mkdir()
    (tmp_path / "linear_spec_lora" / "adapter_config.json").write_text("{}")
    again = open_checkpoint(tmp_path)
    assert again.traits == Traits(mask_id=30, trained=True, draft_adapter="linear_spec_lora")
    assert again.adapters == {"linear_spec_lora": tmp_path / "linear_spec_lora"}
    with pytest.raises(ValueError, match="has no adapter 'other'; it has: linear_spec_lora"):
        again.adapter("other")


def test_the_text_part_of_a_vision_language_model(tmp_path: Path) -> None:
    text = SIZES | {"model_type": "ministral3", "head_dim": 8, "tie_word_embeddings": False}
    vision = {"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16, "head_dim": 8}
    config: Any = transformers.Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
    model = transformers.Mistral3ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        module = transformers.Ministral3ForCausalLM(config.text_config)
    load_into(module, open_checkpoint(tmp_path))
    for name, tensor in model.model.language_model.state_dict().items():
        assert torch.equal(module.model.state_dict()[name], tensor), name
    assert torch.equal(module.lm_head.weight, model.lm_head.weight)


def test_a_tied_model_may_carry_its_head_if_it_is_the_embedding(llama: Path) -> None:
    configure(llama, tie_word_embeddings=True)
    checkpoint, module = open_checkpoint(llama), made(tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"lm_head.weight differs from model.embed_tokens.weight although tie_word"):
        load_into(module, checkpoint)
    embedding = load_file(llama / "model.safetensors")[FIRST]
    change(llama, lm_head__weight=embedding.clone())
    load_into(module, open_checkpoint(llama))
    assert torch.equal(module.lm_head.weight, embedding)
    assert module.lm_head.weight is module.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__layers__1__mlp__down_proj__weight": None, "model__norm__weight": None},
            r"tensor model.layers.1.mlp.down_proj.weight \[16, 24\] is missing$",
        ),
        ({"lm_head__weight": None}, r"lm_head.weight \[40, 16\] is missing \(is tie_word_embeddings meant to be true"),
        (
            {"model__layers__0__extra__weight": torch.ones(3)},
            r"model.layers.0.extra.weight \[3\] is not part of such a",
        ),
        ({"model__layers__2__input_layernorm__weight": torch.ones(16)}, r"layers.2.* is not part"),
        ({"model__norm__weight": torch.ones(15)}, r"model.norm.weight has shape \[15\]; the config says \[16\]"),
        (
            {"model__norm__weight": torch.ones(16, dtype=torch.int64)},
            r"model.norm.weight has dtype I64; supported: BF16",
        ),
        ({"model__norm__weight": torch.ones(16).to(torch.float8_e4m3fn)}, r"model.norm.weight has dtype F8_E4M3"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Tensor | None], message: str, llama: Path) -> None:
    checkpoint = open_checkpoint(llama)
    change(llama, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        open_checkpoint(llama)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):  # and again, should a file change after it was opened
        load_into(made(), checkpoint)


def test_a_tensor_in_two_shards_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "a.safetensors")
    save_file({"model.norm.weight": torch.ones(16)}, llama / "b.safetensors")
    index = {"weight_map": {FIRST: "a.safetensors", "model.norm.weight": "b.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model.norm.weight is there twice"):
        open_checkpoint(llama)


def test_broken_folders(llama: Path, tmp_path: Path) -> None:
    weights, index = llama / "model.safetensors", llama / "model.safetensors.index.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a complete safetensors file"):
        open_checkpoint(llama)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        open_checkpoint(llama)
    (llama / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pickled checkpoint \(pytorch_model\.bin\).*convert to safetensors"):
        open_checkpoint(llama)
    index.write_text(json.dumps({"weight_map": {FIRST: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"model-00001-of-00002\.safetensors is listed in .* but is not there"):
        open_checkpoint(llama)
    for bad in ({"weight_map": {FIRST: "../llama/model.safetensors"}}, {}, {"weight_map": {FIRST: 1}}):
        index.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="no 'weight_map' of file names"):
            open_checkpoint(llama)
    (llama / "odd-name.safetensors").write_bytes(whole)
    index.unlink()
    assert open_checkpoint(llama).files == (llama / "odd-name.safetensors",)
    (llama / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        open_checkpoint(llama)
    (llama / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must hold a JSON object, not list"):
        open_checkpoint(llama)
    (llama / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither a config\.json nor exactly one \.gguf file \(found 0\)"):
        open_checkpoint(llama)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is not a checkpoint; give a"):
        open_checkpoint(llama / "pytorch_model.bin")


def test_settings_are_refused_with_the_folder(llama: Path) -> None:
    configure(llama, hidden_act="gelu")
    with pytest.raises(ValueError, match=r"llama: hidden_act = 'gelu'"):
        open_checkpoint(llama)
    configure(llama, hidden_act="silu", unmask={"draft_adapter": "draft"})
    with pytest.raises(ValueError, match="names the adapter 'draft'; adapter folders there: none"):
        open_checkpoint(llama)


def test_stop_ids_come_from_both_files(llama: Path) -> None:
    configure(llama, eos_token_id=2)
    (llama / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 2]}))
    assert open_checkpoint(llama).config.stop_ids == (2, 3)


def test_a_module_of_another_size_is_refused(llama: Path) -> None:
    with pytest.raises(
        ValueError, match=r"module has \[40, 32\] where the config has model.embed_tokens.weight \[40, 16\]"
    ):
        load_into(made(hidden_size=32), open_checkpoint(llama))
    with pytest.raises(ValueError, match="module has nothing where"):
        load_into(nn.Linear(1, 1), open_checkpoint(llama))


def test_the_real_model(smollm2_gguf: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    assert (checkpoint.kind, checkpoint.traits) == ("gguf", Traits(mask_id=16))
    verify(checkpoint)
    renamed = tmp_path / "anything.gguf"
    renamed.symlink_to(smollm2_gguf)
    assert open_checkpoint(tmp_path).traits == Traits(mask_id=16)
    assert {name for name, _ in checkpoint.tensors()} == set(families.tensor_shapes(checkpoint.config))
