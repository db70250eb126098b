"""runs/decay_model.py, a few steps of it: what it makes loads, decodes in every mode, and knows no evaluation task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runs import decay_model, small_model
from unmask import LM
from unmask.evaluation.chains import KINDS, draw
from unmask.evaluation.decay.spec_tasks import SpecTask
from unmask.evaluation.decay.suite import Settings, run
from unmask.evaluation.revision import MOST
from unmask.evaluation.suite import Job


def test_no_task_of_the_suite_is_trained_on() -> None:
    prompts = {document["prompt"].split("rules")[0] for document in decay_model.decay_documents(300)}
    assert len(prompts) > 250
    assert not prompts & {SpecTask(number, 0, 0).prompt(()).split("rules")[0] for number in range(60)}
    document = next(decay_model.decay_documents(1))
    assert document["prompt"].endswith("\n```\n")
    assert document["completion"].endswith("\ndone")


def test_no_chain_of_the_suite_is_trained_on() -> None:
    asked = {draw(kind, 0, number).question for kind in KINDS for number in range(MOST)}
    found = list(decay_model.chain_documents(2000))
    assert len(found) == 2000
    assert not asked & {document["prompt"] for document in found}
    assert sum("Add" in document["prompt"] for document in found) > 300


def test_a_few_steps_make_a_model_that_the_suite_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    monkeypatch.setattr(decay_model, "SETTINGS", decay_model.SETTINGS | small)
    monkeypatch.setattr(decay_model, "BATCH", 2)
    out = decay_model.make(tmp_path, "decay", 40, 0.02, 2)
    assert decay_model.make(tmp_path, "decay", 40, 0.02, 2) == out, "what is there is not made again"
    lm = LM.load(out, dtype="float32", max_tokens_cached=2048)
    assert (lm.traits.mask_id, lm.traits.trained, lm.traits.block_size) == (small_model.MASK, True, 16)
    monkeypatch.setattr(SpecTask, "max_tokens", 20)
    settings = Settings(limit=1, levels=(0, 2), shots=0, enforcements=("prompt",))
    found = run(Job(lm, settings, tmp_path / "x.jsonl"))
    assert list(found["ways"]) == ["ar, prompt", "fastdiffuser, prompt"]
