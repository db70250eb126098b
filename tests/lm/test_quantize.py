"""Quantised models keep the promises: every lossless mode writes what AR writes, and bad names are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unmask import LM

WAYS: list[dict[str, Any]] = [
    {"mode": "self-speculation", "spec_variant": "linearspec", "draft_block_size": 4},
    {"mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": 3},
    {"mode": "self-speculation", "spec_variant": "adaptivespec", "draft_block_size": 8},
    {"mode": "auto"},
]
PROMPTS = ["the cat", "a dog and", "x y z"]


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_speculation_equals_ar(tiny_folder: Path, quantize: Any, temperature: float) -> None:
    lm = LM.load(tiny_folder, dtype="float32", quantize=quantize, exactness="exact")
    assert lm.quantize == quantize
    sampling: dict[str, Any] = {"temperature": temperature, "seed": 5, "max_tokens": 24, "ignore_eos": True}
    expected = [one.token_ids for one in lm.generate_all(PROMPTS, mode="ar", **sampling)]
    for way in WAYS:
        assert [one.token_ids for one in lm.generate_all(PROMPTS, **way, **sampling)] == expected
        assert lm.generate(PROMPTS[1], **way, **sampling).token_ids == expected[1]


def test_diffusion_runs_in_few_bits(tiny_folder: Path) -> None:
    lm = LM.load(tiny_folder, dtype="float32", quantize="int8")
    found = lm.generate("the cat", mode="fastdiffuser", max_tokens=12, ignore_eos=True)
    assert len(found.token_ids) == 12


def test_an_unknown_name_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="quantize must be one of int8, int4, got 'int2'"):
        LM.load(tiny_folder, quantize="int2")  # type: ignore[arg-type]
