"""benchmarks/training_speed.py compares like with like: the plain doubled loop has the objective of ours."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.training_speed import PEERS, Texts, plain_doubled, run_ours, settings, summary, write_small


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("small")
    write_small(folder)
    return argparse.Namespace(folder=str(folder), batch=2, length=40, steps=1)


def test_the_plain_loop_has_our_loss(given: argparse.Namespace) -> None:
    ours = run_ours("ours, joint", given)
    model = AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        samples = Texts(model.config.vocab_size, given.length).next_samples(given.batch)
        plain = plain_doubled(settings("ours, joint", given))(model, samples)
    assert ours["first_loss"] == pytest.approx(float(plain), rel=2e-3)
    assert ours["speed"] > 0


def test_ratios_are_of_the_same_round() -> None:
    rounds = {peer: [{"speed": s * k, "peak_mb": 1.0, "first_loss": 2.0} for s in (1, 10, 3)]
              for k, peer in enumerate(PEERS, 1)}  # fmt: skip
    row = summary("ours, joint", rounds)
    assert (row["speed"], row["low"], row["high"]) == (6.0, 2.0, 20.0)
    assert (row["against_ar"], row["against_doubled"]) == (0.667, 0.5)
    assert json.dumps(row)
