"""Measurements against brute force: one block at a time, one forward each, on the spans that inference runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training import tiny
from tests.training.test_layout import run_spans
from unmask.decoding.common import group, group_rows
from unmask.model.coherence import CANDIDATES
from unmask.model.decoder import Decoder
from unmask.training.layout import double
from unmask.training.measure import measure, summary
from unmask.training.settings import TrainConfig
from unmask.types import Span, Traits

SAMPLES = [tiny.sample(i, (10, 14), period=7) for i in range(3)]


def set_up(**changes: Any) -> tuple[TrainConfig, Decoder]:
    config = tiny.config(**changes)
    model = tiny.decoder()
    tiny.trained(model, config)
    return config, model


def likeliest(model: Decoder, hidden: torch.Tensor) -> list[int]:
    logits = model.logits(hidden)
    logits[:, tiny.MASK] = -math.inf
    return logits.argmax(dim=-1).tolist()


def linked(model: Decoder, hidden: torch.Tensor, before: tuple[int, ...]) -> list[int]:
    """What the coherence head chooses after the given tokens."""
    logits = model.logits(hidden)
    logits[:, tiny.MASK] = -math.inf
    chosen = logits.topk(CANDIDATES).indices
    change = model.coherence["unmask"](model.model.norm(hidden), model.model.embed_tokens.weight[list(before)])
    scores = (logits + change @ model.lm_head.weight.T).gather(1, chosen)
    return chosen.gather(1, scores.argmax(dim=-1, keepdim=True))[:, 0].tolist()


@pytest.mark.parametrize(("placement", "width"), [("block", 0), ("causal", 9), ("copy", 9)])
def test_acceptance_profile_by_brute_force(placement: Any, width: int) -> None:
    config, model = set_up(seed_placement=placement, blocks_draft_size=4, adapter_coherence=width)
    traits = Traits(tiny.MASK, trained=True, seed=placement, draft_adapter="unmask")
    slots = 4 - (placement != "causal")
    right, runs, later = np.zeros((slots, 2)), list[int](), list[int]()
    for sample in SAMPLES:
        for document in (0, 1):
            ids = tuple(sample.ids[sample.document == document].tolist())
            own = likeliest(model, run_spans(model, (Span(ids, 0),)))
            for first in range(1, len(ids), 4):
                # In the block, the seed is its first token; else the token before it.
                at = first - (placement == "causal")
                masks = min(first + 4, len(ids)) - at - 1
                if masks == 0:
                    continue
                span = group(traits, ids[at], at, masks, ((0, at),), (0, at + 1))
                rows = [at + 1 + row for row in group_rows(traits, range(masks))]
                hidden = run_spans(model, (Span(ids[: at + 1], 0), span))[rows]
                drafted = linked(model, hidden, ids[at : at + masks]) if width else likeliest(model, hidden)
                good = [drafted[j] == own[at + j] for j in range(masks)]
                for slot, value in enumerate(good):
                    right[slot] += (value, 1)
                if masks == slots:
                    runs.append(int(np.cumprod(good).sum()))
                    later.append(int(np.cumprod(good[1:]).sum()))
    found = measure(model, SAMPLES, config, tiny.MASK, points=1)
    profile = right[:, 0] / right[:, 1]
    assert found["acceptance"] == [round(value, 4) for value in profile.tolist()]
    assert found["accepted"] == pytest.approx(np.cumprod(profile).sum())
    assert found["tokens_per_round"] == found["accepted"] + 1
    assert found["accepted_run"] == pytest.approx(np.mean(runs))
    assert found["accepted_later"] == pytest.approx(np.mean(later))
    assert found["score"] == pytest.approx(1 / found["tokens_per_round"])


def test_ar_perplexity_is_that_of_plain_forwards() -> None:
    for method in ("joint", "adapter"):
        config, model = set_up(method=method)
        nll, count = 0.0, 0
        for sample in SAMPLES:
            for document in (0, 1):
                ids = sample.ids[sample.document == document]
                logits = model.logits(run_spans(model, (Span(tuple(ids.tolist()), 0),))[:-1])
                logits[:, tiny.MASK] = -math.inf
                nll += F.cross_entropy(logits, torch.from_numpy(ids[1:]), reduction="sum").item()
                count += len(ids) - 1
        found = measure(model, SAMPLES, config, tiny.MASK, points=1)
        assert found["ar_nll"] == pytest.approx(nll / count)
        assert found["ar_ppl"] == pytest.approx(math.exp(nll / count))


def test_nelbo_of_a_model_that_knows_nothing_is_the_entropy() -> None:
    """With logits all equal every masked token costs log(V - 1), and 1 / t weights make the bound exact on average."""
    config, model = set_up(method="joint")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = measure(model, [tiny.sample(i, (24,)) for i in range(60)], config, tiny.MASK, points=8)
    assert found["nelbo"] == pytest.approx(math.log(tiny.VOCAB - 1), rel=0.03)
    assert found["ar_nll"] == pytest.approx(math.log(tiny.VOCAB - 1))


def test_nelbo_and_accuracy_by_hand() -> None:
    config, model = set_up(method="joint")
    found = measure(model, SAMPLES, config, tiny.MASK, points=3, batch=2)
    assert sum(rows for _, _, rows in found["accuracy_by_ratio"]) > 0
    assert len(found["accuracy_by_position"]) == config.blocks.size
    assert all(0 <= value <= 1 for _, value, _ in found["accuracy_by_ratio"])
    assert found["score"] == pytest.approx(found["ar_nll"] + 0.3 * found["nelbo"])
    assert found == measure(model, SAMPLES, replace(config, seed=9), tiny.MASK, points=3, batch=3) | {
        key: found[key]
        for key in ("nelbo", "nelbo_ppl", "ar_nll", "ar_ppl", "score")  # up to rounding
    }


def test_measuring_changes_nothing() -> None:
    config, model = set_up()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure(model, SAMPLES, config, tiny.MASK, points=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    doubled = double(SAMPLES, config, tiny.MASK)
    assert doubled.noisy > 0


def test_nothing_measured_is_no_error() -> None:
    config, _ = set_up()
    empty = {"nll": 0.0, "targets": 0, "bound": 0.0, "eligible": 0}
    found = summary(empty, np.zeros((6, 2)), np.zeros((4, 2)), np.zeros((4, 2)), [], [], config)
    assert (found["tokens_per_round"], found["accepted_run"], found["accuracy_by_ratio"]) == (1.0, 0.0, [])
