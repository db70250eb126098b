"""Adapters on top of a base model: found, checked, used for drafts, and without any effect on AR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tinymodel import write_model
from unmask import LM
from unmask.model.checkpoint import open_checkpoint
from unmask.model.peft import AdapterWeights
from unmask.training.export import export_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return write_model(folder, unmask={"mask_id": 260})


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = open_checkpoint(base)
    generator = torch.Generator().manual_seed(3)
    names = [f"model.layers.{layer}.self_attn.o_proj" for layer in range(2)]
    matrices = {
        name: (torch.randn(4, 32, generator=generator), torch.randn(32, 4, generator=generator)) for name in names
    }
    weights = AdapterWeights(4, 0.5, matrices, torch.randn(32, generator=generator))
    traits = replace(checkpoint.traits, trained=True, seed="copy", block_size=8, draft_adapter="x", denoise_adapter="x")
    return export_adapter(weights, checkpoint, traits, tmp_path_factory.mktemp("adapter"), base_name="tiny")


def test_an_adapter_gives_its_traits(base: Path, adapter: Path) -> None:
    lm = LM.load(base, dtype="float32", adapter=adapter)
    assert (lm.traits.trained, lm.traits.seed, lm.traits.draft_adapter) == (True, "copy", "x")
    assert lm.engine.limits.adapters == ("x",)
    assert not LM.load(base, dtype="float32").traits.trained
    assert LM.load(base, dtype="float32", adapter=False).traits == LM.load(base, dtype="float32").traits


def test_ar_with_an_adapter_is_the_base_model_bit_for_bit(base: Path, adapter: Path) -> None:
    plain, with_it = LM.load(base, dtype="float32"), LM.load(base, dtype="float32", adapter=adapter)
    one = plain.generate("the cat", mode="ar", max_tokens=16, logprobs=3, ignore_eos=True)
    two = with_it.generate("the cat", mode="ar", max_tokens=16, logprobs=3, ignore_eos=True)
    assert one.tokens == two.tokens
    three = with_it.generate("the cat", mode="self-speculation", max_tokens=16, ignore_eos=True)
    assert three.token_ids == one.token_ids
    four = plain.generate("the cat", mode="fastdiffuser", max_tokens=16, ignore_eos=True)
    five = with_it.generate("the cat", mode="fastdiffuser", max_tokens=16, ignore_eos=True)
    assert four.token_ids != five.token_ids, "the adapter must act on denoise rows"


def test_adapters_that_do_not_fit(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no adapter folder"):
        LM.load(base, adapter=tmp_path / "none")
    other = write_model(tmp_path / "other", num_hidden_layers=3, unmask={"mask_id": 260})
    with pytest.raises(ValueError, match=r"with layers 2; .* has 3"):
        LM.load(other, adapter=adapter)
