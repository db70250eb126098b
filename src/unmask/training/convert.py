"""A whole conversion: a model and some text in, a folder that `LM.load` takes out. Interrupted ones go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from unmask.model import store
from unmask.model.checkpoint import AdapterWeights, Checkpoint, load_into, open_checkpoint, read_adapter
from unmask.model.decoder import Decoder
from unmask.text import Tokenizer
from unmask.training.export import export_adapter, export_model
from unmask.training.gap_measure import held_gaps, suffix_gain
from unmask.training.gaps import GapStream, resolved
from unmask.training.log import read
from unmask.training.loop import Evaluate, Progress, Report, Trainer
from unmask.training.machine import prepare_memory, processes
from unmask.training.measure import measure
from unmask.training.packing import Data, held_out, open_stream
from unmask.training.plot import can_plot, plot_run
from unmask.training.sample import Sample, Stream
from unmask.training.settings import TrainConfig, to_json
from unmask.training.trainable import adapter_weights, start_from
from unmask.types import Traits

PLOT = "plot.png"  # in the folder of a run


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to convert. run: folder of checkpoints and logs; the same call goes on from it. held: samples measured.

    start: folder of an adapter that the new one begins as.
    """

    model: str
    data: Data
    config: TrainConfig
    out: Path
    run: Path
    mask_id: int | None = None
    held: int = 16
    start: Path | None = None
    overwrite: bool = False


def convert(
    what: Conversion,
    progress: Progress | None = None,
    started: Callable[[Trainer], None] | None = None,
) -> Report:
    """Train and export. started: gets the trainer before its first step, to be able to stop it.

    The folder is written when the run is over, and also when it was stopped: then with what was reached. Where
    matplotlib is there, RUN/plot.png shows the run.
    Raises ValueError, OSError (one line each) and FloatingPointError (see `Trainer.run`).
    """
    prepare_memory()
    if what.out.exists() and any(what.out.iterdir()) and not what.overwrite:
        raise FileExistsError(f"{what.out} is there already: choose another folder, or overwrite it")
    with distributed():
        checkpoint = open_checkpoint(store.resolve(what.model))
        mask_id = mask_of(checkpoint, what.mask_id)
        begins = None if what.start is None else adapter_to_start_from(what, checkpoint)  # before anything is written
        decoder = load(checkpoint, what.config)
        tokenizer = checkpoint.tokenizer()
        what = replace(what, config=resolved(what.config, tokenizer, mask_id))
        cache = store.home() / "corpora" / "tokens"
        traits_after(checkpoint.traits, what.config, mask_id)  # what cannot be is told before anything is trained
        stream: Stream = open_stream(what.data, tokenizer, what.config.length, what.config.seed, cache=cache)
        if what.config.infill.share:
            stream = GapStream(stream, tokenizer, what.config)
        samples = held_out(what.data, tokenizer, what.config.length, what.held)
        trainer = Trainer(
            decoder,
            mask_id,
            what.config,
            stream,
            what.run,
            base=what.model if what.start is None else f"{what.model} with {what.start}",
            evaluate=measures(what.config, samples, tokenizer, mask_id) if samples else None,
            progress=progress,
        )
        if begins is not None and trainer.step == 0:
            start_from(trainer.parameters, begins)
        if started:
            started(trainer)
        report = trainer.run()
        if processes()[0] == 0:
            export(what, checkpoint, trainer, report)
            if can_plot() and read(what.run / "log.jsonl"):
                plot_run(what.run, what.run / PLOT)
    return report


def adapter_to_start_from(what: Conversion, checkpoint: Checkpoint) -> AdapterWeights:
    """Raises ValueError where no adapter is trained, or the adapter has another scale; and as `read_adapter`."""
    assert what.start is not None
    settings = what.config.adapter
    if what.config.method != "adapter":
        raise ValueError(f"only an adapter can start from an adapter, and method is {what.config.method!r}")
    weights = read_adapter(what.start, checkpoint.config)
    if weights.scale != settings.alpha / settings.rank:
        raise ValueError(
            f"the adapter {what.start} has alpha / rank {weights.scale:g}, the one to be trained"
            f" {settings.alpha / settings.rank:g}"
        )
    return weights


