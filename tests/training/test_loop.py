"""Promise 8: a run that was stopped equals one that was not, on as many processes or fewer; and what ends a run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import tiny
from unmask.training import checkpoints
from unmask.training.log import read
from unmask.training.loop import Trainer
from unmask.training.sample import Sample
from unmask.training.settings import TrainConfig

METHODS = ["joint", "adapter"]
LOSSES = Path(__file__).parent / "losses.txt"


def trainer(folder: Path, config: TrainConfig, **more: Any) -> Trainer:
    model = tiny.decoder(getattr(torch, config.dtype) if config.dtype != "bfloat16" else torch.float32)
    return Trainer(model, tiny.MASK, config, more.pop("stream", tiny.Patterns()), folder, **more)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def stop_after(run: Trainer, step: int, where: str = "progress") -> None:
    """Ask the run to stop: after a step, or already while it is under way (the callback is for process 0 only)."""
    plain = run.forward

    def forward(*given: Any) -> Any:
        run.stopping |= run.step + 1 == step
        return plain(*given)

    if where == "forward":
        run.forward = forward  # type: ignore[assignment, method-assign]
        return

    def progress(figures: dict[str, Any]) -> None:
        if figures["step"] == step:
            run.stop()

    run.progress = progress


def figures(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    clock = ("seconds", "tokens_per_second", "mfu")
    return [{k: v for k, v in line.items() if k not in clock} for line in read(folder / "log.jsonl")]


SETTINGS: list[dict[str, Any]] = [
    {"method": "adapter", "optimiser_ema": 0.9},
    {"method": "joint", "optimiser_kind": "muon", "accumulation": 2},
    {"method": "joint", "dtype": "bfloat16", "activation_checkpointing": True},
    {"method": "adapter", "dtype": "float32", "loss_first_error": True, "views": 2, "seed_placement": "copy"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_stopped_and_resumed_is_the_same_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = tiny.config(save_every=3, **settings)
    whole = trainer(tmp_path / "whole", config)
    assert whole.run().reason == "done"
    first = trainer(tmp_path / "parts", config)
    stop_after(first, 5)
    report = first.run()
    assert (report.reason, report.step) == ("stopped", 5)
    again = trainer(tmp_path / "parts", config)
    assert again.step == 5
    assert again.run().step == 8
    for name, parameter in weights(whole).items():
        assert torch.equal(parameter, weights(again)[name]), name
    if whole.average and again.average:
        for name, value in whole.average.values.items():
            assert torch.equal(value, again.average.values[name])
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def test_killed_and_resumed_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """A real kill -9 in the middle of step 6; the last checkpoint is of step 3."""
    config = tiny.config(save_every=3)
    trainer(tmp_path / "whole", config).run()
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.training import tiny, test_loop\n"
        "run = test_loop.trainer(Path(sys.argv[1]), tiny.config(save_every=3))\n"
        "plain = run.optimisers.step\n"
        "run.optimisers.step = lambda f: os.kill(os.getpid(), signal.SIGKILL) if run.step == 5 else plain(f)\n"
        "run.run()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "parts")], check=False, env=environment())
    assert done.returncode == -signal.SIGKILL
    again = trainer(tmp_path / "parts", config)
    assert again.step == 3
    again.run()
    whole = checkpoints.saved(tmp_path / "whole")[-1].tensors()
    for name, tensor in checkpoints.saved(tmp_path / "parts")[-1].tensors().items():
        assert torch.equal(tensor, whole[name]), name
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'src'}"}


PROCESS = """
import json, os, sys, torch.distributed as dist
from pathlib import Path
from tests.training import tiny, test_loop
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[4]}
dist.init_process_group("gloo", rank=int(sys.argv[2]), world_size=int(sys.argv[5]))
for name, settings in json.loads(sys.argv[3]).items():
    run = test_loop.trainer(Path(sys.argv[1]) / name, tiny.config(**settings))
    if dist.get_rank() == 1:
        test_loop.stop_after(run, 4, where="forward")
    run.run()
