"""Small models for two suites, from nothing: AR on drawn tasks and their answers, then converted to tri-mode.

Usage: python runs/decay_model.py [--task decay|chains] [--folder F] [--documents N] [--ar-minutes M] [--steps N].
Everything is made here: data, tokenizer, model (5.0 million parameters). What the suites ask is not among the data:
pairs of tables are held out of decay, the questions of seed 0 out of chains. An interrupted call goes on where it was.
A step of AR takes 0.9 s of one core, one of the conversion 1.5 s: the defaults take 70 minutes. Then, with F/decay or
F/chains (F is the cache folder's decay_model unless given):

    unmask eval F/decay/tri-mode --suite decay --tier a --shots 0 --out decay-a.json
    unmask eval F/chains/tri-mode --suite revision --shots 0 --out revision.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from unmask.training.machine import prepare_memory

prepare_memory()  # before torch makes its first tensor
sys.path.insert(0, str(Path(__file__).parent.parent))

from runs.small_model import COMMON, make_random, train  # noqa: E402
from unmask.evaluation import chains, revision  # noqa: E402
from unmask.evaluation.decay.spec_tasks import worded  # noqa: E402
from unmask.evaluation.decay.specs import RULES, draw, render  # noqa: E402
from unmask.evaluation.decay.tasks import PADDING  # noqa: E402
from unmask.model import store  # noqa: E402
from unmask.training.packing import Data  # noqa: E402
from unmask.training.settings import Blocks, Loss, Noise, Optimiser, TrainConfig  # noqa: E402

VOCABULARY = 1024
SETTINGS: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
    **COMMON,
}
LENGTH, BATCH, BLOCK = 512, 8, 16


def decay_documents(count: int) -> Iterator[dict[str, str]]:
    """Tasks under any number of rules in any order, some with sentences that ask for nothing, and their answers."""
    for number in range(count):
        random = Random(f"training {number}")
        spec = draw(random, evaluation=False)
        active = random.sample(list(RULES), random.randint(0, len(RULES)))
        padding = random.randint(1, len(PADDING)) if random.random() < 0.25 else 0
        yield {"prompt": worded(spec, active, padding), "completion": render(spec, active)}


def chain_documents(count: int) -> Iterator[dict[str, str]]:
    """Chains of both kinds; none of the suite's."""
    asked = {chains.draw(kind, 0, number).question for kind in chains.KINDS for number in range(revision.MOST)}
    drawn = (chains.draw(chains.KINDS[number % 2], -1, number // 2) for number in count_from(0))
    fresh = (chain for chain in drawn if chain.question not in asked)
    yield from ({"prompt": chain.question, "completion": chain.answer} for chain in islice(fresh, count))


DOCUMENTS = {"decay": decay_documents, "chains": chain_documents}


def write_corpus(folder: Path, task: str, count: int) -> Path:
    path = folder / f"train-{count}.jsonl"
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(document) + "\n" for document in DOCUMENTS[task](count))
        part.rename(path)
    return path


def ar_settings(minutes: float) -> TrainConfig:
    """AR alone: a diffusion weight of 0."""
    optimiser = Optimiser(lr=2e-3, weight_decay=0.1, warmup=0.02, decay=0.3, final=0.05)
    return settings(Loss(alpha=0.0), optimiser, minutes=minutes)


def joint_settings(steps: int) -> TrainConfig:
    optimiser = Optimiser(lr=6e-4, weight_decay=0.1, warmup=0.02, decay=0.3, final=0.1)
    return settings(Loss(alpha=0.3), optimiser, steps=steps)


def settings(loss: Loss, optimiser: Optimiser, **how_long: Any) -> TrainConfig:
    return TrainConfig(
        method="joint",
        length=LENGTH,
        batch=BATCH,
        save_every=50,
        dtype="bfloat16",
        blocks=Blocks(size=BLOCK, full_share=0.25),
        noise=Noise(law="exponential"),
        loss=loss,
        optimiser=optimiser,
        **how_long,
    )


def make(folder: Path, task: str, count: int, minutes: float, steps: int) -> Path:
    """The folder of the tri-mode model; what is there already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = str(write_corpus(folder, task, count))
    with Path(corpus).open(encoding="utf-8") as lines:
        texts = (row["prompt"] + row["completion"] for row in map(json.loads, lines))
        first = make_random(folder / "random", texts, SETTINGS)
    # Blocks of an answer are filled with end tokens: a short last block is what denoising has to end in.
    plain, filled = Data((corpus,)), Data((corpus,), fill=BLOCK)
    ar, out = folder / "ar", folder / "tri-mode"
    train(((first, plain, ar_settings(minutes), ar), (ar, filled, joint_settings(steps), out)), print_some, held=0)
    return out


def print_some(figures: dict[str, Any]) -> None:
    if figures["step"] % 20 == 0:
        print(figures["step"], round(figures["loss"], 3), figures["tokens_per_second"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tuple(DOCUMENTS), default="decay")
    parser.add_argument("--folder", type=Path, default=store.home() / "decay_model")
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--ar-minutes", type=float, default=40.0)
    parser.add_argument("--steps", type=int, default=1200)
    given = parser.parse_args()
    print(make(given.folder / given.task, given.task, given.documents, given.ar_minutes, given.steps))


if __name__ == "__main__":
    main()
