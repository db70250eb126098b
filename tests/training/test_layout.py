"""Promise 5: training rows are inference rows, the clean half is plain AR, and noise stays in its block."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training import tiny
from unmask import visibility
from unmask.config import EngineConfig
from unmask.decoding.common import group, group_rows, read_group
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch, Decoder
from unmask.training.attention import Dense, Kernel, Split, block_groups, clean_visible, make_kernel, noisy_visible
from unmask.training.flex import Flex
from unmask.training.forward import Hidden, clean_first, together
from unmask.training.layout import Doubled, double, lay_out, spans
from unmask.training.noise import Block
from unmask.training.sample import Sample
from unmask.types import Plan, Request, Span, Traits

SAMPLES = [tiny.sample(3, (9, 14), padding=1), tiny.sample(4, (24,)), tiny.sample(5, (1, 2, 20), padding=1)]
SAMPLES.append(tiny.gap_sample(6))
SEEDS = ["block", "causal", "copy"]


def run_spans(model: Decoder, plan: tuple[Span, ...]) -> Tensor:
    """Hidden states of all rows of a plan, by the dense reference over the visibility that inference uses."""
    tokens = [token for span in plan for token in span.tokens]
    positions = [span.start + row for span in plan for row in range(len(span.tokens))]
    starts, gates, unknown = visibility.offsets(plan), list[int](), list[int]()
    for start, span in zip(starts, plan, strict=False):
        if span.adapter is not None:
            gates += range(start, start + len(span.tokens))
            unknown += [start + row for row, masked in enumerate(span.masked) if masked]
    named = {"unmask": torch.tensor(gates)} if gates else {}
    masks = {"unmask": torch.tensor(unknown)} if unknown else {}
    batch = Batch(torch.tensor(tokens), torch.tensor(positions), max(positions), named, masks)
    with torch.no_grad():
        return model(batch, dense_attend(visibility.mask(plan)))


LAYOUTS: list[dict[str, Any]] = [*({"seed_placement": seed} for seed in SEEDS), {"context": "noisy"}]


@pytest.mark.parametrize("settings", LAYOUTS)
def test_visibility_is_that_of_the_spans(settings: dict[str, Any]) -> None:
    doubled = double(SAMPLES, tiny.config(views=2, **settings), tiny.MASK)
    seen = visibility.mask(spans(doubled, "unmask"))
    rows = doubled.clean
    assert (seen[:rows, :rows] == clean_visible(doubled)).all()
    assert not seen[:rows, rows:].any()
    assert (seen[rows:] == noisy_visible(doubled)).all()


@pytest.mark.parametrize("settings", LAYOUTS)
def test_training_rows_are_the_rows_of_the_spans(settings: dict[str, Any]) -> None:
    config, model = tiny.config(**settings), tiny.decoder()
    tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    expected = run_spans(model, spans(doubled, "unmask"))
    found = clean_first(model, doubled, Split(doubled), "unmask")
    torch.testing.assert_close(torch.cat((found.clean, found.noisy)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("placement", SEEDS)
def test_a_drafting_block_is_what_inference_drafts(placement: Any) -> None:
    """The group of masks after a seed, made by the strategies' own code behind a causal prefix: same logits; and the
    engine's runner picks the tokens that the training rows make likeliest."""
    config, model = tiny.config(seed_placement=placement, blocks_full_share=1.0, blocks_first_share=0.0), tiny.decoder()
    tiny.trained(model, config)
    doubled = double([tiny.sample(4, (24,))], config, tiny.MASK)
    found = clean_first(model, doubled, Split(doubled), "unmask")
    traits = Traits(tiny.MASK, trained=True, seed=placement, draft_adapter="unmask", denoise_adapter="unmask")
    ids, runner = tuple(doubled.ids[: doubled.clean].tolist()), Runner(model, EngineConfig(), 2)
    for k in range(len(doubled.limit)):
        first, last = int(doubled.blocks[k]), int(doubled.blocks[k + 1])
        at = int(doubled.position[doubled.clean + first]) - (placement == "causal")
        masks = last - first - (placement != "causal")
        span = group(traits, ids[at], at, masks, ((0, at),), (0, at + 1))
        plan = (Span(ids[: at + 1], 0), span)
        assert span.tokens == tuple(doubled.ids[doubled.clean + first : doubled.clean + last].tolist())
        rows = [first + row for row in group_rows(traits, range(masks))]
        own = run_spans(model, plan)[at + 1 :]
        torch.testing.assert_close(found.noisy[first:last], own, rtol=0, atol=1e-12)
        picked = runner.run(
            [Job(Request(ids[:1], 1, traits=traits), Plan(plan, (read_group(traits, 1, range(masks)),)), 0, (0,))]
        )
        logits = model.logits(found.noisy[rows])
        logits[:, tiny.MASK] = -torch.inf
        assert [row.id for row in picked[0]] == logits.argmax(dim=-1).tolist()
        chances = logits.softmax(dim=-1).max(dim=-1).values
        np.testing.assert_allclose([row.prob for row in picked[0]], chances.tolist(), rtol=1e-5)


