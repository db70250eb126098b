"""Training in unmask beside plain transformers + PyTorch loops: clean tokens per second and peak memory, in one run.

Four peers on the same model, batch and texts, each measurement a process of its own, in turns, several rounds:
  ours, adapter        the base frozen, an adapter on the noisy rows (recipe `adapter`)
  ours, joint          all weights, AR + diffusion on the doubled sequence
  plain AR             transformers, full fine-tuning: what any model costs; no diffusion
  plain doubled        transformers, the objective of ours, joint: [clean; noisy] under a dense 4-D mask, all logits
All compute in bfloat16 (autocast over float32 weights where all of them are trained) with AdamW. A clean token is one
of the text, however many rows it costs. "first_loss" of the two joint peers is the same objective on the same masks.
All processes have large pages (THP_MEM_ALLOC_ENABLE), as `unmask convert` sets for itself; the plain loops are slower
without.
Usage: python benchmarks/training_speed.py [--model small] [--json FILE].
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.against_transformers import cpu_name, threads, write_folder

PEERS = ("ours, adapter", "ours, joint", "plain AR", "plain doubled")
WARM = 2  # first steps that are not timed
BLOCK, LEARNING_RATE = 16, 1e-4
SMALL: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def write_small(folder: Path) -> None:
    """The 2M model of runs/small_conversion.py with random weights, as transformers writes it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SMALL, bos_token_id=None, eos_token_id=0)).save_pretrained(folder)


class Texts:
    """Documents of random ids, one a sample; a `Stream`. Which ids they are costs nobody time."""

    def __init__(self, vocab_size: int, length: int) -> None:
        self.vocab_size, self.length, self.next = vocab_size, length, 0

    def next_samples(self, n: int) -> list[Any]:
        import numpy as np

        from unmask.training.sample import Sample

        first, self.next = self.next, self.next + n
        zeros, place = np.zeros(self.length, dtype=np.int32), np.arange(self.length)
        ids = [np.random.default_rng(i).integers(2, self.vocab_size, self.length) for i in range(first, self.next)]
        return [Sample(first + i, row, zeros, place, zeros == 0) for i, row in enumerate(ids)]

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def restore(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def settings(peer: str, given: argparse.Namespace) -> Any:
    """Our settings of the two methods; the plain doubled loop takes its masks from those of "joint"."""
    from unmask.training import recipes
    from unmask.training.settings import Blocks, Loss, Optimiser, TrainConfig

    shape = {"length": given.length, "batch": given.batch, "steps": given.steps + WARM, "save_every": 0}
    if peer == "ours, adapter":
        return replace(recipes.adapter(), minutes=None, eval_every=0, **shape)
    optimiser = Optimiser(lr=LEARNING_RATE, weight_decay=0.1, warmup=0.0, decay=0.0)
    blocks = Blocks(size=BLOCK, full_share=0.25, first_share=0.0)
    return TrainConfig(method="joint", blocks=blocks, loss=Loss(ramp=0.0), optimiser=optimiser, **shape)


def run_ours(peer: str, given: argparse.Namespace) -> dict[str, Any]:
    from unmask.training.machine import prepare_memory

    prepare_memory()
    from unmask.model.checkpoint import open_checkpoint
    from unmask.training.convert import load
    from unmask.training.loop import Trainer

    config, checkpoint = settings(peer, given), open_checkpoint(given.folder)
    decoder = load(checkpoint, config)
    steps = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        texts = Texts(checkpoint.config.vocab_size, given.length)
        trainer = Trainer(decoder, 1, config, texts, folder, progress=steps.append)
        trainer.save = lambda: None  # type: ignore[method-assign]  # the plain loops keep nothing either
        trainer.run()
    return {"speed": median(step["tokens_per_second"] for step in steps[WARM:]), "first_loss": steps[0]["loss"]}


def run_plain(given: argparse.Namespace, loss_of: Callable[[Any, list[Any]], Any]) -> dict[str, Any]:
    """A plain loop: loss, backward, clip, AdamW. loss_of: from a model and samples."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    texts, seconds, first = Texts(model.config.vocab_size, given.length), list[float](), None
    for _ in range(given.steps + WARM):
        samples, begin = texts.next_samples(given.batch), time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, samples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        first = float(loss.detach()) if first is None else first
    return {"speed": given.batch * given.length / median(seconds[WARM:]), "first_loss": first}


def plain_ar(model: Any, samples: list[Any]) -> Any:
    import numpy as np
    import torch

    ids = torch.from_numpy(np.stack([sample.ids for sample in samples]))
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def plain_doubled(config: Any) -> Callable[[Any, list[Any]], Any]:
    """The joint objective as it is written down: both halves in one sequence, a dense mask, logits of every row."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from unmask.training.noise import corrupt

    def visible(length: int) -> Any:
        row = torch.arange(length)
        causal, block = row[None] <= row[:, None], (row - 1) // BLOCK  # a text's first token is in no block
        top = torch.cat((causal, torch.zeros_like(causal)), dim=1)
        bottom = torch.cat((block[None] < block[:, None], block[None] == block[:, None]), dim=1)
        return torch.cat((top, bottom))[None, None]

    def loss_of(model: Any, samples: list[Any]) -> Any:
        ids = torch.from_numpy(np.stack([sample.ids for sample in samples]))
        masked, weight, eligible = np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=np.float32), 0
        for number, sample in enumerate(samples):
            for block in corrupt(sample, config):
                here = number, slice(block.first, block.first + len(block.masked))
                masked[here], weight[here] = block.masked, block.weight
                eligible += block.eligible
        length = ids.shape[1]
        doubled = torch.cat((ids, ids.masked_fill(torch.from_numpy(masked), 1)), dim=1)
        place = torch.arange(length).repeat(2)[None].expand(len(ids), -1)
        mask = visible(length).expand(len(ids), -1, -1, -1)
        logits = model(input_ids=doubled, position_ids=place, attention_mask=mask, use_cache=False).logits.float()
        logits[..., 1] = -1e30  # the mask is never an answer
        ar = F.cross_entropy(logits[:, : length - 1].flatten(0, 1), ids[:, 1:].flatten())
        own = F.cross_entropy(logits[:, length:].flatten(0, 1), ids.flatten(), reduction="none")
        return ar + config.loss.alpha * (own * torch.from_numpy(weight).flatten()).sum() / eligible

    return loss_of