dist.barrier()
dist.destroy_process_group()
sys.stderr.flush()
os._exit(0)  # all is written; threads of torch's own now and then abort a process that ends by itself
"""


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


SPREAD: dict[str, dict[str, Any]] = {
    "adapter": {"method": "adapter", "accumulation": 4, "batch": 1},
    "joint": {"method": "joint", "accumulation": 4, "batch": 1},
    "sharded": {"method": "joint", "accumulation": 4, "batch": 1, "shard": True},
}


@pytest.fixture(scope="module", params=[2, 4])
def on_several_processes(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Four steps of each run on two or four processes, one of which is then asked to stop, and a checkpoint."""
    folder, world = tmp_path_factory.mktemp("several"), str(request.param)
    given = [json.dumps(SPREAD), str(free_port()), world]
    arguments = [[sys.executable, "-c", PROCESS, str(folder), str(rank), *given] for rank in range(request.param)]
    running = [subprocess.Popen(each, env=environment(), stderr=subprocess.PIPE, text=True) for each in arguments]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
    return folder


@pytest.mark.parametrize("name", SPREAD)
def test_several_processes_then_one_equal_one(tmp_path: Path, on_several_processes: Path, name: str) -> None:
    config = tiny.config(**SPREAD[name])
    again = trainer(on_several_processes / name, replace(config, shard=False))
    assert again.step == 4
    again.run()
    whole = trainer(tmp_path / "whole", replace(config, shard=False))
    whole.run()
    for key, parameter in weights(whole).items():
        torch.testing.assert_close(weights(again)[key], parameter, rtol=1e-9, atol=1e-11)
    losses = [[line["loss"] for line in figures(run)] for run in (on_several_processes / name, tmp_path / "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_accumulation_is_one_large_batch(tmp_path: Path) -> None:
    one = trainer(tmp_path / "one", tiny.config(method="joint", batch=4))
    two = trainer(tmp_path / "two", tiny.config(method="joint", batch=1, accumulation=4))
    for run in (one, two):
        run.run()
    for name, parameter in weights(one).items():
        torch.testing.assert_close(parameter, weights(two)[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", [{}, {"dtype": "bfloat16"}])
def test_training_an_adapter_leaves_the_base_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = tiny.config(loss_slot_decay=0.9, **settings)
    model = tiny.decoder(getattr(torch, config.dtype))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = Trainer(model, tiny.MASK, config, tiny.Patterns(), tmp_path)
    started = weights(run)
    run.run()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    trained = [p for name, p in run.parameters.items() if not torch.equal(p, started[name])]
    assert len(trained) == len(run.parameters)
    assert all(parameter.dtype == (torch.float64 if not settings else torch.float32) for parameter in trained)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_learns(tmp_path: Path, method: Any) -> None:
    """A pattern of seven tokens: half the loss is gone after 60 steps, in AR and in masked rows."""
    run = trainer(tmp_path, tiny.config(method=method, steps=60, batch=4, optimiser_lr=0.02, dtype="float32"))
    run.run()
    lines = figures(tmp_path)
    kinds = ("denoise", "draft") if method == "adapter" else ("denoise", "draft", "ar")
    for kind in kinds:
        weight = "ar_count" if kind == "ar" else f"{kind}_weight"
        early, late = (
            sum(line[kind] for line in part) / sum(line[weight] for line in part) for part in (lines[:5], lines[-5:])
        )
        if not (method == "adapter" and kind == "draft"):  # the teacher is random: it cannot be learned as fast
            assert late < early / 2, kind
        assert late < early, kind


def test_recorded_losses(tmp_path: Path) -> None:
    """A refactor that should not change numbers must not: `python -m tests.training.test_loop` records anew."""
    recorded = [line.split() for line in LOSSES.read_text().splitlines() if not line.startswith("#")]
    assert len(recorded) == 60
    found = recorded_run(tmp_path)
    for (step, value), (now, loss) in zip(recorded, found, strict=True):
        assert int(step) == now
        assert loss == pytest.approx(float(value), rel=1e-8), f"step {step}"


def recorded_run(folder: Path) -> list[tuple[int, float]]:
    config = tiny.config(
        method="joint",
        steps=60,
        batch=3,
        loss_ramp=0.1,
        optimiser_kind="muon",
        blocks_random_sizes=(2, 6),
        blocks_random_share=0.3,
        noise_complementary=True,
        optimiser_weight_decay=0.01,
    )
    trainer(folder, config).run()
    return [(line["step"], line["loss"]) for line in figures(folder)]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_batch(tmp_path: Path) -> None:
    run = trainer(tmp_path, tiny.config(save_every=2))
    plain = run.forward

    def poisoned(batch: Any, *more: Any) -> Any:
        done = plain(batch, *more)
        return replace(done, loss=done.loss * float("nan")) if 9 in batch.sample_index else done

    run.forward = poisoned  # type: ignore[assignment, method-assign]
    message = r"not a number in step 5 \(samples 8, 9\); the last good checkpoint is .*000004; try a lower lr"
    with pytest.raises(FloatingPointError, match=message):
        run.run()
    assert [item.step for item in checkpoints.saved(tmp_path)] == [2, 4]
    assert trainer(tmp_path, tiny.config(save_every=2)).step == 4


def test_the_data_may_end_first(tmp_path: Path) -> None:
    report = trainer(tmp_path, tiny.config(), stream=tiny.Patterns(count=7)).run()
    assert (report.reason, report.step, report.tokens) == ("data", 3, 3 * 2 * 24)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    trainer(tmp_path, tiny.config()).run()
    again = trainer(tmp_path, tiny.config())
    before = weights(again)
    assert again.run().step == 8
    assert all(torch.equal(before[name], parameter) for name, parameter in weights(again).items())


def test_minutes_are_a_budget_too(tmp_path: Path) -> None:
    time = [0.0]

    def clock() -> float:
        time[0] += 1.0
        return time[0]

    config = tiny.config(minutes=1, save_every=5)
    first = trainer(tmp_path, config, clock=clock)
    stop_after(first, 5)
    first.run()
    spent = first.elapsed
    report = trainer(tmp_path, config, clock=clock).run()
    assert report.reason == "done"
    assert 60 <= report.seconds < 66
    assert spent < 30
    rates = [line["lr"] for line in figures(tmp_path)]
    assert rates[-1] < rates[5] == config.optimiser.lr


def test_evaluation_scores_checkpoints_by_averaged_weights(tmp_path: Path) -> None:
    seen = list[torch.Tensor]()
    scores = iter([3.0, 1.0, 2.0, 5.0])

    def evaluate(model: Any) -> dict[str, Any]:
        assert not torch.is_grad_enabled()
        seen.append(model.lm_head.weight.detach().clone())
        return {"score": next(scores)}

    config = tiny.config(method="joint", optimiser_ema=0.9, eval_every=2, save_every=2, keep_last=1)
    run = trainer(tmp_path, config, evaluate=evaluate)
    run.run()
    assert run.average is not None
    assert torch.equal(seen[-1], run.average.values["lm_head.weight"])
    assert not torch.equal(seen[-1], run.parameters["lm_head.weight"])
    assert [(item.step, item.score) for item in checkpoints.saved(tmp_path)] == [(4, 1.0), (8, 5.0)]
    assert [line["eval"]["score"] for line in figures(tmp_path) if "eval" in line] == [3.0, 1.0, 2.0, 5.0]


def test_other_settings_or_another_model_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, tiny.config()).run()
    with pytest.raises(ValueError, match=r"settings\.optimiser\.lr was 0\.01, now 0\.02"):
        trainer(tmp_path, tiny.config(optimiser_lr=0.02))
    with pytest.raises(ValueError, match="base was '', now 'other'"):
        trainer(tmp_path, tiny.config(), base="other")


def test_checkpoints_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, tiny.config(method="joint")).run()
    with pytest.raises(ValueError, match=r"has no weight\.model\.embed_tokens\.weight of shape \[61, 16\]"):
        Trainer(tiny.decoder(hidden_size=16), tiny.MASK, tiny.config(method="joint"), tiny.Patterns(), tmp_path)


def test_a_sample_with_nothing_to_learn_is_no_error(tmp_path: Path) -> None:
    class Silent(tiny.Patterns):
        def next_samples(self, n: int) -> list[Sample]:
            return [replace(s, supervised=s.supervised & False) for s in super().next_samples(n)]

    for method in METHODS:
        report = trainer(tmp_path / method, tiny.config(method=method, steps=2), stream=Silent()).run()
        assert report.step == 2
        assert report.figures["loss"] == 0


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        torch.set_num_threads(1)
        rows = "".join(f"{step} {loss:.12g}\n" for step, loss in recorded_run(Path(made)))
        LOSSES.write_text("# step and loss of test_loop.recorded_run\n" + rows)
