"""A small model from nothing to tri-mode: AR on the standard library's sources, then converted in several ways.

Usage: python runs/small_conversion.py [--folder F] [--ar-minutes M] [--steps N]. Everything is made here: tokenizer,
model, data; conversions are compared at equal tokens. Writes benchmarks/results/small_conversion.json. An interrupted
call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.training.machine import prepare_memory

prepare_memory()  # before torch makes its first tensor
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402

from runs.small_model import COMMON, MASK, make_random, train  # noqa: E402
from unmask.model import store  # noqa: E402
from unmask.model.checkpoint import load_into, open_checkpoint  # noqa: E402
from unmask.model.decoder import Decoder  # noqa: E402
from unmask.model.families import config_from_hf  # noqa: E402
from unmask.text import Tokenizer  # noqa: E402
from unmask.training.measure import measure  # noqa: E402
from unmask.training.packing import Data, held_out  # noqa: E402
from unmask.training.settings import Blocks, Loss, Noise, Optimiser, TrainConfig  # noqa: E402

ROOT = Path(__file__).parent.parent
VOCABULARY = 2048
SETTINGS = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    **COMMON,
}
LENGTH, BATCH, BLOCK = 256, 16, 16


def standard_library(folder: Path) -> tuple[Path, Path]:
    """Sources of the running Python's standard library, tests left out; every tenth file is held out."""
    train, held = folder / "train.jsonl", folder / "heldout.jsonl"
    if not held.exists():
        root = Path(sysconfig.get_paths()["stdlib"])
        skipped = {"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3", "ensurepip"}
        files = [path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts)]
        for target, chosen in ((train, [f for i, f in enumerate(files) if i % 10]), (held, files[::10])):
            with target.open("w", encoding="utf-8") as out:
                for path in chosen:
                    if text := path.read_text(encoding="utf-8", errors="ignore").strip():
                        out.write(json.dumps({"text": text}) + "\n")
    return train, held


def ar_settings(minutes: float) -> TrainConfig:
    """AR alone: a diffusion weight of 0. The noisy half is then one short block a document."""
    return TrainConfig(
        method="joint",
        length=LENGTH,
        batch=BATCH,
        minutes=minutes,
        save_every=100,
        dtype="bfloat16",
        blocks=Blocks(size=BLOCK),
        loss=Loss(alpha=0.0),
        optimiser=Optimiser(lr=2e-3, weight_decay=0.1, warmup=0.02, decay=0.3, final=0.05),
    )


def joint_settings(steps: int, **changes: Any) -> TrainConfig:
    base = TrainConfig(
        method="joint",
        length=LENGTH,
        batch=BATCH,
        steps=steps,
        save_every=200,
        dtype="bfloat16",
        blocks=Blocks(size=BLOCK, full_share=0.25),
        noise=Noise(law="exponential"),
        loss=Loss(alpha=0.3),
        optimiser=Optimiser(lr=6e-4, weight_decay=0.1, warmup=0.02, decay=0.3, final=0.1),
    )
    return replace(base, **changes)


def variants(steps: int) -> dict[str, TrainConfig]:
    """What is compared, one thing at a time against the first."""
    loss, noise = Loss(alpha=0.3), Noise()
    article = Noise(law="linear", mode="bernoulli")
    return {
        "alpha 0.3, exponential": joint_settings(steps),
        "alpha 0.1": joint_settings(steps, loss=replace(loss, alpha=0.1)),
        "alpha 1.0": joint_settings(steps, loss=replace(loss, alpha=1.0)),
        "uniform": joint_settings(steps, noise=replace(noise, law="uniform")),
        "linear (article)": joint_settings(steps, noise=article, blocks=Blocks(BLOCK, full_share=0.0)),
        "noisy context": joint_settings(steps, context="noisy"),
    }


def measured(folder: Path, held: Path, config: TrainConfig) -> dict[str, Any]:
    checkpoint = open_checkpoint(folder)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint, dtype=torch.float32)
    data = Data((str(held),), held_out=(str(held),))
    samples = held_out(data, Tokenizer.from_file(folder), LENGTH, 96)
    with torch.no_grad():
        return measure(decoder, samples, config, MASK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=store.home() / "small_conversion")
    parser.add_argument("--ar-minutes", type=float, default=12.0)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    corpus, held = standard_library(given.folder)
    with corpus.open(encoding="utf-8") as lines:
        first = make_random(given.folder / "random", (json.loads(line)["text"] for line in lines), SETTINGS)
    data = Data((str(corpus),))
    rows = dict[str, Any]()
    ar = given.folder / "ar"
    begin = time.monotonic()
    train(((first, data, ar_settings(given.ar_minutes), ar),), print_some, held=0)
    rows["AR only"] = measured(ar, held, joint_settings(1))
    # The control: as many more steps of AR alone, since a conversion is also more training.
    todo = {"more AR (control)": joint_settings(given.steps, loss=Loss(alpha=0.0))} | variants(given.steps)
    for name, config in todo.items():
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        out = given.folder / slug
        train(((ar, data, config, out),), print_some, held=0)
        rows[name] = measured(out, held, joint_settings(1))
        print(name, {key: rows[name][key] for key in ("ar_ppl", "nelbo", "tokens_per_round")}, flush=True)
        write(rows, given, time.monotonic() - begin)


def print_some(figures: dict[str, Any]) -> None:
    if figures["step"] % 50 == 0:
        print(figures["step"], round(figures["loss"], 3), figures["tokens_per_second"], flush=True)


def write(rows: dict[str, Any], given: argparse.Namespace, seconds: float) -> None:
    config = config_from_hf(SETTINGS)[0]
    found = {
        "what": f"Llama of {config.parameters / 1e6:.1f}M parameters, sources of the standard library, block {BLOCK}",
        "ar_minutes": given.ar_minutes,
        "steps": given.steps,
        "tokens_per_step": LENGTH * BATCH,
        "rows": rows,
    }
    out = ROOT / "benchmarks" / "results" / "small_conversion.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
