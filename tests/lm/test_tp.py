"""One model on two processes: what it writes, in every mode, and how it ends when one of them does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tinymodel import write_model
from unmask import LM
from unmask.lm.crew import LostError
from unmask.model.checkpoint import open_checkpoint
from unmask.model.coherence import shapes
from unmask.model.peft import AdapterWeights
from unmask.training.export import export_adapter

WAYS: list[dict[str, Any]] = [
    {"mode": "ar"},
    {"mode": "fastdiffuser", "block_size": 4, "confidence_threshold": 0.3},
    {"mode": "self-speculation", "spec_variant": "linearspec"},
    {"mode": "self-speculation", "spec_variant": "quadspec"},
    {"mode": "self-speculation", "spec_variant": "adaptivespec"},
    {"mode": "auto"},
]
HIDDEN, WIDTH = 32, 24


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, and an adapter for it on every kind of projection, with a mask embedding and a coherence head."""
    folder = write_model(tmp_path_factory.mktemp("base"), unmask={"mask_id": 260})
    checkpoint, random = open_checkpoint(folder), torch.Generator().manual_seed(3)
    sizes = {"q_proj": (HIDDEN, 32), "v_proj": (HIDDEN, 16), "o_proj": (32, HIDDEN)}
    matrices = {
        f"model.layers.{layer}.self_attn.{name}": (
            torch.randn(4, inputs, generator=random),
            torch.randn(outputs, 4, generator=random),
        )
        for layer in range(2)
        for name, (inputs, outputs) in sizes.items()
    }
    matrices |= {
        f"model.layers.{layer}.mlp.down_proj": (torch.randn(4, 48, generator=random), torch.randn(HIDDEN, 4))
        for layer in range(2)
    }
    head = tuple(torch.randn(shape, generator=random) for shape in shapes(WIDTH, HIDDEN).values())
    weights = AdapterWeights(4, 0.1, matrices, torch.randn(HIDDEN, generator=random), head)  # type: ignore[arg-type]
    traits = checkpoint.traits
    traits = replace(traits, trained=True, seed="copy", block_size=8, draft_adapter="x", denoise_adapter="x")
    adapter = export_adapter(weights, checkpoint, traits, tmp_path_factory.mktemp("adapter"), base_name="tiny")
    return {"name": folder, "adapter": adapter, "dtype": "float32", "exactness": "exact"}


@pytest.fixture(scope="module")
def alone(loading: dict[str, Any]) -> LM:
    return LM.load(**loading)


@pytest.fixture(scope="module")
def two(loading: dict[str, Any]) -> Iterator[LM]:
    lm = LM.load(**loading, tp=2)
    yield lm
    lm.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("spec_variant", way["mode"]))
def test_two_processes_write_what_one_does(alone: LM, two: LM, way: dict[str, Any]) -> None:
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 3}):
        one = alone.generate("the cat", max_tokens=24, ignore_eos=True, logprobs=2, **way, **options)
        other = two.generate("the cat", max_tokens=24, ignore_eos=True, logprobs=2, **way, **options)
        assert other.token_ids == one.token_ids
        for a, b in zip(one.tokens, other.tokens, strict=True):
            if a.logprob is not None:
                assert b.logprob == pytest.approx(a.logprob, abs=1e-4)
    assert not two.engine.requests
    two.engine.check()


@pytest.mark.slow
def test_exact_is_exact_on_two_processes_too(two: LM) -> None:
    prompts = ["the cat", "a", "many words in one prompt, more than a few"]
    alone = [two.generate(prompt, mode="ar", max_tokens=12, logprobs=1, ignore_eos=True) for prompt in prompts]
    beside = two.generate_all(prompts, mode="ar", max_tokens=12, logprobs=1, ignore_eos=True)
    assert [one.tokens for one in beside] == [one.tokens for one in alone]


@pytest.mark.slow
def test_there_is_one_such_model_in_a_process(two: LM, tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="one such model a process"):
        LM.load(tiny_folder, tp=2)


def test_what_cannot_be_shared_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"tp must divide the heads \(4\), key heads \(2\).*may be 1, 2; got 3"):
        LM.load(tiny_folder, tp=3)
    with pytest.raises(ValueError, match="got 0"):
        LM.load(tiny_folder, tp=0)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_model_with_an_error(two: LM) -> None:
    """The last test of this file: nothing can be asked of the model after it."""
    stream = two.stream("the cat", mode="ar", max_tokens=200, ignore_eos=True)
    next(stream)
    assert two.crew is not None
    os.kill(two.crew.processes[0].pid, signal.SIGKILL)
    with pytest.raises(LostError, match=r"process 1 of the 2 that hold this model ended \(killed by SIGKILL\)"):
        list(stream)
    with pytest.raises(LostError, match="killed by SIGKILL"):
        two.generate("the", mode="ar", max_tokens=1)
    two.close()
    assert not torch.distributed.is_initialized()
