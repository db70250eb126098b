"""On the real SmolLM2 in bfloat16, `exact`: every lossless mode writes what AR writes, alone or among others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real.prompts import TOKENS, WAYS, prompts, written
from unmask import LM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exact(smollm2_gguf: Path) -> LM:
    return LM.load(smollm2_gguf, dtype="bfloat16", exactness="exact")


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
