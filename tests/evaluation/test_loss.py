"""The loss of an arithmetic: none against itself, and what two models give by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from unmask import LM
from unmask.evaluation.likelihood import scored
from unmask.evaluation.loss import loss

TEXTS = ["the cat sat on the mat", "a dog and a cat", "x"]


def test_a_model_loses_nothing_against_itself(tiny_folder: Path) -> None:
    lm = LM.load(tiny_folder, dtype="float32")
    found = loss(lm, lm, TEXTS)
    assert found.perplexity == found.reference
    assert found.agreement == 1.0


def test_perplexities_are_those_of_the_likelihoods(tiny_folder: Path) -> None:
    lm, coarse = LM.load(tiny_folder, dtype="float32"), LM.load(tiny_folder, dtype="float32", quantize="int8")
    found = loss(coarse, lm, TEXTS, most=5)
    for model, perplexity in ((coarse, found.perplexity), (lm, found.reference)):
        ids = [model.encode(text)[:5] for text in TEXTS]
        logs = [one.log_likelihood for each in ids if len(each) > 1 for one in scored(model, each[:1], each[1:])]
        assert found.tokens == len(logs)
        assert perplexity == pytest.approx(math.exp(-sum(logs) / len(logs)), rel=1e-6)
    assert found.perplexity != found.reference
    assert 0 < found.agreement <= 1
    assert lm.engine.pages.in_use == coarse.engine.pages.in_use == 0


def test_texts_without_a_second_token_are_refused(tiny_folder: Path) -> None:
    lm = LM.load(tiny_folder, dtype="float32")
    with pytest.raises(ValueError, match="no token that another one follows"):
        loss(lm, lm, [""])
