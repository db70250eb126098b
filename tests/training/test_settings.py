"""Settings: one clear line for what is not allowed, JSON there and back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.training import tiny
from unmask.training import machine
from unmask.training.attention import Dense
from unmask.training.cost import adapter_size, matmul_rate, step_flops
from unmask.training.forward import clean_first, together
from unmask.training.layout import double
from unmask.training.objective import Counts, count, objective
from unmask.training.settings import Adapter, Blocks, Loss, Noise, Optimiser, TrainConfig, from_json, to_json

WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Blocks(size=0), "block size must be at least 1, got 0"),
    (lambda: Blocks(skip=0), "skip must be at least 1, got 0"),
    (lambda: Loss(denoise=-1), "denoise must be 0 or more, got -1"),
    (lambda: Blocks(draft_size=1), "draft_size must be at least 2, got 1"),
    (lambda: Blocks(full_share=1.5), r"full_share must be between 0 and 1, got 1\.5"),
    (lambda: Blocks(random_share=0.5), "random_share must be 0 without sizes"),
    (lambda: Blocks(random_sizes=(0,)), "random_sizes must be sizes of at least 1"),
    (lambda: Blocks(curriculum=((5, 4), (2, 8))), "curriculum must be pairs .* in ascending order"),
    (lambda: Noise(law="cosine"), "law must be 'uniform' or 'exponential' or 'linear', got 'cosine'"),  # type: ignore[arg-type]
    (lambda: Noise(mode="bernoulli"), "mode must be 'exact' with law 'exponential', got 'bernoulli'"),
    (lambda: Noise(half_life=0), "half_life must be above 0 and at most 1, got 0"),
    (lambda: Noise(low=0.9, high=0.2), "must be 0 < low <= high <= 1, got"),
    (lambda: Noise(weight_cap=0.5), r"weight_cap must be at least 1, got 0\.5"),
    (lambda: Loss(form="sum"), "form must be 'nld' or 'article', got 'sum'"),  # type: ignore[arg-type]
    (lambda: Loss(form="article", alpha=2), "alpha must be at most 1 in the article's form, got 2"),
    (lambda: Loss(slot_decay=0), "slot_decay must be above 0 and at most 1, got 0"),
    (lambda: Optimiser(lr=-1), "lr must be above 0, got -1"),
    (lambda: Optimiser(lr=float("nan")), "lr must be above 0, got nan"),
    (lambda: Optimiser(warmup=0.6, decay=0.6), r"warmup \+ decay must be at most 1, got 1\.2"),
    (lambda: Optimiser(betas=(0.9, 1.0)), "betas must be at least 0 and below 1"),
    (lambda: Optimiser(ema=1.0), "ema must be at least 0 and below 1"),
    (lambda: Adapter(targets=("lm_head",)), "targets must be some of q_proj, k_proj"),
    (lambda: Adapter(name="a/b"), "adapter name must be a plain word, got 'a/b'"),
    (lambda: Adapter(rank=0), "rank must be at least 1, got 0"),
    (lambda: TrainConfig(), "give a budget, either steps or minutes; got steps None, minutes None"),
    (lambda: TrainConfig(steps=1, minutes=1), "give a budget, either steps or minutes; got steps 1, minutes 1"),
    (lambda: TrainConfig(minutes=0), "minutes must be above 0, got 0"),
    (lambda: TrainConfig(steps=1, method="lora"), "method must be 'joint' or 'adapter', got 'lora'"),  # type: ignore[arg-type]
    (lambda: TrainConfig(steps=1, batch=0), "batch must be at least 1, got 0"),
    (lambda: TrainConfig(steps=1, method="joint", stage="drafter"), "stage 'drafter' trains an adapter"),
    (lambda: TrainConfig(steps=1, stage="drafter"), r"full_share must be 1, got 0\.25"),
    (lambda: TrainConfig(steps=1, context="noisy", seed_placement="copy"), "context 'noisy' has neither"),
    (lambda: TrainConfig(steps=1, shard=True), "shard is for method 'joint'"),
    (
        lambda: TrainConfig(steps=1, method="joint", shard=True, optimiser=Optimiser(kind="muon")),
        "optimiser must be 'adamw'",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_what_is_not_allowed_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_json_there_and_back() -> None:
    config = tiny.config(blocks_curriculum=((0, 2), (9, 4)), optimiser_betas=(0.8, 0.9), method="joint")
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    with pytest.raises(ValueError, match=r"no setting is called 'blocks\.length'; there are: size, draft_size"):
        from_json({"steps": 1, "blocks": {"length": 3}})
    with pytest.raises(ValueError, match="no setting is called 'epochs'"):
        from_json({"steps": 1, "epochs": 3})


class Counter(TorchDispatchMode):
    """torch's FlopCounterMode without its module hooks, which do not allow `autograd.grad`."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def test_flops_of_a_step_count_its_products() -> None:
    """Against torch's own counter, for a dense forward and backward (which also counts pairs that are masked)."""
    for method in ("joint", "adapter"):
        config = tiny.config(method=method, loss_chunk=1000)
        model = tiny.decoder(torch.float32, layers=3, hidden_size=64, intermediate_size=256)
        tiny.trained(model, config)
        doubled = double([tiny.sample(0, (24,))], config, tiny.MASK)
        with Counter() as counter:
            run = together if method == "joint" else clean_first
            hidden = run(model, doubled, Dense(doubled), None if method == "joint" else "unmask")
            objective(model, doubled, hidden, config, tiny.MASK, Counts(*count(doubled, config)), 1.0).loss.backward()
        ours = step_flops(model.config, config, doubled)
        assert 0.85 < ours / counter.flops < 1.05


def test_adapter_size_is_that_of_its_parameters() -> None:
    config, model = tiny.config(), tiny.decoder()
    parameters = tiny.trained(model, config)
    total = sum(p.numel() for name, p in parameters.items() if ".lora_" in name)
    assert adapter_size(model.config, config) == total


def test_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.processes() == (0, 1)
    assert matmul_rate(torch.float32, torch.device("cpu"), size=64, seconds=0.01) > 0
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    machine.prepare_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "1"
    tensors = {"a": torch.arange(3)}
    assert machine.own_part(tensors)["a"] is tensors["a"]
    assert machine.largest([1.0, 2.0], torch.device("cpu")) == [1.0, 2.0]
    machine.wait_for_all()
