"""runs/second_model.py, a few steps: what it makes loads, takes chats as plain text, and drafts what AR writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runs import second_model, small_model
from unmask import LM
from unmask.model.families import config_from_hf
from unmask.training.recipes import RECIPES

TEXTS = [f"def add_{n}(a, b):\n    return a + b + {n}\n\n\nadd_{n}({n}, 2)\n" * 4 for n in range(40)]


def corpus(folder: Path) -> Path:
    folder.mkdir()
    for name, texts in (("train.jsonl", TEXTS[:32]), ("heldout.jsonl", TEXTS[32:])):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return folder


def test_it_is_of_another_family_and_size() -> None:
    config = config_from_hf(second_model.SETTINGS)[0]
    assert config.qk_norm
    assert 10e6 <= config.parameters <= 30e6


def test_a_few_steps_make_a_model_and_an_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, "head_dim": 8}
    monkeypatch.setattr(second_model, "SETTINGS", second_model.SETTINGS | small | {"vocab_size": 400})
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    few: dict[str, Any] = {"length": 64, "batch": 1, "steps": 2, "minutes": None, "eval_every": 2, "dtype": "float32"}
    ar = replace(second_model.ar_settings(1.0), **few)
    adapter = replace(RECIPES["adapter"](steps=2, minutes=None), **few)
    data = corpus(tmp_path / "corpus")
    base, drafter = second_model.make(tmp_path / "made", data, ar, adapter)

    def never(*_: Any) -> None:
        raise AssertionError("what is there is not made again")

    monkeypatch.setattr(small_model, "convert", never)
    assert second_model.make(tmp_path / "made", data, ar, adapter) == (base, drafter)
    lm = LM.load(base, adapter=drafter, dtype="float32", exactness="exact", max_tokens_cached=1024)
    assert (lm.traits.mask_id, lm.traits.draft_block_size, lm.traits.seed) == (small_model.MASK, 8, "copy")
    asked = [{"role": "user", "content": "def add"}, {"role": "user", "content": "return a"}]
    assert lm.encode_chat(asked) == lm.encode("def add\n\nreturn a"), "a chat is its texts, to be continued"
    options: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}
    drafted = lm.generate("def add_7(", mode="self-speculation", **options)
    assert drafted.token_ids == lm.generate("def add_7(", mode="ar", **options).token_ids
