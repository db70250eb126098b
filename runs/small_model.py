"""A small model from nothing, as the runs beside this file begin with: its own tokenizer, random weights.

Ids 0 and 1 are the end of a text and the mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, trainers

from unmask.model.decoder import Decoder
from unmask.model.families import config_from_hf

END, MASK = 0, 1


def make_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int) -> None:
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
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}), encoding="utf-8")


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
