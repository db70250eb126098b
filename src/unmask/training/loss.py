"""Losses over gathered rows, in chunks: [rows, vocabulary] exists for one chunk at a time, forward and backward.

The gradient of a chunk is taken as soon as its logits are there (they are not computed twice), so the backward of
`chunked` only scales what is stored.
Shapes: R rows of a chunk, V vocabulary, D hidden.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Stands for -inf in logits: exp of it is 0 exactly, and 0 times it is not NaN.
NEVER = -1e30

# (hidden states of a chunk, its first row, its last + 1) -> (loss summed over the chunk, figures to add up)
ChunkLoss = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]


def chunked(
    hidden_ND: Tensor, edges: Sequence[int], parameters: Sequence[Tensor], loss: ChunkLoss
) -> tuple[Tensor, Tensor]:
    """Sum of `loss` over the chunks of rows edges[i] .. edges[i + 1] - 1, and the sum of its figures.

    parameters: what `loss` uses besides the hidden states and may need a gradient (norm, head).
    """
    total, figures = _Chunked.apply(hidden_ND, list(edges), loss, *parameters)  # type: ignore[no-untyped-call]
    return total, figures


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, edges: list[int], loss: ChunkLoss, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        gradient = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        others = [torch.zeros_like(parameters[i]) for i in wanted]
        total, figures = hidden.new_zeros((), dtype=exact(hidden.dtype)), None
        for first, last in itertools.pairwise(edges):
            rows = hidden[first:last].detach()
            inputs = [*([rows.requires_grad_()] if gradient is not None else []), *(parameters[i] for i in wanted)]
            with torch.set_grad_enabled(bool(inputs)):
                value, found = loss(rows, first, last)
            if inputs:
                grads = list(torch.autograd.grad(value, inputs))
                if gradient is not None:
                    gradient[first:last] = grads.pop(0)
                for other, grad in zip(others, grads, strict=True):
                    other += grad
            total += value.detach()
            figures = found.detach() if figures is None else figures + found.detach()
        ctx.gradient, ctx.others, ctx.wanted, ctx.count = gradient, others, wanted, len(parameters)
        figures = total.new_zeros(0) if figures is None else figures
        ctx.mark_non_differentiable(figures)
        return total, figures

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        to_parameters: list[Tensor | None] = [None] * ctx.count
        for i, gradient in zip(ctx.wanted, ctx.others, strict=True):
            to_parameters[i] = gradient * scale.to(gradient.dtype)
        own = None if ctx.gradient is None else ctx.gradient * scale.to(ctx.gradient.dtype)
        return own, None, None, *to_parameters


def exact(dtype: torch.dtype) -> torch.dtype:
    """In which losses are computed: float32, or float64 where the model is."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def edges_of(rows: int, chunk: int, starts: Sequence[int] | None = None) -> list[int]:
    """Edges of chunks of at most `chunk` rows; with `starts` (ascending, from 0), only where one of these stands, so
    that what belongs together is not torn apart (a longer piece is a chunk of its own)."""
    if rows == 0:
        return []
    if starts is None:
        return [*range(0, rows, chunk), rows]
    edges, last = [0], 0
    for start in [*starts, rows]:
        if start - edges[-1] > chunk and last > edges[-1]:
            edges.append(last)
        last = start
    return [*edges, rows]


def ban(logits_RV: Tensor, mask_id: int) -> Tensor:
    """The mask id is never an answer. In place, and not known to autograd: the gradient of the losses is 0 there."""
    with torch.no_grad():
        logits_RV[:, mask_id] = NEVER
    return logits_RV


def label_loss(logits_RV: Tensor, label_R: Tensor) -> Tensor:
    """-log q(label), float32 or float64 [R]."""
    loss: Tensor = _RowLoss.apply(logits_RV, label_R)  # type: ignore[no-untyped-call]
    return loss


