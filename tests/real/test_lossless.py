"""On the real SmolLM2: greedy ids are those of transformers, and every lossless mode writes what AR writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.real.prompts import TOKENS, WAYS, prompts, written
from unmask import LM
from unmask.types import Ids

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def float32(smollm2_gguf: Path) -> LM:
    return LM.load(smollm2_gguf, dtype="float32")


@pytest.fixture(scope="module")
def expected(float32: LM) -> list[Ids]:
    return written(float32, mode="ar")


@torch.inference_mode()
def test_greedy_ids_equal_transformers(float32: LM, smollm2_gguf: Path, expected: list[Ids]) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(
        str(smollm2_gguf.parent), gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
    for ids, ours in zip(prompts(float32), expected, strict=True):
        theirs = reference.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=list(float32.stop_ids),
            pad_token_id=0,
        )
        assert tuple(theirs[0, len(ids) :].tolist()) == ours, float32.tokenizer.decode(ids)


@pytest.mark.parametrize("way", WAYS)
def test_speculation_equals_ar_in_float32(float32: LM, expected: list[Ids], way: str) -> None:
    assert written(float32, **WAYS[way]) == expected


def test_sampled_speculation_equals_sampled_ar_in_float32(float32: LM) -> None:
    sampling: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 3}
    sampled = written(float32, mode="ar", **sampling)
    for way in WAYS.values():
        assert written(float32, **way, **sampling) == sampled