def one(given: argparse.Namespace) -> None:
    """Child process: measure one peer and print it."""
    if given.one.startswith("ours"):
        found = run_ours(given.one, given)
    else:
        loss_of = plain_ar if given.one == "plain AR" else plain_doubled(settings("ours, joint", given))
        found = run_plain(given, loss_of)
    print(json.dumps(found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    shape = [f"--{name}={getattr(given, name)}" for name in ("batch", "length", "steps")]
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}
    found: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        if given.model == "small":
            write_small(Path(folder))
        else:
            write_folder(Path(folder), "float32")
        for number in range(given.rounds):
            for peer in PEERS:
                command = [sys.executable, __file__, "--one", peer, "--folder", folder, *shape]
                child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                found[peer].append(json.loads(child.stdout.splitlines()[-1]))
                print(f"round {number + 1}, {peer}: {found[peer][-1]}", file=sys.stderr, flush=True)
    rows = [summary(peer, found) for peer in PEERS]
    name = "SmolLM2-135M" if given.model != "small" else "Llama of 2M parameters"
    return {
        "what": f"{name}, {given.batch} samples of {given.length} tokens a step, median of {given.rounds} rounds of"
        f" {given.steps} steps",
        "units": {
            "speed": "clean tokens/s, median step of a round, median of rounds",
            "low, high": "slowest and quickest round",
            "against_ar, against_doubled": "median of the rounds' ratios of speed to that plain loop",
            "peak_mb": "MiB of the whole process, reading the model included",
            "first_loss": "before the first update; equal texts, and for the joint peers equal masks",
        },
        "settings": {
            "block": BLOCK,
            "batch": given.batch,
            "length": given.length,
            "dtype": "bfloat16 products",
            "pages": "large",
        },
        "machine": {"processor": cpu_name(), "threads": threads(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "transformers", "unmask")},
        "rows": rows,
    }


def summary(peer: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The middle of a peer's rounds, and its speed relative to the plain loops of the same round."""
    speeds = [result["speed"] for result in found[peer]]

    def ratio(other: str) -> float:
        pairs = zip(speeds, found[other], strict=True)
        return float(round(median(speed / result["speed"] for speed, result in pairs), 3))

    return {
        "peer": peer,
        "speed": round(median(speeds), 1),
        "low": round(min(speeds), 1),
        "high": round(max(speeds), 1),
        "against_ar": ratio("plain AR"),
        "against_doubled": ratio("plain doubled"),
        "peak_mb": round(median(result["peak_mb"] for result in found[peer])),
        "first_loss": round(found[peer][0]["first_loss"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "training_speed.json")
    parser.add_argument("--model", choices=("smollm2-135m", "small"), default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given)
        return
    found = measure(given)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
