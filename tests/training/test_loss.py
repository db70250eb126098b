"""Chunked losses equal plain ones with their gradients, and the objectives are the formulas of the papers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training import tiny
from unmask.model.attention import dense_attend
from unmask.model.coherence import CANDIDATES
from unmask.model.decoder import Attend, Batch, Decoder
from unmask.training.attention import Split
from unmask.training.forward import Hidden, clean_first, together
from unmask.training.layout import Doubled, double
from unmask.training.loss import (
    NEVER,
    ban,
    chunked,
    edges_of,
    label_loss,
    lk_loss,
    teacher_loss,
    up_to_first_error,
)
from unmask.training.objective import Counts, Sums, count, mask_number, objective
from unmask.training.settings import TrainConfig

SAMPLES = [tiny.sample(3, (9, 14), padding=1), tiny.sample(4, (24,))]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 33, 70])
def test_row_losses_are_cross_entropies(rows: int) -> None:
    logits, teacher = random(rows, 50).requires_grad_(), random(rows, 50, seed=1) * 3
    label, scale = torch.arange(rows) % 50, random(rows, seed=2)
    pairs = [
        (label_loss(logits, label), F.cross_entropy(logits, label, reduction="none")),
        (teacher_loss(logits, teacher), F.cross_entropy(logits, teacher.softmax(-1), reduction="none")),
    ]
    for ours, plain in pairs:
        torch.testing.assert_close(ours, plain)
        grads = [torch.autograd.grad((value * scale).sum(), logits)[0] for value in (ours, plain)]
        torch.testing.assert_close(*grads)


def test_row_losses_in_bfloat16_are_computed_in_float32() -> None:
    logits, teacher = random(40, 50, dtype=torch.float32).bfloat16(), random(40, 50, seed=1, dtype=torch.float32)
    label = torch.arange(40)
    assert label_loss(logits, label).dtype == torch.float32
    torch.testing.assert_close(label_loss(logits, label), F.cross_entropy(logits.float(), label, reduction="none"))
    found = teacher_loss(logits.requires_grad_(), teacher.bfloat16())
    expected = F.cross_entropy(logits.float(), teacher.bfloat16().float().softmax(-1), reduction="none")
    torch.testing.assert_close(found, expected)
    gradient, plain = (torch.autograd.grad(value.sum(), logits)[0] for value in (found, expected))
    torch.testing.assert_close(gradient, plain, rtol=0.02, atol=1e-4)


def test_the_mask_id_is_never_an_answer() -> None:
    logits = ban(random(3, 10), 4).requires_grad_()
    assert (logits.softmax(-1)[:, 4] == 0).all()
    loss = teacher_loss(logits, ban(random(3, 10, seed=1), 4))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert (gradient[:, 4] == 0).all()


def test_chunks_give_the_loss_and_all_gradients_of_the_whole() -> None:
    hidden, weight = random(23, 8).requires_grad_(), random(50, 8, seed=1).requires_grad_()
    label, scale = torch.arange(23), random(23, seed=2).abs()

    def loss(rows: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        values = label_loss(rows @ weight.T, label[first:last]) * scale[first:last]
        return values.sum(), values.sum()[None]

    whole = (F.cross_entropy(hidden @ weight.T, label, reduction="none") * scale).sum()
    expected = torch.autograd.grad(whole * 3, [hidden, weight])
    for chunk in (1, 5, 23, 100):
        total, figures = chunked(hidden, edges_of(23, chunk), [weight], loss)
        torch.testing.assert_close(total, whole)
        torch.testing.assert_close(figures[0], whole)
        for a, b in zip(torch.autograd.grad(total * 3, [hidden, weight]), expected, strict=True):
            torch.testing.assert_close(a, b)
    nothing, figures = chunked(hidden[:0], [], [weight], loss)
    assert nothing == 0
    assert len(figures) == 0


def test_frozen_parameters_cost_no_gradient() -> None:
    hidden, weight = random(6, 8).requires_grad_(), random(50, 8, seed=1)
    seen = list[bool]()

    def loss(rows: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        value = (rows @ weight.T).sum()
        seen.append(value.requires_grad)
        return value, value.detach()[None]

    total, _ = chunked(hidden, edges_of(6, 4), [weight], loss)
    total.backward()
    with torch.no_grad():
        chunked(hidden.detach(), edges_of(6, 4), [weight], loss)
    assert weight.grad is None
    assert seen == [True, True, False, False]


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 10))
def test_edges_do_not_tear_pieces(pieces: list[int], chunk: int) -> None:
    starts = [sum(pieces[:i]) for i in range(len(pieces))]
    rows = sum(pieces)
    edges = edges_of(rows, chunk, starts)
    assert edges == sorted(set(edges))
    assert set(edges) <= {*starts, rows}
    if rows:
        assert edges[0] == 0
        assert edges[-1] == rows
        for first, last in itertools.pairwise(edges):
            assert last - first <= chunk or (first in starts and pieces[starts.index(first)] == last - first)


def test_up_to_the_first_error() -> None:
    right = torch.tensor([True, False, True, True, True, False, False, True])
    block = torch.tensor([0, 0, 0, 3, 3, 3, 5, 5])
    assert up_to_first_error(right, block).tolist() == [True, True, False, True, True, True, True, False]
    assert up_to_first_error(right[:0], block[:0]).tolist() == []


def test_lk_loss_is_the_formula() -> None:
    logits, teacher = random(4, 12).requires_grad_(), random(4, 12, seed=1) * 2
    found = lk_loss(logits, teacher, eta=0.5, temperature=3.0, top_k=3)
    for row in range(4):
        s, t = logits[row] / 3, teacher[row] / 3
        union = sorted({*s.topk(3).indices.tolist(), *t.topk(3).indices.tolist()})
        q, p = s[union].softmax(-1), t[union].softmax(-1)
        share = torch.exp(-0.5 * torch.minimum(p, q).sum())
        expected = share * (p * (p / q).log()).sum() + (1 - share) * (p - q).abs().sum() / 2
        torch.testing.assert_close(found[row], expected)
    assert torch.autograd.grad(found.sum(), logits)[0].isfinite().all()
    torch.testing.assert_close(lk_loss(teacher, teacher, 0.5, 3.0, 3), torch.zeros(4, dtype=torch.float64))


def run(config: TrainConfig, model: Decoder, doubled: Doubled) -> tuple[Hidden, Sums]:
    hidden = (
        together(model, doubled, Split(doubled))
        if config.method == "joint"
        else clean_first(model, doubled, Split(doubled), "unmask")
    )
    return hidden, objective(model, doubled, hidden, config, tiny.MASK, Counts(*count(doubled, config)), 1.0)


def logits_of(model: Decoder, hidden: Tensor) -> Tensor:
    logits = model.logits(hidden).clone()
    logits[:, tiny.MASK] = NEVER
    return logits


@pytest.mark.parametrize(("form", "alpha"), [("nld", 0.3), ("article", 0.2)])
def test_the_joint_objective(form: Any, alpha: float) -> None:
    config = tiny.config(method="joint", loss_form=form, loss_alpha=alpha)
    model = tiny.decoder()
    parameters = list(tiny.trained(model, config).values())
    doubled = double(SAMPLES, config, tiny.MASK)
    hidden, found = run(config, model, doubled)
    label = torch.from_numpy(doubled.ids)
    source, weight = torch.from_numpy(doubled.source), torch.from_numpy(doubled.weight)
    masked = (F.cross_entropy(logits_of(model, hidden.noisy), label[source], reduction="none") * weight).sum()
    rows = torch.from_numpy(doubled.ar)
    ar = F.cross_entropy(logits_of(model, hidden.clean[rows]), label[rows + 1], reduction="none").sum()
    first, second = (1.0, alpha) if form == "nld" else (alpha, 1 - alpha)
    expected = first * ar / len(rows) + second * masked / doubled.eligible
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.ar[0], ar.detach())
    torch.testing.assert_close(found.noisy[0] + found.noisy[2], masked.detach())
    grads = [torch.autograd.grad(value, parameters, retain_graph=True) for value in (found.loss, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("placement", "width"), [("block", 0), ("causal", 9), ("copy", 9)])
def test_the_adapter_objective(placement: Any, width: int) -> None:
    """Drafting rows learn the frozen model's own next-token distribution, one clean row earlier; others the token.

    The coherence head learns the same among the candidates, knowing the token before.
    """
    config = tiny.config(
        seed_placement=placement, loss_slot_decay=0.8, loss_denoise=0.5, adapter_coherence=width, loss_chunk=7
    )
    model = tiny.decoder()
    parameters = list(tiny.trained(model, config).values())
    doubled = double(SAMPLES, config, tiny.MASK)
    hidden, found = run(config, model, doubled)
    logits, total = logits_of(model, hidden.noisy), torch.zeros((), dtype=torch.float64)
    kinds, mass, chain = [0.0, 0.0], [0.0, 0.0], torch.zeros((), dtype=torch.float64)
    for row, source in enumerate(doubled.source.tolist()):
        if not doubled.masked[row]:
            continue
        draft, weight = bool(doubled.draft[doubled.block[row]]), float(doubled.weight[row])
        target = torch.tensor(doubled.ids[source])
        if draft:
            own = model(*alone(doubled, source))[-1:]
            target = logits_of(model, own).softmax(-1)[0].detach()
            in_block = doubled.masked[doubled.blocks[doubled.block[row]] : row].sum()
            weight *= 0.8**in_block
            if width:
                before = model.model.embed_tokens.weight[doubled.ids[source - 1]]
                change = model.coherence["unmask"](model.model.norm(hidden.noisy[row]), before)
                chosen = logits[row].topk(CANDIDATES).indices
                scores = logits[row].detach()[chosen] + model.lm_head.weight[chosen] @ change
                chain = chain + weight * F.cross_entropy(scores, target[chosen])
        else:
            weight *= 0.5
        value = weight * F.cross_entropy(logits[row], target)
        total, kinds[not draft], mass[not draft] = (
            total + value,
            kinds[not draft] + value.item(),
            mass[not draft] + weight,
        )
    whole = (total + chain) / doubled.eligible
    torch.testing.assert_close(found.loss, whole)
    sums = [kinds[0], mass[0], kinds[1], mass[1], chain.item()]
    torch.testing.assert_close(found.noisy, torch.tensor(sums, dtype=torch.float64))
    grads = [torch.autograd.grad(v, parameters, retain_graph=True) for v in (found.loss, whole)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def alone(doubled: Doubled, source: int) -> tuple[Batch, Attend]:
    """The rows of a document before one of its clean rows, for a plain causal forward."""
    first = int(doubled.documents[doubled.document[source]])
    ids = torch.from_numpy(doubled.ids[first:source])
    n = len(ids)
    mask = torch.ones(n, n, dtype=torch.bool).tril().numpy()
    return Batch(ids, torch.arange(n), n - 1), dense_attend(mask)


def test_only_the_prefix_and_the_first_error_count() -> None:
    config = tiny.config(blocks_full_share=1.0, loss_first_error=True, loss_chunk=6)
    model = tiny.decoder()
    tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    hidden, found = run(config, model, doubled)
    draft, own = logits_of(model, hidden.noisy).argmax(-1), logits_of(model, hidden.clean).argmax(-1)
    weight, block, alive = 0, -1, True
    for row, source in enumerate(doubled.source.tolist()):
        if doubled.block[row] != block:
            block, alive = int(doubled.block[row]), True
        if doubled.masked[row] and alive:
            weight += 1
            alive = bool(draft[row] == own[source - 1])
    assert found.noisy[1].item() == weight
    assert weight < doubled.masked.sum()


def test_labels_for_drafts_and_teacher_for_denoising() -> None:
    swapped = tiny.config(loss_draft_target="label", loss_denoise_target="teacher")
    plain = tiny.config()
    model = tiny.decoder()
    tiny.trained(model, plain)
    doubled = double(SAMPLES, plain, tiny.MASK)
    values = [run(config, model, doubled)[1].noisy for config in (plain, swapped)]
    assert values[0][0] != values[1][0]
    assert values[0][2] != values[1][2]
    assert values[0][1] == values[1][1]


def test_the_drafter_objective_is_lk_plus_cross_entropy() -> None:
    config = tiny.config(
        stage="drafter", blocks_full_share=1.0, loss_lk=True, loss_lk_top_k=5, adapter_targets=("o_proj",)
    )
    model = tiny.decoder()
    tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    hidden, found = run(config, model, doubled)
    rows = torch.from_numpy(doubled.masked.nonzero()[0])
    source = torch.from_numpy(doubled.source)[rows]
    draft, own = logits_of(model, hidden.noisy[rows]), logits_of(model, hidden.clean[source - 1])
    expected = lk_loss(draft, own, 0.5, 3.0, 5) + F.cross_entropy(
        draft, torch.from_numpy(doubled.ids)[source], reduction="none"
    )
    torch.testing.assert_close(found.loss, expected.sum() / doubled.eligible)


def test_mask_numbers() -> None:
    doubled = double([tiny.sample(0, (12,))], tiny.config(blocks_full_share=1.0, blocks_first_share=0.0), tiny.MASK)
    assert mask_number(doubled).tolist() == [0, 0, 1, 2, 3, 0, 0, 1, 2, 3]  # the last block is a seed alone


def test_rise_scales_the_diffusion_loss_alone() -> None:
    config = tiny.config(method="joint")
    model = tiny.decoder()
    doubled = double(SAMPLES, config, tiny.MASK)
    hidden = together(model, doubled, Split(doubled))
    counts = Counts(*count(doubled, config))
    none, half, whole = (
        objective(model, doubled, hidden, config, tiny.MASK, counts, rise).loss for rise in (0, 0.5, 1)
    )
    torch.testing.assert_close(half - none, whole - half)
    torch.testing.assert_close(none, objective(model, doubled, hidden, config, tiny.MASK, counts, 1).ar[0] / counts.ar)


def test_counts_may_be_of_more_than_this_batch() -> None:
    config, model = tiny.config(method="joint"), tiny.decoder()
    doubled = double(SAMPLES, config, tiny.MASK)
    hidden = together(model, doubled, Split(doubled))
    once, twice = (
        objective(
            model, doubled, hidden, config, tiny.MASK, Counts(n * doubled.eligible, n * len(doubled.ar)), 1.0
        ).loss
        for n in (1, 2)
    )
    torch.testing.assert_close(once, 2 * twice)