def measures(config: TrainConfig, samples: Sequence[Sample], tokenizer: Tokenizer, mask_id: int) -> Evaluate:
    """What is measured on held-out samples while training."""
    gaps = held_gaps(samples, tokenizer, config) if config.infill.share else []

    def evaluate(decoder: Decoder) -> dict[str, Any]:
        if config.stage == "filler":
            found = suffix_gain(decoder, gaps, config, mask_id) if gaps else {}
            return {"score": found["gap_ar"], **found} if found else {}
        found = measure(decoder, samples, config, mask_id)
        return found | suffix_gain(decoder, gaps, config, mask_id) if gaps else found

    return evaluate


def export(what: Conversion, checkpoint: Checkpoint, trainer: Trainer, report: Report) -> None:
    """Write the folder: a PEFT adapter with its card, or all weights."""
    traits = traits_after(checkpoint.traits, what.config, trainer.mask_id)
    if trainer.average:
        trainer.average.swap()
    if what.config.method == "joint":
        export_model(trainer.decoder, checkpoint, traits, what.out, overwrite=what.overwrite)
        return
    extra = {"trained": {"tokens": report.tokens, "steps": report.step, "settings": to_json(what.config)}}
    weights = adapter_weights(dict(trainer.parameters), what.config.adapter)
    export_adapter(weights, checkpoint, traits, what.out, base_name=what.model, extra=extra, overwrite=what.overwrite)


def traits_after(traits: Traits, config: TrainConfig, mask_id: int) -> Traits:
    """What the checkpoint can do after the run."""
    name = config.adapter.name if config.method == "adapter" else None
    if traits.gap_adapter:  # it was for what the model has been so far
        traits = replace(traits, gap_end=None, gap_room=0, gap_causal=False, gap_adapter=None)
    if config.stage == "filler":
        end, room = config.infill.end_id, config.gap_room
        learned = replace(traits, mask_id=mask_id, gap_end=end, gap_room=room, gap_causal=True, gap_adapter=name)
        return learned if traits.trained else replace(learned, block_size=config.blocks.size)
    drafter = config.stage == "drafter"
    if config.infill.share:
        causal = config.method == "joint"
        traits = replace(traits, gap_end=config.infill.end_id, gap_room=config.gap_room, gap_causal=causal)
    return replace(
        traits,
        mask_id=mask_id,
        trained=traits.trained or not config.ar_only,
        block_size=traits.block_size if drafter else config.blocks.size,
        draft_block_size=config.blocks.draft_size,
        seed=config.seed_placement,
        draft_adapter=name,
        denoise_adapter=traits.denoise_adapter if drafter else name,
    )


def mask_of(checkpoint: Checkpoint, given: int | None) -> int:
    """The token that stands for masks; ValueError, saying how one is chosen, where there is none."""
    size = checkpoint.config.vocab_size
    mask_id = checkpoint.traits.mask_id if given is None else given
    if mask_id is None:
        raise ValueError(
            f"{checkpoint.source} names no mask token: give mask_id, a token id between 0 and {size - 1} that ordinary"
            " text never holds, such as a reserved special token"
        )
    if not 0 <= mask_id < size:
        raise ValueError(f"mask_id must be between 0 and {size - 1}, got {mask_id}")
    return mask_id


def load(checkpoint: Checkpoint, config: TrainConfig) -> Decoder:
    """The decoder: frozen weights in the run's dtype, weights to be trained in float32 (float64 in a float64 run)."""
    whole = torch.float64 if config.dtype == "float64" else torch.float32
    dtype = getattr(torch, config.dtype) if config.method == "adapter" else whole
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint, dtype=dtype, device=device)
    return decoder


@contextmanager
def distributed() -> Iterator[None]:
    """Join the other processes where torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        dist.barrier()  # nobody hangs up while another still talks
    finally:
        dist.destroy_process_group()


def figures_line(figures: dict[str, Any]) -> str:
    """One line of what a step logged, for people."""
    parts = [f"step {figures['step']}", f"loss {figures['loss']:.3f}"]
    for name, weight in (("ar", "ar_count"), ("draft", "draft_weight"), ("denoise", "denoise_weight")):
        if figures[weight] and figures[name]:
            parts.append(f"{name} {figures[name] / figures[weight]:.3f}")
    found = figures.get("eval") or {}
    if "tokens_per_round" in found:
        parts.append(f"held out: {found['tokens_per_round']:.2f} tokens a round")
    if "suffix_gain" in found:
        parts.append(f"suffix gain {found['suffix_gain']:.3f} nats a token")
    return ", ".join([*parts, f"{figures['tokens_per_second']:.0f} tokens/s"])
