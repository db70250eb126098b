"""Tiny random decoders and engines, whose output is varied enough that a wrong row shows in the ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from unmask.config import EngineConfig, ModelConfig
from unmask.engine.engine import Engine, Limits
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.adapter import LowRank
from unmask.model.coherence import Coherence, shapes
from unmask.model.decoder import Decoder
from unmask.types import Ids, Request, Row, Rows

VOCAB, MASK = 61, 60
ADAPTERS = ("draft", "linked")
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


def decoder(dtype: torch.dtype = torch.float64, seed: int = 0, adapters: Sequence[str] = ADAPTERS) -> Decoder:
    """Random weights, large enough that the next token depends on much of the context. "linked" has a coherence
    head."""
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(CONFIG)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5, generator=generator)
    model = model.to(dtype)
    for name in adapters:
        adapt(model, name, generator)
    for projection in model.projections().values():
        projection.adapters = {name: adapter.requires_grad_(False) for name, adapter in projection.adapters.items()}
    return model.requires_grad_(False)


def adapt(model: Decoder, name: str, generator: torch.Generator, rank: int = 2, scale: float = 1.0) -> None:
    """Give every projection of the layers a random low-rank adapter, and the mask token another embedding."""
    for where, projection in model.projections().items():
        if where != "lm_head":
            a = torch.randn(rank, projection.in_features, generator=generator) / projection.in_features**0.5
            b = torch.randn(projection.out_features, rank, generator=generator) / rank**0.5
            projection.adapters[name] = LowRank(a.to(projection.weight), b.to(projection.weight), scale)
    model.mask_embeddings[name] = torch.randn(CONFIG.hidden_size, generator=generator)
    if name == "linked":
        parts = (torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in shapes(24, 32).values())
        head = Coherence(*(part.to(model.model.embed_tokens.weight) for part in parts))
        model.coherence[name] = head.requires_grad_(False)


@cache
def shared(dtype: torch.dtype = torch.float64, exact: bool = False) -> Decoder:
    """One decoder per numerics for tests that change nothing in it (a runner sets its tile)."""
    return decoder(dtype)


def engine(
    pages: int = 64,
    page_size: int = 4,
    dtype: torch.dtype = torch.float64,
    model: Decoder | None = None,
    wrap: Callable[[Runner], Runner | Oracle | Breaks] | None = None,
    **settings: Any,
) -> Engine:
    config = replace(EngineConfig(page_size=page_size), **settings)
    runner = Runner(model or shared(dtype, config.exactness == "exact"), config, pages)
    return Engine(wrap(runner) if wrap else runner, pages, config, Limits(VOCAB, CONFIG.max_position, ADAPTERS))


class Oracle:
    """A runner whose drafts are of a chosen quality: each drafted id is the one of `truth` at its place or not.

    right(position): whether the draft of that absolute position is right. Only rows that may not pick the mask id are
    drafts; what the verifier reads is never touched.
    """

    def __init__(self, runner: Runner, truth: Ids, right: Callable[[int], bool]) -> None:
        self.runner, self.truth, self.right = runner, truth, right
        self.measure = runner.measure

    def run(self, jobs: Sequence[Job]) -> list[Rows]:
        return [
            tuple(map(self.forge, rows, self.drafted(job)))
            for job, rows in zip(jobs, self.runner.run(jobs), strict=True)
        ]

    def drafted(self, job: Job) -> list[int | None]:
        """Per row read: the position that it drafts, None for a row of the verifier."""
        return [
            job.plan.spans[read.span].start + row + read.shift if read.bans_mask else None
            for read in job.plan.reads
            for row in read.rows
        ]

    def forge(self, row: Row, position: int | None) -> Row:
        if position is None or position >= len(self.truth):
            return row
        true = self.truth[position]
        wrong = (true + 1) % MASK
        first, second = (true, wrong) if self.right(position) else (wrong, true)
        return row._replace(id=first, second=second)


class Breaks:
    """A runner that raises in the middle of chosen steps, after the keys and values of all rows have been written."""

    def __init__(self, runner: Runner, steps: Sequence[int]) -> None:
        self.runner, self.steps, self.count = runner, frozenset(steps), 0
        self.measure = runner.measure

    def run(self, jobs: Sequence[Job]) -> list[Rows]:
        self.count += 1
        rows = self.runner.run(jobs)
        if self.count in self.steps:
            raise RuntimeError("the device is gone")
        return rows


def alone(request: Request, **settings: Any) -> Ids:
    """The ids of a request that has an engine, and plenty of pages, to itself."""
    mine = engine(pages=256, **settings)
    output = mine.generate(request)
    mine.check()
    assert mine.pages.in_use == 0
    return output