def test_a_denoising_block_is_what_fastdiffuser_runs() -> None:
    config, model = tiny.config(blocks_full_share=0.0), tiny.decoder()
    tiny.trained(model, config)
    doubled = double([tiny.sample(4, (24,))], config, tiny.MASK)
    found = clean_first(model, doubled, Split(doubled), "unmask")
    ids = tuple(doubled.ids[: doubled.clean].tolist())
    for k in range(1, len(doubled.limit)):
        first, last = int(doubled.blocks[k]), int(doubled.blocks[k + 1])
        start = int(doubled.position[doubled.clean + first])
        tokens = tuple(doubled.ids[doubled.clean + first : doubled.clean + last].tolist())
        masked = tuple(doubled.masked[first:last].tolist())
        assert all((token == tiny.MASK) == hidden for token, hidden in zip(tokens, masked, strict=True))
        plan = (Span(ids[:start], 0), Span(tokens, start, True, ((0, start),), "unmask", masked))
        own = run_spans(model, plan)[start:]
        torch.testing.assert_close(found.noisy[first:last], own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["joint", "adapter"])
def test_the_clean_half_is_plain_ar(method: Any) -> None:
    config, model = tiny.config(method=method), tiny.decoder()
    tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    found = together(model, doubled, Split(doubled), "unmask" if method == "adapter" else None)
    bounds = doubled.documents.tolist()
    for first, last in itertools.pairwise(bounds):
        # Of a document with a gap, what is before it; its other rows are out of order, see test_gaps.
        last = first + int(np.argmax(np.append(np.diff(doubled.position[first:last]) != 1, True))) + 1
        alone = run_spans(model, (Span(tuple(doubled.ids[first:last].tolist()), 0),))
        torch.testing.assert_close(found.clean[first:last], alone, rtol=0, atol=1e-12)


