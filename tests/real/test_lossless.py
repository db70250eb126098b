"""On the real SmolLM2: greedy ids are those of transformers, and every lossless mode writes what AR writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.real.prompts import prompts
from unmask import LM
from unmask.types import Ids

pytestmark = pytest.mark.slow
TOKENS = 64
# Small drafts: this test is about equality, and rows cost time.
WAYS: dict[str, dict[str, Any]] = {
    "linearspec": {"mode": "self-speculation", "spec_variant": "linearspec", "draft_block_size": 4},
    "quadspec": {"mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": 3},
    "adaptivespec": {"mode": "self-speculation", "spec_variant": "adaptivespec", "draft_block_size": 8},
}


def written(lm: LM, **options: Any) -> list[Ids]:
    found = lm.generate_all(prompts(lm), max_tokens=TOKENS, **options)
    lm.engine.check()
    assert lm.engine.pages.in_use == 0
    return [generation.token_ids for generation in found]


@pytest.fixture(scope="module")
def float32(smollm2_gguf: Path) -> LM:
    return LM.load(smollm2_gguf, dtype="float32")


@pytest.fixture(scope="module")
def exact(smollm2_gguf: Path) -> LM:
    return LM.load(smollm2_gguf, dtype="bfloat16", exactness="exact")


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


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_equals_ar_bit_for_bit_in_exact_bfloat16(exact: LM, temperature: float) -> None:
    sampling: dict[str, Any] = {"temperature": temperature, "seed": 11}
    sampled = written(exact, mode="ar", **sampling)
    assert len({tuple(ids) for ids in sampled}) == len(sampled)
    for way in WAYS.values():
        assert written(exact, **way, **sampling) == sampled
    # ... and alone what they were among nineteen others.
    for ids, among in list(zip(prompts(exact), sampled, strict=True))[::9]:
        assert exact.generate(ids, mode="ar", max_tokens=TOKENS, **sampling).token_ids == among
