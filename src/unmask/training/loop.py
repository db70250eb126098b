"""The training loop: one window of micro-batches ahead, one update per step, chores between steps.

A step's gradient is the sum over its micro-batches, divided by counts taken over the whole step and all processes, so
that neither accumulation nor the number of processes changes what is minimised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.model.decoder import Decoder
from unmask.training import checkpoints
from unmask.training.attention import make_kernel
from unmask.training.forward import Hidden, clean_first, together
from unmask.training.layout import Doubled, double
from unmask.training.log import Log
from unmask.training.machine import add_up, processes, wait_for_all
from unmask.training.objective import Counts, Sums, count, objective
from unmask.training.optim import Average, Optimisers, clip, rate
from unmask.training.sample import Sample, Stream
from unmask.training.settings import TrainConfig, to_json
from unmask.training.trainable import make_trainable

# Called after every step with what was logged (see `Trainer.figures`).
Progress = Callable[[dict[str, Any]], None]
# Measures the model as it stands; "score" is what is minimised.
Evaluate = Callable[[Decoder], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. reason: "done" (budget spent), "data" (no more samples), "stopped" (asked to)."""

    reason: str
    step: int
    tokens: int
    seconds: float
    figures: dict[str, Any]


class Trainer:
    """One run in a folder; an interrupted one goes on from its last checkpoint.

    decoder: in the dtype of the run, weights loaded. base: what is trained, as a name for `run.json`.
    """

    def __init__(
        self,
        decoder: Decoder,
        mask_id: int,
        config: TrainConfig,
        stream: Stream,
        folder: str | Path,
        *,
        base: str = "",
        evaluate: Evaluate | None = None,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        rank, world = processes()
        if config.accumulation % world:
            raise ValueError(
                f"accumulation must be a multiple of the number of processes ({world}), got {config.accumulation}"
            )
        self.decoder, self.mask_id, self.config, self.stream = decoder, mask_id, config, stream
        self.folder, self.rank, self.world = Path(folder), rank, world
        self.evaluate, self.progress, self.clock = evaluate, progress, clock
        if rank == 0:
            checkpoints.begin(self.folder, {"base": base, "mask_id": mask_id, "settings": to_json(config)})
        wait_for_all()
        self.parameters = make_trainable(decoder, config)
        self.optimisers = Optimisers(self.parameters, config.optimiser)
        self.average = Average(self.parameters, config.optimiser.ema) if config.optimiser.ema else None
        self.step = self.tokens = 0
        self.elapsed = 0.0
        self.score: float | None = None
        self.stopping = False
        self.resume()
        self.log = Log(self.folder / "log.jsonl", self.step) if rank == 0 else None

    def stop(self) -> None:
        """End the run after the step that is under way; a checkpoint is written. Safe in a signal handler."""
        self.stopping = True

    def resume(self) -> None:
        if not (every := checkpoints.saved(self.folder)):
            return
        state, tensors = every[-1].state, every[-1].tensors()
        self.step, self.tokens, self.elapsed = state["step"], state["tokens"], state["seconds"]
        self.score = state.get("score")
        self.stream.restore(state["cursor"])
        load(self.parameters, tensors, "weight.", every[-1].folder)
        self.optimisers.restore(under(tensors, "optimiser."))
        if self.average:
            load(self.average.values, tensors, "average.", every[-1].folder)
        torch.set_rng_state(tensors["generator"])

    def run(self) -> Report:
        """Train until the budget is spent. Raises FloatingPointError, with the batch's samples, if the loss is not a
        number; the last checkpoint is then from before."""
        begin, before, reason = self.clock(), self.elapsed, "done"
        figures = dict[str, Any]()
        while self.progress_made < 1:
            if self.stopping:
                reason = "stopped"
                break
            window = self.stream.next_samples(self.config.samples_per_step)
            if len(window) < self.config.samples_per_step:
                reason = "data"
                break
            started = self.clock()
            figures = self.train(window)
            self.step += 1
            self.elapsed = before + self.clock() - begin
            figures |= {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": round(self.elapsed, 3),
                "tokens_per_second": round(figures.pop("step_tokens") / max(self.clock() - started, 1e-9), 1),
            }
            last = self.progress_made >= 1
            if self.config.eval_every and (self.step % self.config.eval_every == 0 or last):
                figures |= {"eval": self.measure()}
            if self.log and (self.step % self.config.log_every == 0 or last or "eval" in figures):
                self.log.write(figures)
            if self.progress and self.rank == 0:
                self.progress(figures)
            if self.config.save_every and self.step % self.config.save_every == 0 and not last:
                self.save()
        self.save()
        return Report(reason, self.step, self.tokens, self.elapsed, figures)

    @property
    def progress_made(self) -> float:
        """From 0 to 1: of the steps, or of the minutes."""
        if self.config.steps is not None:
            return self.step / self.config.steps
        return self.elapsed / (60 * (self.config.minutes or 1))

    def train(self, window: Sequence[Sample]) -> dict[str, Any]:
        """One update from a step's samples; what was summed, for the log."""
        size = self.config.batch
        mine = range(self.rank, self.config.accumulation, self.world)
        batches = [double(window[i * size : (i + 1) * size], self.config, self.mask_id) for i in mine]
        counted = add_up(torch.tensor([[*count(batch), batch.clean] for batch in batches]).sum(dim=0)).tolist()
        counts, ramp = Counts(counted[0], counted[1]), self.config.loss.ramp
        rise = 1.0 if self.progress_made >= ramp else self.progress_made / ramp
        sums = list[Tensor]()
        for batch in batches:
            done = self.forward(batch, counts, rise)
            if done.loss.requires_grad:
                done.loss.backward()
            sums.append(torch.cat((done.loss.detach()[None], done.ar, done.noisy)).to(torch.float64))
        total = add_up(torch.stack(sums).sum(dim=0)).tolist()
        if not math.isfinite(total[0]):
            raise FloatingPointError(self.lost(batches))
        if self.world > 1:
            for parameter in self.parameters.values():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                add_up(parameter.grad)
        norm = float(clip(self.parameters.values(), self.config.optimiser.clip))
        if not math.isfinite(norm):
            raise FloatingPointError(self.lost(batches))
        # The rate at the middle of the step, so that neither the first nor the last step has rate 0.
        factor = rate(self.progress_made + (0.5 / self.config.steps if self.config.steps else 0), self.config.optimiser)
        self.optimisers.step(factor)
        if self.average:
            self.average.update()
        self.tokens += counted[2]
        _, ar, draft, draft_weight, denoise, denoise_weight = total
        return {
            "loss": total[0],
            "ar": ar,
            "ar_count": counts.ar,
            "draft": draft,
            "draft_weight": draft_weight,
            "denoise": denoise,
            "denoise_weight": denoise_weight,
            "eligible": counts.eligible,
            "lr": self.config.optimiser.lr * factor,
            "norm": norm,
            "step_tokens": counted[2],
        }

    def forward(self, batch: Doubled, counts: Counts, rise: float) -> Sums:
        device = self.decoder.model.embed_tokens.weight.device
        kernel = make_kernel(self.config.attention, batch, device)
        hidden: Hidden
        if self.config.method == "adapter":
            hidden = clean_first(self.decoder, batch, kernel, self.config.adapter.name)
            return objective(self.decoder, batch, hidden, self.config, self.mask_id, counts, rise)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16"):
            hidden = together(self.decoder, batch, kernel)
            return objective(self.decoder, batch, hidden, self.config, self.mask_id, counts, rise)

    def lost(self, batches: Sequence[Doubled]) -> str:
        names = ", ".join(str(index) for batch in batches for index in batch.sample_index)
        kept = checkpoints.saved(self.folder)
        where = f"the last good checkpoint is {kept[-1].folder}" if kept else "there is no checkpoint yet"
        return f"the loss is not a number in step {self.step + 1} (samples {names}); {where}; try a lower lr"

    def measure(self) -> dict[str, Any]:
        """Held-out figures of the averaged weights, or of the weights."""
        if self.evaluate is None:
            return {}
        if self.average:
            self.average.swap()
        with torch.no_grad():
            figures = self.evaluate(self.decoder)
        if self.average:
            self.average.swap()
        self.score = figures.get("score")
        return figures

    def save(self) -> None:
        if self.rank == 0 and (not (every := checkpoints.saved(self.folder)) or every[-1].step < self.step):
            tensors: dict[str, Tensor] = {f"weight.{name}": p for name, p in self.parameters.items()}
            tensors |= {f"optimiser.{name}": t for name, t in self.optimisers.tensors().items()}
            if self.average:
                tensors |= {f"average.{name}": t for name, t in self.average.values.items()}
            tensors["generator"] = torch.get_rng_state()
            state = {"step": self.step, "tokens": self.tokens, "seconds": self.elapsed, "cursor": self.stream.state()}
            checkpoints.save(self.folder, tensors, state | {"score": self.score}, self.config.keep_last)
        wait_for_all()


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def load(into: Any, tensors: dict[str, Tensor], prefix: str, folder: Path) -> None:
    """Copy the tensors named prefix + name into the parameters of that name."""
    for name, parameter in into.items():
        if prefix + name not in tensors or tensors[prefix + name].shape != parameter.shape:
            raise ValueError(f"checkpoint {folder} has no {prefix + name} of shape {list(parameter.shape)}")
        parameter.copy_(tensors[prefix + name])
