"""What a step costs: logits of the rows that are read and of no other, one synchronisation, no vocabulary kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.tiny import MASK, VOCAB, decoder, engine
from unmask.engine.engine import Engine
from unmask.engine.runner import READ_ROWS, Runner
from unmask.model.attention import PagedAttention
from unmask.types import Diffusion, Request, Sampling, Speculation, Traits

# What waits for the device wherever the tensors are: values that decide about shapes or come to the host.
SYNCS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique2")


class Syncs(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names = list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # A boolean index hides a nonzero; an index of row numbers does not.
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 else ()) or ()
        )
        if name in SYNCS or masks:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def mixed() -> Engine:
    """Five modes at once, with and without sampling, penalties, log-probabilities and long prompts."""
    mine = engine(400, model=decoder())
    traits = Traits(MASK, draft_adapter="draft", denoise_adapter="draft")
    sampled = Sampling(0.9, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.2, logit_bias=((3, 1.0),), seed=5)
    for strategy, own, sampling in (
        ("ar", None, Sampling()),
        ("ar", None, sampled),
        ("fastdiffuser", Diffusion(8, sampler="entropy", revision_threshold=0.1), Sampling()),
        ("fastdiffuser", Diffusion(8), sampled),
        ("linearspec", Speculation(8), sampled),
        ("quadspec", Speculation(6), Sampling()),
        ("adaptivespec", Speculation(8, costs=((1, 1.0), (99, 1.1))), sampled),
    ):
        prompt = tuple(range(30))
        mine.submit(
            Request(
                prompt, 20, strategy, own, sampling, traits, min_tokens=3, stop_ids=(4,), logprobs=2, prefill_chunk=8
            )
        )
    return mine


def spied(mine: Engine, patch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """(rows of each call of decoder.logits, rows read by each forward), filled as the engine runs."""
    assert isinstance(mine.runner, Runner)
    logits, run = mine.runner.decoder.logits, mine.runner.run
    computed, read = list[int](), list[int]()

    def spy_logits(hidden: Tensor) -> Tensor:
        computed.append(len(hidden))
        return logits(hidden)

    def spy_run(jobs: Any) -> Any:
        read.append(sum(len(one.rows) for job in jobs for one in job.plan.reads))
        return run(jobs)

    patch.setattr(mine.runner.decoder, "logits", spy_logits)
    patch.setattr(mine.runner, "run", spy_run)
    return computed, read


def test_only_rows_that_are_read_get_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = mixed()
    computed, read = spied(mine, monkeypatch)
    rows = prefill = 0
    while mine.busy:
        before = len(computed)
        rows += sum(update.state.stats.rows for update in mine.step() if update.outcome.finish)
        assert sum(computed[before:]) == read[-1]
        prefill += read[-1] == 0
    assert max(computed) <= READ_ROWS
    assert prefill > 0, "no forward was all prompt"
    assert sum(computed) < rows


def test_a_step_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, calls = mixed(), list[str]()
    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__"):
        original: Callable[..., Any] = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            calls.append(name)
            return original(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    most = 0
    while mine.busy:
        calls.clear()
        with Syncs() as syncs:
            mine.step()
        assert not syncs.names
        assert calls in ([], ["tolist"])
        most = max(most, len(calls))
    assert most == 1


def test_no_tensor_of_the_vocabulary_outlives_a_step() -> None:
    mine = mixed()
    assert isinstance(mine.runner, Runner)

    def wide() -> list[Tensor]:
        """Rows of logits; other tensors may happen to have as many rows."""
        return [one for one in gc.get_objects() if type(one) is Tensor and one.dim() == 2 and one.shape[1] == VOCAB]

    gc.collect()
    before = wide()
    while mine.busy:
        mine.step()
        assert all(any(one is known for known in before) for one in wide())


@pytest.mark.parametrize("exactness", ["exact", "fast"])
def test_a_forward_is_freed_at_once(exactness: str) -> None:
    """Nothing of it waits for the garbage collector: masks of a long context would fill the device until then."""
    mine = engine(model=decoder(), exactness=exactness)
    gc.collect()
    gc.disable()
    try:
        mine.generate(Request((1, 2, 3), 4, "linearspec", traits=Traits(MASK)))
        assert not [one for one in gc.get_objects() if type(one) is PagedAttention]
    finally:
        gc.enable()
