"""A trained model as a folder that `LM.load`, `serve`, transformers or PEFT take at once.

A joint model: the published Nemotron-Labs-Diffusion layout where its base is of the Mistral kind, else the layout of
its base. An adapter: a PEFT folder with our unmask.json. Folders appear whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unmask.config import ModelConfig
from unmask.model.card import write_card
from unmask.model.checkpoint import Checkpoint
from unmask.model.coherence import PREFIX, shapes
from unmask.model.decoder import Decoder
from unmask.model.families import HEAD, NLD, tensor_shapes
from unmask.model.gguf import read_metadata
from unmask.model.peft import MASK_EMBEDDING, AdapterWeights
from unmask.text import Tokenizer
from unmask.training.hf_config import target_family, to_hf
from unmask.types import Traits

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def export_model(
    decoder: Decoder,
    base: Checkpoint,
    traits: Traits,
    out: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    adapters: Mapping[str, AdapterWeights] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model with all its weights (not the adapters on it) to the folder `out`.

    base: what it was trained from: it says which layout to use, and has the tokenizer. traits: what it is now;
    adapters: by name, written to sub-folders (a drafter, for one). In the Nemotron-Labs-Diffusion layout the head is a
    tensor of its own, a copy where it was tied. Raises FileExistsError unless `out` is new, empty, or `overwrite`;
    ValueError where traits name an adapter that is not given; OSError where the disk is full, and all is as it was.
    """
    family = target_family(base.model_type, decoder.config)
    for name in traits.adapters:
        if name not in (adapters or {}):
            raise ValueError(f"the traits name the adapter {name!r}, which is not given")
    config = replace(decoder.config, tied=False) if family == NLD else decoder.config
    settings = to_hf(config, traits, family, str(dtype).removeprefix("torch."))
    with whole_folder(out, overwrite) as folder:
        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in _tensors(decoder, config, family)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", settings)
        generation = {key: settings[key] for key in ("bos_token_id", "eos_token_id") if settings[key] is not None}
        _write_json(folder / "generation_config.json", generation)
        write_tokenizer(base, folder, config)
        for name, weights in (adapters or {}).items():
            (folder / name).mkdir()
            write_peft(folder / name, weights, family, base_name=None, dtype=dtype)
    return out


def export_adapter(
    weights: AdapterWeights,
    base: Checkpoint,
    traits: Traits,
    out: Path,
    *,
    base_name: str,
    dtype: torch.dtype = torch.float16,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an adapter as a PEFT folder with unmask.json beside it; `model.card.read_card` gives the traits back.

    base_name: short name or hub id of the model that it belongs to. extra: more for unmask.json (tokens seen, ...).
    Raises as `export_model`.
    """
    with whole_folder(out, overwrite) as folder:
        write_peft(folder, weights, base.model_type, base_name, dtype)
        write_card(folder, base, traits, base_name, extra)
    return out


def write_peft(
    folder: Path, weights: AdapterWeights, model_type: str, base_name: str | None, dtype: torch.dtype
) -> None:
    """adapter_config.json and adapter_model.safetensors in PEFT's own format.

    A mask embedding and a coherence head are more tensors, which PEFT leaves alone. Raises ValueError for numbers that
    dtype cannot hold.
    """
    prefix = "encoder." if model_type == NLD else "model."
    tensors: dict[str, Tensor] = {}
    for module, (a, b) in weights.matrices.items():
        key = f"base_model.model.{prefix}{module.removeprefix('model.')}"
        tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    if weights.mask_embedding is not None:
        tensors[MASK_EMBEDDING] = weights.mask_embedding
    if weights.coherence is not None:
        tensors |= {PREFIX + name: part for name, part in zip(shapes(0, 0), weights.coherence, strict=True)}
    stored = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in tensors.items()}
    if broken := next((name for name, tensor in stored.items() if not tensor.isfinite().all()), None):
        raise ValueError(f"{broken} has numbers that are not finite in {dtype}")
    save_file(stored, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if model_type != NLD else None,
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": weights.rank,
        "lora_alpha": weights.scale * weights.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in weights.matrices}),
        "use_rslora": False,
        "use_dora": False,
    }
    _write_json(folder / "adapter_config.json", settings)


def write_tokenizer(base: Checkpoint, folder: Path, config: ModelConfig) -> None:
    """The base's tokenizer files: copied from its folder, or made from the vocabulary of its GGUF file."""
    if base.kind == "hf":
        for name in _TOKENIZER_FILES:
            if (base.source / name).is_file():
                shutil.copyfile(base.source / name, folder / name)
        return
    tokenizer = Tokenizer.from_gguf(read_metadata(base.source))
    tokenizer.core.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": tokenizer.add_bos,
        **tokenizer.special_tokens,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    if tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


@contextmanager
def whole_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder to write to, which becomes `out` when the block ends well and vanishes when it does not."""
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: choose another folder, or say that it may be overwritten")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if out.exists():
            os.replace(out, old)  # a folder can only be replaced by way of another name
        os.replace(new, out)


def _tensors(decoder: Decoder, config: ModelConfig, family: str) -> Iterator[tuple[str, Tensor]]:
    """(name in the layout of the family, tensor on the CPU), in the model's order."""
    parameters = dict(decoder.named_parameters(remove_duplicate=False))
    for name in tensor_shapes(config):
        tensor = parameters[name].detach().cpu()
        if name == HEAD and decoder.config.tied:
            tensor = tensor.clone()  # a file has no two names for one memory
        if family == NLD:
            name = name.replace("model.", "encoder.", 1).replace("lm_head.", "diffusion_head.", 1)
        yield name, tensor


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