def test_both_ways_to_run_the_two_halves_agree() -> None:
    config, model = tiny.config(), tiny.decoder()
    parameters = tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    one, two = (run(model, doubled, Split(doubled), "unmask") for run in (together, clean_first))
    torch.testing.assert_close(one.noisy, two.noisy, rtol=0, atol=1e-12)
    assert not two.clean.requires_grad
    weight = torch.randn_like(one.noisy)
    grads = [torch.autograd.grad((h.noisy * weight).sum(), list(parameters.values())) for h in (one, two)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def with_other_noise(doubled: Doubled, block: int) -> Doubled:
    ids = doubled.ids.copy()
    own = slice(doubled.clean + int(doubled.blocks[block]), doubled.clean + int(doubled.blocks[block + 1]))
    ids[own] = (ids[own] + 7) % tiny.MASK
    return replace(doubled, ids=ids)


def test_noise_stays_in_its_block_in_value_and_in_gradient() -> None:
    config, model = tiny.config(method="joint", views=2), tiny.decoder()
    tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    before = together(model, doubled, Split(doubled))
    for block in range(0, len(doubled.limit), 5):
        after = together(model, with_other_noise(doubled, block), Split(doubled))
        changed = (before.noisy != after.noisy).any(dim=1).numpy()
        assert (changed == (doubled.block == block)).all()
        assert torch.equal(before.clean, after.clean)
    # And no loss on a row reaches the embedding of another block's noise: seen through distinct ids per noisy row.
    size = doubled.clean + doubled.noisy
    wide = tiny.decoder(vocab_size=size)
    distinct = replace(doubled, ids=np.arange(size))
    hidden = together(wide, distinct, Split(doubled))
    block = 3
    rows = torch.from_numpy(np.flatnonzero(doubled.block == block))
    (gradient,) = torch.autograd.grad(hidden.noisy[rows].square().sum(), [wide.model.embed_tokens.weight])
    reached = gradient.abs().sum(dim=1) > 0
    own = doubled.block == block
    document = int(doubled.block_document[block])
    context = np.arange(doubled.clean)
    sees = (context >= doubled.documents[document]) & (context < doubled.limit[block])
    assert (reached.numpy() == np.concatenate((sees, own))).all()


KERNELS: list[Callable[[Doubled], Kernel]] = [Dense, Split, lambda doubled: Flex(doubled, torch.device("cpu"))]


@pytest.mark.parametrize("method", ["joint", "adapter"])
@pytest.mark.parametrize("settings", LAYOUTS)
def test_three_attention_paths_agree_with_their_gradients(method: Any, settings: dict[str, Any]) -> None:
    config, model = tiny.config(method=method, views=2, **settings), tiny.decoder()
    parameters = list(tiny.trained(model, config).values())
    doubled = double(SAMPLES, config, tiny.MASK)
    results = list[tuple[Hidden, tuple[Tensor, ...]]]()
    for make in KERNELS:
        run = together if method == "joint" else clean_first
        hidden = run(model, doubled, make(doubled), None if method == "joint" else "unmask")
        rows = torch.cat((hidden.clean, hidden.noisy))
        weight = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
        results.append((hidden, torch.autograd.grad((rows * weight).sum(), parameters, allow_unused=True)))
    (reference, expected), *others = results
    for hidden, grads in others:
        torch.testing.assert_close(hidden.clean, reference.clean, rtol=0, atol=1e-12)
        torch.testing.assert_close(hidden.noisy, reference.noisy, rtol=0, atol=1e-12)
        for a, b in zip(grads, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", KERNELS)
def test_attention_under_autocast(make: Callable[[Doubled], Kernel]) -> None:
    config, model = tiny.config(method="joint"), tiny.decoder(torch.float32)
    doubled = double(SAMPLES, config, tiny.MASK)
    with torch.no_grad():
        whole = together(model, doubled, Dense(doubled))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = together(model, doubled, make(doubled))
    assert mixed.noisy.dtype == torch.float32  # the residual stream
    for a, b in ((mixed.noisy, whole.noisy), (mixed.clean, whole.clean)):
        assert (a - b).norm() / b.norm() < 0.02


def test_noisy_context_is_the_noisy_copies_of_the_blocks_before() -> None:
    doubled = double([tiny.sample(0, (8, 8))], tiny.config(context="noisy", views=2, blocks_first_share=0.0), tiny.MASK)
    assert not noisy_visible(doubled)[:, : doubled.clean].any()
    assert doubled.noisy == 2 * 14  # blocks without a mask are context too
    for row, seen in enumerate(noisy_visible(doubled)[:, doubled.clean :]):
        block = doubled.block[row]
        mine = (doubled.block <= block) & (doubled.block_document[doubled.block] == doubled.block_document[block])
        view = np.arange(doubled.noisy) // 14 == row // 14
        assert (seen == (mine & view)).all()


def test_without_diffusion_loss_there_are_no_noisy_rows() -> None:
    config = tiny.config(method="joint", loss_alpha=0.0)
    assert double(SAMPLES, config, tiny.MASK).noisy == 0
    assert double(SAMPLES, tiny.config(method="joint", loss_alpha=0.0, loss_form="article"), tiny.MASK).noisy > 0


def test_flex_itself_runs_on_the_cpu_without_gradient() -> None:
    config, model = tiny.config(), tiny.decoder()
    tiny.trained(model, config)
    doubled = double(SAMPLES, config, tiny.MASK)
    with torch.no_grad():
        one, two = (
            clean_first(model, doubled, kernel, "unmask")
            for kernel in (Dense(doubled), Flex(doubled, torch.device("cpu")))
        )
    torch.testing.assert_close(one.clean, two.clean, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.noisy, two.noisy, rtol=0, atol=1e-12)


@st.composite
def packed(draw: st.DrawFn) -> Sample:
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    made = tiny.sample(draw(st.integers(0, 1000)), lengths, padding=draw(st.integers(0, 3)))
    spoken = np.array(draw(st.lists(st.booleans(), min_size=len(made.ids), max_size=len(made.ids))))
    return replace(made, supervised=made.supervised & spoken)


@given(st.lists(packed(), min_size=1, max_size=3), st.sampled_from(SEEDS), st.integers(1, 6), st.booleans())
def test_layouts_of_any_batch(samples: list[Sample], placement: Any, size: int, complementary: bool) -> None:
    config = tiny.config(seed_placement=placement, blocks_size=size, noise_complementary=complementary)
    doubled = double(samples, config, tiny.MASK)
    assert doubled.clean == sum(int((sample.document >= 0).sum()) for sample in samples)
    noisy_ids, noisy_position = doubled.ids[doubled.clean :], doubled.position[doubled.clean :]
    assert (noisy_position == doubled.position[doubled.source]).all()
    assert (noisy_ids[doubled.masked] == tiny.MASK).all()
    assert (noisy_ids[~doubled.masked] == doubled.ids[doubled.source][~doubled.masked]).all()
    assert ((doubled.weight > 0) == doubled.masked).all()
    supervised = np.concatenate([sample.supervised[sample.document >= 0] for sample in samples])
    assert supervised[doubled.source].all()
    assert (doubled.position[doubled.source][doubled.masked] > 0).all()
    assert doubled.eligible >= doubled.masked.sum()
    assert supervised[doubled.ar + 1].all()
    assert (doubled.document[doubled.ar] == doubled.document[doubled.ar + 1]).all()
    assert (doubled.document[doubled.source] == doubled.block_document[doubled.block]).all()
    rows = visibility.mask(spans(doubled, None))
    assert (rows[doubled.clean :] == noisy_visible(doubled)).all()
    groups = block_groups(doubled, 8)
    assert [row for group in groups for row in range(group.first, group.last)] == list(range(doubled.noisy))


def test_rows_out_of_order_are_not_taught_across_the_jump() -> None:
    """An infill sample: prefix 0..4, suffix 8..11, then the gap 5..7, supervised in the gap only."""
    position = np.array([0, 1, 2, 3, 4, 8, 9, 10, 11, 5, 6, 7])
    gap = (position > 4) & (position < 8)
    made = replace(tiny.sample(0, (12,)), position=position, supervised=gap)
    doubled = double([made], tiny.config(blocks_full_share=0.0, noise_low=1.0), tiny.MASK)
    assert doubled.ar.tolist() == [9, 10]
    assert doubled.taught.tolist() == [False, True, True][: doubled.noisy]
    assert noisy_visible(doubled)[0, :9].all()  # the first block sees prefix and suffix


def test_the_mask_id_in_a_text_is_no_target() -> None:
    made = tiny.sample(0, (6,))
    made.ids[3] = tiny.MASK
    block = Block(1, np.ones(5, dtype=bool), 5, np.ones(5), 1.0, False, 1)
    doubled = lay_out([made], [[block]], tiny.MASK)
    assert doubled.weight.tolist() == [1, 1, 0, 1, 1]
    assert doubled.ar.tolist() == [0, 1, 3, 4]


def test_kernels_by_name() -> None:
    doubled, cpu = double(SAMPLES, tiny.config(), tiny.MASK), torch.device("cpu")
    kinds = {name: type(make_kernel(name, doubled, cpu)) for name in (None, "split", "dense", "flex")}
    assert kinds == {None: Split, "split": Split, "dense": Dense, "flex": Flex}
    kernel: Kernel = Split(double([], tiny.config(), tiny.MASK))
    assert len(kernel.noisy(torch.zeros(0, 4, 8), (torch.zeros(0, 2, 8),) * 2, (torch.zeros(0, 2, 8),) * 2)) == 0
