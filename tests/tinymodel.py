"""A whole model in a folder, small enough for a test: random Llama weights, byte-level tokenizer, ChatML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.text.vocabularies import byte_level_core
from unmask.config import ModelConfig
from unmask.model.decoder import Decoder
from unmask.model.families import config_from_hf

VOCABULARY = byte_level_core().get_vocab_size()
MASK, END = VOCABULARY - 4, VOCABULARY - 2  # "<|mask|>" and "<|im_end|>"


def settings(**changes: Any) -> dict[str, Any]:
    """config.json of the tiny model."""
    raw: dict[str, Any] = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": END,
        "unmask": {"mask_id": MASK, "block_size": 8, "trained": True},
    }
    return raw | changes


def write_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint that `LM.load` takes. changes: other values for config.json."""
    raw = settings(**changes)
    config: ModelConfig = config_from_hf(raw)[0]
    torch.manual_seed(seed)
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(decoder.state_dict()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    byte_level_core().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}), encoding="utf-8")
    return folder
