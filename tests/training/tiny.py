"""Tiny decoders and packed samples for the tests of the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from unmask.config import ModelConfig
from unmask.model.decoder import Decoder
from unmask.training.gaps import Gap, Rows, lay_gap, pack
from unmask.training.sample import Sample
from unmask.training.settings import Adapter, Blocks, Loss, Noise, Optimiser, TrainConfig
from unmask.training.trainable import make_trainable

VOCAB, MASK = 61, 60
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    max_position=512,
)


def decoder(dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> Decoder:
    """Random weights, large enough that every row depends on much of its context."""
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(replace(CONFIG, **changes))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5, generator=generator)
    return model.to(dtype)


def trained(model: Decoder, config: TrainConfig, seed: int = 1) -> dict[str, nn.Parameter]:
    """Parameters as after some training: an adapter's B matrices are no longer zero."""
    parameters, generator = make_trainable(model, config), torch.Generator().manual_seed(seed)
    for name, parameter in parameters.items():
        if name.endswith(("lora_B", "coherence.out")):
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return parameters


def config(**changes: Any) -> TrainConfig:
    """A float64 run of an adapter; changes of parts are given as "blocks_size" and the like."""
    parts: dict[str, Any] = {
        "blocks": {"size": 4, "draft_size": 5, "full_share": 0.5, "first_share": 0.5},
        "noise": {},
        "loss": {"chunk": 7, "ramp": 0.0},
        "optimiser": {"lr": 0.01},
        "adapter": {"rank": 3, "alpha": 6.0},
    }
    kinds: dict[str, Any] = {
        "blocks": Blocks,
        "noise": Noise,
        "loss": Loss,
        "optimiser": Optimiser,
        "adapter": Adapter,
    }
    for name in [name for name in changes if name.partition("_")[0] in parts]:
        part, _, key = name.partition("_")
        parts[part][key] = changes.pop(name)
    built: dict[str, Any] = {name: kind(**parts[name]) for name, kind in kinds.items()}
    if "minutes" not in changes:
        changes = {"steps": 8} | changes
    whole: dict[str, Any] = {"length": 24, "batch": 2, "dtype": "float64"}
    return TrainConfig(**(whole | built | changes))


def sample(index: int, lengths: Sequence[int] = (24,), padding: int = 0, seed: int = 0, period: int = 0) -> Sample:
    """Documents of random ids; with a period, of a pattern that can be learned. The last rows are padding."""
    rng = np.random.default_rng((seed, index))
    total = sum(lengths) + padding
    ids = rng.integers(0, MASK, total)
    if period:
        ids = (np.arange(total) + rng.integers(period)) % period
    document = np.concatenate([np.full(n, i) for i, n in enumerate(lengths)] + [np.full(padding, -1)])
    position = np.concatenate([np.arange(n) for n in (*lengths, padding)])
    return Sample(index, ids.astype(np.int64), document.astype(np.int32), position.astype(np.int64), document >= 0)


def gap_sample(index: int) -> Sample:
    """A document whose first 7 tokens and last 6 stand around a gap of 6, in blocks of 4, a block too far apart; and a
    document without a gap."""
    whole = config()
    whole = replace(whole, infill=replace(whole.infill, end_id=MASK - 1))
    ids = tuple(sample(index, (19,)).ids.tolist())
    gap = lay_gap(Gap(ids[:7], ids[7:13], ids[13:]), 99, 3, whole)
    assert gap is not None
    plain = sample(index + 1, (5,))
    return pack(index, [gap, Rows(plain.ids, plain.position, plain.supervised, np.zeros(5, dtype=np.bool_))], 30)


class Patterns:
    """A `Stream` of such samples that never ends, or ends after `count`."""

    def __init__(self, length: int = 24, seed: int = 0, count: int | None = None, period: int = 7) -> None:
        self.length, self.seed, self.count, self.period, self.next = length, seed, count, period, 0

    def next_samples(self, n: int) -> list[Sample]:
        last = self.next + n if self.count is None else min(self.next + n, self.count)
        first, self.next = self.next, last
        cut = self.length // 3
        return [sample(i, (cut, self.length - cut), seed=self.seed, period=self.period) for i in range(first, last)]

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def restore(self, state: dict[str, Any]) -> None:
        self.next = int(state["next"])
