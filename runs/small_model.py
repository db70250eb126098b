"""A small model from nothing, as the runs beside this file make it: its own tokenizer, random weights, one training
after the other. Ids 0 and 1 are the end of a text and the mask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, trainers

from unmask.model.decoder import Decoder
from unmask.model.families import config_from_hf
from unmask.training.convert import Conversion, convert
from unmask.training.packing import Data
from unmask.training.settings import TrainConfig

END, MASK = 0, 1
# What config.json says of all of them.
COMMON: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": END,
    "rms_norm_eps": 1e-5,
    "unmask": {"mask_id": MASK, "block_size": 16},
}


def make_random(folder: Path, texts: Iterable[str], settings: Mapping[str, Any], **more: str) -> Path:
    """The model before its first step, with a tokenizer made of the texts; not again where it is there.

    settings: what config.json says. more: what tokenizer_config.json says beside the end token.
    """
    if not (folder / "config.json").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        make_tokenizer(folder, texts, settings["vocab_size"], more)
        make_model(folder, settings)
    return folder


def train(
    stages: Iterable[tuple[Path, Data, TrainConfig, Path]], told: Callable[[dict[str, Any]], None], held: int
) -> None:
    """(model, data, settings, what is made of it) one after the other; what is there is not made again, and what was
    broken off goes on. held: samples that are measured meanwhile."""
    for model, data, config, made in stages:
        if not made.exists():
            convert(Conversion(str(model), data, config, made, made.with_name(f"{made.name}.run"), held=held), told)


def make_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int, more: Mapping[str, str]) -> None:
    """Byte-level BPE with single digits, trained on the texts."""
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>", "<|mask|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", **more}), encoding="utf-8")


def make_model(folder: Path, settings: Mapping[str, Any]) -> None:
    """settings: what config.json says; matrices are drawn with a deviation of 0.02, always the same."""
    torch.manual_seed(0)
    decoder = Decoder(config_from_hf(dict(settings))[0])
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    tensors = {name: value for name, value in decoder.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dict(settings)), encoding="utf-8")
