r"""A second model, so that drafting is not one model's luck: a Qwen3 of 10.1 million parameters, from nothing.

Usage: python runs/second_model.py [--folder F] [--ar-minutes M] [--adapter-minutes M]. Made here: tokenizer, model, AR
on the starter corpus; then an adapter by the recipe of SmolLM2's, as `unmask convert F/qwen3-10m --recipe adapter` does
it. F is the cache folder's second_model unless given. An interrupted call goes on where it was. The defaults take an
hour of one core. Then:

    unmask eval F/qwen3-10m --adapter F/qwen3-10m-adapter --suite starter --part speculation --limit 10 \
        --exactness exact --out second_model.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from unmask.training.machine import prepare_memory

prepare_memory()  # before torch makes its first tensor
sys.path.insert(0, str(Path(__file__).parent.parent))

from runs.small_model import COMMON, make_random, train  # noqa: E402
from unmask.cli.convert import make_starter_corpus  # noqa: E402
from unmask.model import store  # noqa: E402
from unmask.training.convert import figures_line  # noqa: E402
from unmask.training.corpus import TRAIN, default_folder  # noqa: E402
from unmask.training.packing import Data  # noqa: E402
from unmask.training.recipes import RECIPES  # noqa: E402
from unmask.training.settings import Blocks, Loss, Optimiser, TrainConfig  # noqa: E402

NAME = "qwen3-10m"
VOCABULARY = 4096
SETTINGS: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": 320,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 960,
    **COMMON,
}
# A base model has learned no chat: a message is a text to be continued as it stands.
CHAT = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)
EVERY = 4  # the tokenizer is made of every so many-th text of the corpus
SHOWN = 20  # steps between two lines
HELD = 16  # samples that are measured


def ar_settings(minutes: float) -> TrainConfig:
    """AR alone: a diffusion weight of 0. Samples as long as most prompts of the suite with their answers."""
    return TrainConfig(
        method="joint",
        length=768,
        batch=6,
        minutes=minutes,
        save_every=50,
        eval_every=200,
        dtype="bfloat16",
        blocks=Blocks(size=16),
        loss=Loss(alpha=0.0),
        optimiser=Optimiser(lr=2.5e-3, weight_decay=0.1, warmup=0.03, decay=0.5, final=0.03),
    )


def texts(corpus: Path) -> Iterator[str]:
    with (corpus / TRAIN).open(encoding="utf-8") as lines:
        yield from (json.loads(line)["text"] for line in islice(lines, 0, None, EVERY))


def make(folder: Path, corpus: Path, ar: TrainConfig, adapter: TrainConfig) -> tuple[Path, Path]:
    """Folders of the model and of its adapter; what is there already is not made again.

    corpus: folder with train.jsonl and heldout.jsonl, as `build_corpus` leaves it.
    """
    data, base, drafter = Data((str(corpus),)), folder / NAME, folder / f"{NAME}-adapter"
    first = make_random(folder / "random", texts(corpus), SETTINGS, chat_template=CHAT)
    train(((first, data, ar, base), (base, data, adapter, drafter)), show, HELD)
    return base, drafter


def show(figures: dict[str, Any]) -> None:
    found = figures.get("eval")
    if found or figures["step"] % SHOWN == 0:
        held_out = f", AR perplexity {found['ar_ppl']:.2f}" if found else ""
        print(f"{figures['seconds'] / 60:.1f} min, {figures_line(figures)}{held_out}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=store.home() / "second_model")
    parser.add_argument("--ar-minutes", type=float, default=35.0)
    parser.add_argument("--adapter-minutes", type=float, default=24.0)
    given = parser.parse_args()
    make_starter_corpus()
    recipe = RECIPES["adapter"](minutes=given.adapter_minutes)
    print(*make(given.folder, default_folder(), ar_settings(given.ar_minutes), recipe), sep="\n")


if __name__ == "__main__":
    main()
