"""What a converted model can do, on held-out samples: AR perplexity, NELBO, masked accuracy, acceptance profile.

All figures are of fixed noise, so that two models, or two moments of a run, are compared on the same masks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.model.coherence import Coherence, candidates, rescored
from unmask.model.decoder import Decoder
from unmask.training.attention import make_kernel
from unmask.training.forward import Hidden, clean_first
from unmask.training.layout import Doubled, lay_out
from unmask.training.loss import ban, edges_of, label_loss
from unmask.training.noise import corrupt
from unmask.training.objective import mask_number
from unmask.training.sample import Sample
from unmask.training.settings import Noise, TrainConfig

# Upper ends of the mask-ratio buckets (training.md §8.2); the last one is "all masked".
BUCKETS = (0.1, 0.25, 0.5, 0.75, 1.0)
SEED = 20_240_117  # of the noise, whatever the run's


@dataclass(frozen=True)
class Judged:
    """Rows that predict a known token. nll: -log p(token); best: the likeliest token."""

    nll: NDArray[np.float64]
    best: NDArray[np.int64]


@torch.no_grad()
def judge(
    decoder: Decoder,
    hidden_RD: Tensor,
    label_R: NDArray[np.int64],
    mask_id: int,
    chunk: int,
    coherence: Coherence | None = None,
    before_R: NDArray[np.int64] | None = None,
) -> Judged:
    """With a coherence head, `best` is its choice after the tokens `before`."""
    nll, best = list[Tensor](), list[Tensor]()
    labels = torch.from_numpy(label_R).to(hidden_RD.device)
    edges = edges_of(len(hidden_RD), chunk)
    for first, last in itertools.pairwise(edges):
        normed = decoder.model.norm(hidden_RD[first:last])
        logits = ban(decoder.lm_head(normed), mask_id).float()
        nll.append(label_loss(logits, labels[first:last]).double().cpu())
        if coherence is None or before_R is None:
            best.append(logits.argmax(dim=-1).cpu())
            continue
        values, ids = candidates(logits)
        before = torch.from_numpy(before_R[first:last]).to(logits.device)
        place = rescored(decoder, coherence, normed, before, ids, values).argmax(dim=-1, keepdim=True)
        best.append(ids.gather(1, place)[:, 0].cpu())
    if not nll:
        return Judged(np.zeros(0), np.zeros(0, dtype=np.int64))
    return Judged(torch.cat(nll).numpy(), torch.cat(best).numpy())


def measure(
    decoder: Decoder,
    samples: Sequence[Sample],
    config: TrainConfig,
    mask_id: int,
    *,
    points: int = 4,
    batch: int | None = None,
) -> dict[str, Any]:
    """All figures. points: noise levels per block for the NELBO, one in each part of (0, 1].

    ar_nll, ar_ppl; nelbo (nats per token, an upper bound of the negative log-likelihood) and nelbo_ppl;
    accuracy_by_ratio: [upper end of the bucket, accuracy, rows]; accuracy_by_position: per place in the block;
    acceptance: P(draft = AR argmax) for draft slot 1, 2, ...; accepted: sum over k of the product of the first k, and
    accepted_run: the mean length of the run of right slots; accepted_later: of the run from the second slot on,
    which is what a draft of one forward adds (its first token is the verifier's own); tokens_per_round: accepted + 1.
    score: what a run minimises: ar_nll + alpha * nelbo, or for an adapter the rounds per token.
    """
    adapter = config.adapter.name if config.method == "adapter" else None
    sums = dict[str, Any](nll=0.0, targets=0, bound=0.0, eligible=0)
    by_ratio = np.zeros((len(BUCKETS) + 1, 2))
    by_position = np.zeros((config.blocks.size, 2))
    slots = (config.blocks.draft_size or config.blocks.size) - (config.seed_placement != "causal")
    right, runs, later = np.zeros((slots, 2)), list[int](), list[int]()
    for doubled, hidden, drafts in forwards(decoder, samples, config, mask_id, adapter, points, batch or config.batch):
        label = doubled.ids[doubled.source]
        if drafts:
            rows = np.flatnonzero(doubled.masked & doubled.taught)
            before = doubled.source[rows] - 1
            draft = judge(
                decoder,
                at(hidden.noisy, rows),
                label[rows],
                mask_id,
                config.loss.chunk,
                decoder.coherence.get(adapter or ""),
                doubled.ids[before],
            )
            own = judge(decoder, at(hidden.clean, before), label[rows], mask_id, config.loss.chunk)
            count_drafts(draft.best == own.best, mask_number(doubled)[rows], doubled.block[rows], right, runs, later)
            ar = judge(decoder, at(hidden.clean, doubled.ar), doubled.ids[doubled.ar + 1], mask_id, config.loss.chunk)
            sums["nll"] += ar.nll.sum()
            sums["targets"] += len(ar.nll)
            continue
        rows = np.flatnonzero(doubled.masked & (doubled.weight > 0))
        found = judge(decoder, at(hidden.noisy, rows), label[rows], mask_id, config.loss.chunk)
        sums["bound"] += (doubled.weight[rows] * found.nll).sum()
        sums["eligible"] += doubled.eligible
        good = found.best == label[rows]
        ratio = (np.add.reduceat(doubled.masked, doubled.blocks[:-1]) / np.diff(doubled.blocks))[doubled.block[rows]]
        bucket = np.where(ratio == 1, len(BUCKETS), np.searchsorted(BUCKETS, ratio))
        np.add.at(by_ratio, bucket, np.stack((good, np.ones(len(rows))), axis=1))
        np.add.at(by_position, doubled.slot[rows], np.stack((good, np.ones(len(rows))), axis=1))
    return summary(sums, by_ratio, by_position, right, runs, later, config)


def at(hidden: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return hidden[torch.from_numpy(rows).to(hidden.device)]


def forwards(
    decoder: Decoder,
    samples: Sequence[Sample],
    config: TrainConfig,
    mask_id: int,
    adapter: str | None,
    points: int,
    batch: int,
) -> Iterator[tuple[Doubled, Hidden, bool]]:
    """Forwards without gradient, each of a few samples: all blocks drafting, then `points` views of partial masks."""
    blocks = replace(config.blocks, first_share=0.0, random_share=0.0, curriculum=())
    uniform = Noise(law="uniform", mode="bernoulli", weight_cap=math.inf)
    for draft in (True, False):
        chosen = replace(
            config,
            seed=SEED,
            views=1 if draft else points,
            blocks=replace(blocks, full_share=float(draft)),
            noise=uniform,
        )
        for first in range(0, len(samples), batch):
            some = samples[first : first + batch]
            noised = [corrupt(sample, chosen) for sample in some]
            doubled = lay_out(some, noised, mask_id, config.context == "noisy")
            if doubled.noisy == 0:
                continue
            kernel = make_kernel(config.attention, doubled, decoder.model.embed_tokens.weight.device)
            with torch.no_grad():
                yield doubled, clean_first(decoder, doubled, kernel, adapter), draft


def count_drafts(
    good: NDArray[np.bool_],
    slot: NDArray[np.int64],
    block: NDArray[np.int64],
    right: NDArray[np.float64],
    runs: list[int],
    later: list[int],
) -> None:
    """Add agreement per slot to `right` [slots, 2] and, for whole blocks, the length of the leading run to `runs`, of
    that from the second slot on to `later`."""
    np.add.at(right, slot, np.stack((good, np.ones(len(good))), axis=1))
    for number in np.unique(block):
        mine = good[block == number]
        if len(mine) == len(right):
            runs.append(int(np.cumprod(mine).sum()))
            later.append(int(np.cumprod(mine[1:]).sum()))


def summary(
    sums: dict[str, Any],
    by_ratio: NDArray[np.float64],
    by_position: NDArray[np.float64],
    right: NDArray[np.float64],
    runs: Sequence[int],
    later: Sequence[int],
    config: TrainConfig,
) -> dict[str, Any]:
    profile = share(right)
    accepted = float(np.nancumprod(profile).sum()) if len(profile) else 0.0
    ar, bound = sums["nll"] / max(sums["targets"], 1), sums["bound"] / max(sums["eligible"], 1)
    joint = config.method == "joint"
    return {
        "score": ar + config.loss.alpha * bound if joint else 1 / (1 + accepted),
        "ar_nll": ar,
        "ar_ppl": math.exp(min(ar, 700)),
        "nelbo": bound,
        "nelbo_ppl": math.exp(min(bound, 700)),
        "accuracy_by_ratio": [
            [end, round(float(value), 4), int(rows)]
            for end, value, rows in zip((*BUCKETS, "all masked"), share(by_ratio), by_ratio[:, 1], strict=True)
            if rows
        ],
        "accuracy_by_position": [round(float(value), 4) for value in share(by_position)],
        "acceptance": [round(float(value), 4) for value in profile],
        "accepted": accepted,
        "accepted_run": float(np.mean(runs)) if runs else 0.0,
        "accepted_later": float(np.mean(later)) if later else 0.0,
        "tokens_per_round": accepted + 1,
    }


def share(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """First column over the second; 0 where nothing was counted."""
    return counts[:, 0] / np.maximum(counts[:, 1], 1)
