"""The training loop: one window of micro-batches ahead, one update per step, chores between steps.

A step's gradient is the sum over its micro-batches, divided by counts taken over the whole step and all processes, so
that neither accumulation nor the number of processes changes what is minimised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.model.decoder import Decoder
from unmask.training import checkpoints
from unmask.training.attention import make_kernel
from unmask.training.cost import matmul_rate, step_flops
from unmask.training.forward import Hidden, clean_alone, clean_first, together
from unmask.training.layout import Doubled, double
from unmask.training.log import Log
from unmask.training.machine import (
    add_up,
    add_up_gradients,
    largest,
    own_part,
    processes,
    shard,
    spread_like,
    wait_for_all,
)
from unmask.training.objective import Counts, Sums, count, objective
from unmask.training.optim import Average, Optimisers, clip, rate
from unmask.training.sample import Sample, Stream
from unmask.training.settings import MANNER, TrainConfig, to_json
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
            identity = {"base": base, "mask_id": mask_id, "settings": to_json(config)}
            defaults = {"settings": to_json(TrainConfig(steps=1))}
            checkpoints.begin(self.folder, identity, [f"settings.{name}" for name in MANNER], defaults)
        wait_for_all()
        self.device = decoder.model.embed_tokens.weight.device
        if config.shard:
            shard(decoder, getattr(torch, config.dtype))
        torch.manual_seed(config.seed)
        self.parameters = make_trainable(decoder, config)
        self.optimisers = Optimisers(self.parameters, config.optimiser)
        self.average = Average(self.parameters, config.optimiser.ema) if config.optimiser.ema else None
        self.step = self.tokens = self.saved = 0
        self.elapsed = 0.0
        self.score: float | None = None
        self.stopping = False
        self.resume()
        self.peak = self.world * matmul_rate(getattr(torch, config.dtype), self.device)
        self.log = Log(self.folder / "log.jsonl", self.step) if rank == 0 else None

    def stop(self) -> None:
        """End the run after the step that is under way; a checkpoint is written. Safe in a signal handler."""
        self.stopping = True

    def resume(self) -> None:
        if not (every := checkpoints.saved(self.folder)):
            return
        state, tensors = every[-1].state, every[-1].tensors()
        self.step = self.saved = state["step"]
        self.tokens, self.elapsed = state["tokens"], state["seconds"]
        self.score = state.get("score")
        self.stream.restore(state["cursor"])
        load(self.parameters, tensors, "weight.", every[-1].folder)
        self.optimisers.restore(Under(tensors, "optimiser."))
        if self.average:
            load(self.average.values, tensors, "average.", every[-1].folder)
        torch.set_rng_state(tensors["generator"])

    def run(self) -> Report:
        """Train until the budget is spent. Raises FloatingPointError, with the batch's samples, if the loss is not a
        number; the last checkpoint is then from before."""
        begin, before, reason = self.clock(), self.elapsed, "done"
        figures = dict[str, Any]()
        while self.progress_made < 1:
            # Asked of one process or of all, at slightly different moments: they stop after the same step.
            if self.anyone(self.stopping):
                reason = "stopped"
                break
            window = self.stream.next_samples(self.config.samples_per_step)
            if len(window) < self.config.samples_per_step:
                reason = "data"
                break
            started = self.clock()
            figures = self.train(window)
            self.step += 1
            self.elapsed = largest([before + self.clock() - begin], self.device)[0]
            figures |= {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": round(self.elapsed, 3),
                "tokens_per_second": round(figures.pop("step_tokens") / max(self.clock() - started, 1e-9), 1),
                "mfu": round(figures.pop("flops") / max(self.clock() - started, 1e-9) / self.peak, 4),
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
        each = [[*count(b, self.config), b.clean, step_flops(self.decoder.config, self.config, b)] for b in batches]
        counted = add_up(torch.tensor(each, dtype=torch.float64, device=self.device).sum(dim=0)).tolist()
        counts, ramp = Counts(int(counted[0]), int(counted[1])), self.config.loss.ramp
        rise = 1.0 if self.progress_made >= ramp else self.progress_made / ramp
        sums = list[Tensor]()
        for batch in batches:
            done = self.forward(batch, counts, rise)
            if done.loss.requires_grad:
                (done.loss * (self.world if self.config.shard else 1)).backward()
            sums.append(torch.cat((done.loss.detach()[None], done.ar, done.noisy)).to(torch.float64))
        total = add_up(torch.stack(sums).sum(dim=0)).tolist()
        if not math.isfinite(total[0]):
            raise FloatingPointError(self.lost(batches))
        if self.world > 1 and not self.config.shard:
            add_up_gradients(self.parameters.values())
        norm = clip(self.parameters.values(), self.config.optimiser.clip)
        if not math.isfinite(norm):
            raise FloatingPointError(self.lost(batches))
        # The rate at the middle of the step, so that neither the first nor the last step has rate 0.
        factor = rate(self.progress_made + (0.5 / self.config.steps if self.config.steps else 0), self.config.optimiser)
        self.optimisers.step(factor)
        if self.average:
            self.average.update()
        self.tokens += int(counted[2])
        _, ar, draft, draft_weight, denoise, denoise_weight, coherence = total
        return {
            "loss": total[0],
            "ar": ar,
            "ar_count": counts.ar,
            "draft": draft,
            "draft_weight": draft_weight,
            "denoise": denoise,
            "denoise_weight": denoise_weight,
            "coherence": coherence,
            "eligible": counts.eligible,
            "lr": self.config.optimiser.lr * factor,
            "norm": norm,
            "step_tokens": counted[2],
            "flops": counted[3],
        }

    def forward(self, batch: Doubled, counts: Counts, rise: float) -> Sums:
        kernel = make_kernel(self.config.attention, batch, self.device)
        hidden: Hidden
        if self.config.stage == "filler":
            hidden = clean_alone(self.decoder, batch, kernel, self.config.adapter.name)
            return objective(self.decoder, batch, hidden, self.config, self.mask_id, counts, rise)
        if self.config.method == "adapter":
            hidden = clean_first(self.decoder, batch, kernel, self.config.adapter.name)
            return objective(self.decoder, batch, hidden, self.config, self.mask_id, counts, rise)
        with self.mixed():
            hidden = together(self.decoder, batch, kernel)
            return objective(self.decoder, batch, hidden, self.config, self.mask_id, counts, rise)

    def mixed(self) -> torch.autocast:
        """bfloat16 for products of float32 weights. A frozen model is bfloat16 itself, a sharded one casts itself."""
        needed = self.config.dtype == "bfloat16" and self.config.method == "joint" and not self.config.shard
        return torch.autocast(self.device.type, torch.bfloat16, enabled=needed)

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
        with torch.no_grad(), self.mixed():
            figures = self.evaluate(self.decoder)
        if self.average:
            self.average.swap()
        self.score = figures.get("score")
        return figures

    def anyone(self, wish: bool) -> bool:
        """Whether it is true in any process."""
        return largest([wish], self.device)[0] > 0

    def save(self) -> None:
        if self.step == self.saved:
            return
        tensors: dict[str, Tensor] = {f"weight.{name}": p for name, p in self.parameters.items()}
        tensors |= {f"optimiser.{name}": t for name, t in self.optimisers.tensors().items()}
        if self.average:
            tensors |= {f"average.{name}": t for name, t in self.average.values.items()}
        tensors["generator"] = torch.get_rng_state()
        state = {"step": self.step, "tokens": self.tokens, "seconds": self.elapsed, "cursor": self.stream.state()}
        state["score"] = self.score
        if self.config.shard:
            checkpoints.save_part(
                self.folder, own_part(tensors), state, self.config.keep_last, (self.rank, self.world), self.anyone
            )
        elif self.rank == 0:
            checkpoints.save(self.folder, tensors, state, self.config.keep_last)
        self.saved = self.step
        wait_for_all()


class Under(Mapping[str, Tensor]):
    """The tensors whose names begin with a prefix, under the rest of their names, each read when asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self.tensors if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@torch.no_grad()
def load(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str, folder: Path) -> None:
    """Copy the tensors named prefix + name into the parameters of that name."""
    for name, parameter in into.items():
        whole = tensors.get(prefix + name)
        if whole is None or whole.shape != parameter.shape:
            raise ValueError(f"checkpoint {folder} has no {prefix + name} of shape {list(parameter.shape)}")
        parameter.copy_(spread_like(whole, parameter))
