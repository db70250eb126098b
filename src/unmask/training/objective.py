"""From the hidden states of a doubled sequence to the numbers that are minimised and logged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.model.coherence import Coherence, candidates, rescored
from unmask.model.decoder import Decoder
from unmask.training.forward import Hidden
from unmask.training.layout import Doubled
from unmask.training.loss import (
    ban,
    chunked,
    edges_of,
    exact,
    label_loss,
    likeliest,
    lk_loss,
    teacher_loss,
    up_to_first_error,
)
from unmask.training.settings import TrainConfig

# What the noisy rows of a chunk add up to, in this order: loss and weight of drafting rows, of denoising rows; loss of
# the coherence head on drafting rows.
FIGURES = ("draft", "draft_weight", "denoise", "denoise_weight", "coherence")


@dataclass(frozen=True)
class Counts:
    """Over the whole optimiser step, on all processes: tokens that may carry loss, and AR targets."""

    eligible: int
    ar: int


@dataclass(frozen=True)
class Sums:
    """Sums of one micro-batch. loss: what is differentiated; the others: raw sums for the log.

    ar [1]; noisy [5] as in FIGURES.
    """

    loss: Tensor
    ar: Tensor
    noisy: Tensor


def count(doubled: Doubled, config: TrainConfig) -> tuple[int, int]:
    return doubled.eligible, len(ar_rows(doubled, config))


def ar_rows(doubled: Doubled, config: TrainConfig) -> NDArray[np.int64]:
    """Clean rows whose next row carries AR loss; of a filler, those in gaps: the rest is for the frozen model."""
    return doubled.ar[doubled.gap] if config.stage == "filler" else doubled.ar


def objective(
    decoder: Decoder, doubled: Doubled, hidden: Hidden, config: TrainConfig, mask_id: int, counts: Counts, rise: float
) -> Sums:
    """rise: from 0 to 1, how far the weight of the diffusion loss has risen."""
    if config.stage == "filler":
        ar, _ = ar_loss(decoder, doubled, hidden, config, mask_id)
        return Sums(ar / max(counts.ar, 1), ar.detach()[None], ar.new_zeros(len(FIGURES)).detach())
    noisy, figures = noisy_loss(decoder, doubled, hidden, config, mask_id)
    noisy = noisy / max(counts.eligible, 1)
    if config.method == "adapter":
        return Sums(noisy, figures.new_zeros(1), figures)
    ar, _ = ar_loss(decoder, doubled, hidden, config, mask_id)
    alpha, form = config.loss.alpha, config.loss.form
    ar_weight, noisy_weight = (1.0, alpha) if form == "nld" else (alpha, 1 - alpha)
    loss = ar_weight * ar / max(counts.ar, 1) + noisy_weight * rise * noisy
    return Sums(loss, ar.detach()[None], figures)


def head(decoder: Decoder) -> list[Tensor]:
    """What `Decoder.logits` uses."""
    return [decoder.model.norm.weight, decoder.lm_head.weight]


def ar_loss(
    decoder: Decoder, doubled: Doubled, hidden: Hidden, config: TrainConfig, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Sum of -log p(next token) over the clean rows that have one."""
    device = hidden.clean.device
    before = ar_rows(doubled, config)
    rows = torch.from_numpy(before).to(device)
    label = torch.from_numpy(doubled.ids[before + 1]).to(device)

    def loss(chunk: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        values = label_loss(ban(decoder.logits(chunk), mask_id), label[first:last])
        return values.sum(), values.detach().sum()[None]

    return chunked(hidden.clean[rows], edges_of(len(rows), config.loss.chunk), head(decoder), loss)


@dataclass(frozen=True)
class Targets:
    """The noisy rows that carry loss and learn in one way, R of them, in order.

    row: int64 [R], the noisy row; before: int64 [R], the clean row that has its AR prediction; label, block: int64 [R];
    weight: [R]; draft: [R], 1 in drafting blocks, else 0; soft: they learn from the teacher's distribution.
    """

    row: Tensor
    before: Tensor
    label: Tensor
    block: Tensor
    weight: Tensor
    draft: Tensor
    soft: bool


def targets(doubled: Doubled, config: TrainConfig, hidden: Tensor) -> tuple[Targets, Targets]:
    """Rows that learn from labels, and rows that learn from the teacher."""
    loss, draft = config.loss, doubled.draft[doubled.block]
    soft = np.zeros(doubled.noisy, dtype=np.bool_)
    if config.method == "adapter":
        soft |= draft if loss.draft_target == "teacher" else False
        soft |= ~draft if loss.denoise_target == "teacher" else False
    soft &= doubled.taught
    scale = np.where(draft, loss.slot_decay ** mask_number(doubled).astype(float), loss.denoise)
    weight = doubled.weight * scale

    def those(chosen: NDArray[np.bool_], soft: bool) -> Targets:
        rows = np.flatnonzero(chosen & (weight > 0))
        source, kind = doubled.source[rows], exact(hidden.dtype)
        row, before, label, block, w, d = (
            torch.from_numpy(part).to(hidden.device)
            for part in (
                rows,
                (source - 1).clip(min=0),
                doubled.ids[source],
                doubled.block[rows],
                weight[rows],
                draft[rows],
            )
        )
        return Targets(row, before, label, block, w.to(kind), d.to(kind), soft)

    return those(~soft, False), those(soft, True)


def coherence_loss(
    decoder: Decoder,
    coherence: Coherence,
    normed_RD: Tensor,
    logits_RV: Tensor,
    teacher_RV: Tensor,
    before_R: Tensor,
) -> Tensor:
    """Cross-entropy of the head's choice among the candidates against the teacher's, [R], given the true token before.

    Both are renormalised on the candidates, and a row counts for as much as the teacher's share of them.
    """
    values, ids = candidates(logits_RV)
    scores = rescored(decoder, coherence, normed_RD, before_R, ids, values)
    share = teacher_RV.to(scores.dtype).log_softmax(dim=-1).gather(1, ids).exp()
    return -(share * scores.log_softmax(dim=-1)).sum(dim=-1)


def mask_number(doubled: Doubled) -> NDArray[np.int64]:
    """[N]: how many masked rows of its block come before each row."""
    before: NDArray[np.int64] = np.cumsum(doubled.masked) - doubled.masked
    return before - before[doubled.blocks[:-1]][doubled.block]


def noisy_loss(
    decoder: Decoder, doubled: Doubled, hidden: Hidden, config: TrainConfig, mask_id: int
) -> tuple[Tensor, Tensor]:
    """(weighted sum over the masked rows, FIGURES)."""
    device, settings = hidden.noisy.device, config.loss
    total = torch.zeros((), dtype=exact(hidden.noisy.dtype), device=device)
    figures = torch.zeros(len(FIGURES), dtype=total.dtype, device=device)
    coherence = decoder.coherence.get(config.adapter.name) if config.method == "adapter" else None
    clean_ids = torch.from_numpy(doubled.ids[: doubled.clean]).to(device)
    for part in targets(doubled, config, hidden.noisy):
        if len(part.row) == 0:
            continue

        def loss(chunk: Tensor, first: int, last: int, part: Targets = part) -> tuple[Tensor, Tensor]:
            normed = decoder.model.norm(chunk)
            logits = ban(decoder.lm_head(normed), mask_id)
            label, weight = part.label[first:last], part.weight[first:last]
            chain = torch.zeros_like(weight)
            values, best = torch.zeros_like(weight), label
            if part.soft:
                with torch.no_grad():
                    teacher = ban(decoder.logits(hidden.clean[part.before[first:last]]), mask_id)
                    best = likeliest(teacher) if settings.first_error else label
                if settings.lk:
                    values = lk_loss(logits, teacher, settings.lk_eta, settings.lk_temperature, settings.lk_top_k)
                else:
                    values = teacher_loss(logits, teacher)
                if coherence is not None:
                    chain = coherence_loss(
                        decoder, coherence, normed, logits.detach(), teacher, clean_ids[part.before[first:last]]
                    )
            if settings.lk or not part.soft:
                values = values + label_loss(logits, label)
            draft = part.draft[first:last]
            if settings.first_error:
                counts = up_to_first_error(likeliest(logits.detach()) == best, part.block[first:last])
                weight = torch.where(counts | (draft == 0), weight, torch.zeros_like(weight))
            weighted, chain = weight * values, weight * draft * chain
            by_kind = torch.stack(
                [weighted * draft, weight * draft, weighted * (1 - draft), weight * (1 - draft), chain]
            )
            return weighted.sum() + chain.sum(), by_kind.detach().sum(dim=1)

        starts = torch.unique_consecutive(part.block, return_counts=True)[1].cumsum(0).tolist()
        edges = edges_of(len(part.row), settings.chunk, [0, *starts[:-1]] if settings.first_error else None)
        used = [*head(decoder), *(coherence.parameters() if part.soft and coherence is not None else ())]
        value, found = chunked(hidden.noisy[part.row], edges, used, loss)
        total, figures = total + value, figures + found
    return total, figures
