"""Adapters: against PEFT's own merge where PEFT is installed, and against hand-written folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from unmask.config import ModelConfig
from unmask.model.families import config_from_hf
from unmask.model.peft import read_adapter

CONFIG = ModelConfig(
    vocab_size=40, hidden_size=16, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate_size=24, max_position=64
)
RANK = 3
# as the published Nemotron-Labs-Diffusion adapter has it, but smaller
SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": None,
    "inference_mode": True,
    "r": RANK,
    "lora_alpha": 12,
    "lora_dropout": 0.0,
    "target_modules": ["o_proj"],
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
}


def matrices(prefix: str = "base_model.model.encoder.") -> dict[str, Tensor]:
    """LoRA matrices of both o_proj of CONFIG, under PEFT's names."""
    names = [f"{prefix}layers.{n}.self_attn.o_proj.lora_{matrix}.weight" for n in range(2) for matrix in "AB"]
    return {name: torch.randn((RANK, 32) if "lora_A" in name else (16, RANK)) for name in names}


def folder(path: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(SETTINGS | settings))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize("prefix", ["base_model.model.encoder.", "base_model.model.model."])
def test_names_of_both_worlds(prefix: str, tmp_path: Path) -> None:
    tensors = matrices(prefix)
    found = read_adapter(folder(tmp_path, tensors), CONFIG)
    assert (found.rank, found.scale, found.mask_embedding) == (RANK, 4.0, None)
    assert list(found.matrices) == ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]
    a, b = found.matrices["model.layers.1.self_attn.o_proj"]
    assert torch.equal(a, tensors[f"{prefix}layers.1.self_attn.o_proj.lora_A.weight"])
    assert torch.equal(b, tensors[f"{prefix}layers.1.self_attn.o_proj.lora_B.weight"])


def test_a_learned_mask_embedding(tmp_path: Path) -> None:
    embedding = torch.randn(16)
    found = read_adapter(folder(tmp_path, matrices() | {"mask_embedding": embedding}), CONFIG)
    assert found.mask_embedding is not None
    assert torch.equal(found.mask_embedding, embedding)
    assert len(found.matrices) == 2


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", [["o_proj", "gate_proj"], ["model.layers.1.mlp.up_proj"], "all-linear"])
def test_what_peft_merges(targets: list[str] | str, rslora: bool, tmp_path: Path) -> None:
    import peft

    sizes: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_rslora=rslora, init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(base, settings)
        adapted.save_pretrained(str(tmp_path))
        merged = adapted.merge_and_unload().state_dict()
    found = read_adapter(tmp_path, config_from_hf(json.loads(base.config.to_json_string()))[0])
    count = {"o_proj": 4, "model.layers.1.mlp.up_proj": 1, "a": 14}[targets[0]]
    assert len(found.matrices) == count
    for name, tensor in before.items():
        module = name.removesuffix(".weight")
        if module not in found.matrices:
            assert torch.equal(tensor, merged[name]), name
            continue
        a, b = found.matrices[module]
        torch.testing.assert_close(tensor + found.scale * (b @ a), merged[name])
        assert not torch.allclose(tensor, merged[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; supported: LORA"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported; supported: none"),
        ({"rank_pattern": {"o_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"o_proj": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layers_to_transform": [1]}, "layers_to_transform"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' is not supported: it alters the base weights"),
        ({"invented": 1}, "invented = 1 is not supported"),
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"r": 4}, r"shape \[3, 32\]; the model and r say \[4, 32\]"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"target_modules": "o_proj|q_proj"}, "target_modules must be a list"),
        ({"target_modules": []}, "target_modules must be a list"),
        ({"target_modules": ["lm_head"]}, "'lm_head' is not a projection of this model's layers"),
        ({"target_modules": ["proj"]}, "'proj' is not a projection"),
        (
            {"target_modules": ["q_proj"]},
            r"layers.0.self_attn.o_proj.lora_A.weight \[3, 32\] is not a LoRA matrix of a",
        ),
        (
            {"target_modules": ["o_proj", "q_proj"]},
            "lora_A of target module model.layers.0.self_attn.q_proj is missing",
        ),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_adapter(folder(tmp_path, matrices(), **settings), CONFIG)
    assert str(caught.value).startswith(f"adapter {tmp_path}: ")
    assert "\n" not in str(caught.value)


def coherence(own: int, token: int, out: int, hidden: int = 16) -> dict[str, Tensor]:
    parts = {"hidden": torch.ones(own, hidden), "token": torch.ones(token, hidden), "out": torch.ones(hidden, out)}
    return {f"coherence.{name}": part for name, part in parts.items()}


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    a, b, *_ = names = list(matrices())
    for tensors, message in [
        ({name: t for name, t in matrices().items() if name != names[3]}, r"lora_B of .*layers\.1\..* is missing"),
        (matrices() | {a: torch.ones(RANK, 31)}, r"has shape \[3, 31\]; the model and r say \[3, 32\]"),
        (matrices() | {b: torch.ones(16, RANK, dtype=torch.int32)}, "has dtype I32; supported"),
        (matrices() | {"mask_embedding": torch.ones(8)}, r"mask_embedding has shape \[8\]; .* \[16\]"),
        (matrices() | {"coherence.token": torch.ones(4, 16)}, "coherence.hidden is missing"),
        (matrices() | coherence(4, 4, 5), "different widths: 4, 4 and 5"),
        (matrices() | coherence(4, 4, 4, hidden=15), r"coherence.hidden has shape \[4, 15\]; .* \[4, 16\]"),
        (matrices() | {"coherence.out": torch.tensor(1.0)}, r"coherence.out has shape \[\]"),
        (matrices() | {"extra": torch.ones(1)}, r"tensor extra \[1\] is not a LoRA matrix"),
        (matrices() | {a.replace("layers.0", "layers.7"): torch.ones(RANK, 32)}, "layers.7"),
        (matrices() | {a.replace("lora_A", "lora_embedding_A"): torch.ones(RANK, 32)}, "lora_embedding_A"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_adapter(folder(tmp_path, tensors), CONFIG)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_adapter(tmp_path, CONFIG)
    path = folder(tmp_path, matrices()) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        read_adapter(tmp_path, CONFIG)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_adapter(tmp_path, CONFIG)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickled adapter"):
        read_adapter(tmp_path, CONFIG)