def teacher_loss(logits_RV: Tensor, teacher_RV: Tensor) -> Tensor:
    """Cross-entropy -sum p log q against the teacher's distribution p = softmax(teacher), float32 or float64 [R]."""
    loss: Tensor = _RowLoss.apply(logits_RV, teacher_RV)  # type: ignore[no-untyped-call]
    return loss


def likeliest(logits_RV: Tensor) -> Tensor:
    """int64 [R]. In float32: torch's argmax over bfloat16 takes four times as long on a CPU, the copy included."""
    return logits_RV.to(exact(logits_RV.dtype)).argmax(dim=-1)


def rows_at_a_time(logits_RV: Tensor) -> int:
    return 32 if logits_RV.device.type == "cpu" else max(len(logits_RV), 1)


class _RowLoss(torch.autograd.Function):
    """Cross-entropy against labels [R] or a teacher's logits [R, V].

    Its gradient q - p comes with it, a few rows at a time so that they stay in the processor's cache: on a CPU this
    takes a quarter of the time that autograd's passes over the whole chunk take.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        dtype, step = exact(logits.dtype), rows_at_a_time(logits)
        loss = torch.empty(len(logits), dtype=dtype, device=logits.device)
        difference = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for first in range(0, len(logits), step):
            few = slice(first, first + step)
            scores = logits[few].to(dtype, copy=True)
            scores -= scores.amax(dim=-1, keepdim=True)
            if target.ndim == 2:
                p = torch.softmax(target[few].to(dtype), dim=-1)
                dot = torch.linalg.vecdot(p, scores)
            else:
                dot = scores.gather(1, target[few, None])[:, 0]
            q = scores.exp_()
            total = q.sum(dim=-1)
            loss[few] = total.log() - dot
            if difference is None:
                continue
            q.div_(total[:, None])
            if target.ndim == 2:
                q.sub_(p)
            else:
                q.scatter_add_(1, target[few, None], q.new_full((len(q), 1), -1.0))
            difference[few] = q
        ctx.difference = difference
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        difference: Tensor = ctx.difference
        step = rows_at_a_time(difference)
        for few in range(0, len(difference), step):
            difference[few : few + step] *= scale[few : few + step, None].to(difference.dtype)
        return difference, None


def lk_loss(logits_RV: Tensor, teacher_RV: Tensor, eta: float, temperature: float, top_k: int) -> Tensor:
    """LK hybrid (arXiv 2602.23881; Nemotron-Labs-Diffusion's drafter), [R]:

    l KL(p || q) + (1 - l) TV(p, q), l = exp(-eta a), a = sum min(p, q) without gradient; p: teacher, q: draft, both at
    a temperature and renormalised on the union of their top_k sets.
    """
    dtype, k = exact(logits_RV.dtype), min(top_k, logits_RV.shape[1])
    scores, target = logits_RV.to(dtype) / temperature, teacher_RV.to(dtype) / temperature
    union = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    union.scatter_(1, scores.topk(k, dim=1).indices, True)
    union.scatter_(1, target.topk(k, dim=1).indices, True)
    log_q = scores.masked_fill(~union, NEVER).log_softmax(dim=-1)
    log_p = target.masked_fill(~union, NEVER).log_softmax(dim=-1)
    p, q = log_p.exp(), log_q.exp()
    divergence = (p * (log_p - log_q).masked_fill(~union, 0.0)).sum(dim=-1)
    variation = (p - q).abs().sum(dim=-1) / 2
    share = torch.exp(-eta * torch.minimum(p, q).sum(dim=-1).detach())
    return share * divergence + (1 - share) * variation


def up_to_first_error(right_R: Tensor, block_R: Tensor) -> Tensor:
    """bool [R]: no earlier row of the same block is wrong. Rows of a block are adjacent, in order."""
    if len(right_R) == 0:
        return right_R
    wrong = (~right_R).long()
    before = wrong.cumsum(0) - wrong
    opens = torch.ones_like(right_R)
    opens[1:] = block_R[1:] != block_R[:-1]
    at_start = torch.where(opens, before, torch.zeros_like(before)).cummax(0).values
    return before == at_start
