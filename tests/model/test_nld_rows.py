"""Nemotron-Labs-Diffusion's forwards, row by row: cache, blocks, quadratic groups, training sequence, adapter.

The numbers in the comments are those of the weight-free conformance list in the reference page on the model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.model.published import (
    LORA,
    MASK,
    causal,
    dense,
    ids,
    loaded,
    logprobs,
    lora,
    of_spans,
    opened,
    runner_of,
    save,
    weights,
)
from unmask.decoding import linearspec, quadspec
from unmask.engine.engine import Engine
from unmask.engine.runner import Runner
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch, Decoder
from unmask.types import Diffusion, Draft, Ids, Request, Sampling, Span, Speculation, State, Traits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("nld"), adapter=lora())


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    return loaded(folder)[0]


@pytest.fixture(scope="module")
def runner(decoder: Decoder) -> Runner:
    return runner_of(decoder)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-5)


def differ(found: Tensor, other: Tensor) -> None:
    assert (found - other).abs().amax(dim=-1).min() > 0.02


@torch.no_grad()
def prefilled(decoder: Decoder, tokens: Ids) -> tuple[Tensor, Tensor]:
    """Keys and values [layers, T, G, K] of a fresh causal prefill."""
    keys, values, attend = list[Tensor](), list[Tensor](), dense_attend(np.tri(len(tokens), dtype=np.bool_))

    def recording(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.append(k)
        values.append(v)
        return attend(layer, q, k, v)

    decoder(Batch(torch.tensor(tokens), torch.arange(len(tokens)), len(tokens) - 1), recording)
    return torch.stack(keys), torch.stack(values)


def cached(engine: Engine, number: int) -> tuple[Tensor, Tensor]:
    """Copies of a live request's kept keys and values."""
    live, runner = engine.requests[number], engine.runner
    assert isinstance(runner, Runner)
    assert live.written == live.state.kept
    slots = [page * 8 + i for page in live.pages for i in range(8)][: live.written]
    return runner.cache.keys[:, slots], runner.cache.values[:, slots]


# 4.
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("ar", None),
        ("linearspec", Speculation(5)),
        ("linearspec", Speculation(5, draft_threshold=0.5)),
        ("quadspec", Speculation(4)),
        ("adaptivespec", Speculation(4, costs=((1, 1.0), (256, 1.1)))),
        ("fastdiffuser", Diffusion(4, 0.5)),
        ("fastdiffuser", Diffusion(4, 0.5, seed_first=True)),
    ],
)
def test_the_cache_is_that_of_a_causal_prefill(strategy: str, settings: Any, sampling: Sampling, folder: Path) -> None:
    engine, traits = opened(folder)
    request = Request(ids(11, 7), 24, strategy, settings, sampling, traits)
    number, unchanged, grown = engine.submit(request), 0, 0
    engine.step()
    while number in engine.requests:
        before, state = cached(engine, number), engine.requests[number].state
        for old, fresh in zip(before, prefilled(engine.runner.decoder, state.ids[: state.kept]), strict=True):  # type: ignore[attr-defined]
            close(old, fresh)
        (update,) = engine.step()
        if number not in engine.requests:
            break
        unchanged, grown = unchanged + (update.outcome.keep == 0), grown + (update.outcome.keep > 0)
        for old, new in zip(before, cached(engine, number), strict=True):
            assert torch.equal(new[:, : state.kept], old)
    assert grown > 2
    # A block is denoised before it is kept; a draft that is filled in one forward is a step of AR, too.
    assert (unchanged > 2) == (strategy == "fastdiffuser" or getattr(settings, "draft_threshold", 0) > 0)


# 5.
@pytest.mark.parametrize("adapter", [None, LORA])
@pytest.mark.parametrize("exact", [False, True])
def test_a_block_over_the_cache_equals_one_without(exact: bool, adapter: str | None, decoder: Decoder) -> None:
    prefix, block, runner = ids(21, 1), (7, MASK, MASK, 6, MASK), runner_of(decoder, exact)
    mask = np.tri(26, dtype=np.bool_)
    mask[21:] = True
    expected = dense(decoder, prefix + block, mask, lora_rows=range(21, 26) if adapter else ())
    close(logprobs(runner, [Span(prefix, 0)]), expected[:21])
    for _ in range(2):  # the second time over the rows that the first has left behind
        close(logprobs(runner, [Span(block, 21, full=True, adapter=adapter)], 21), expected[21:])
    differ(expected[21:25], causal(decoder, prefix + block)[21:25])
    close(logprobs(runner, [Span(block, 21)], 21), causal(decoder, prefix + block)[21:])


def published_groups(kept: int, k: int) -> tuple[NDArray[np.bool_], list[int]]:
    """The published quadratic layout: k groups of [d[g], M * k]; who sees whom over clean rows and all of them."""
    rows = [(g, s) for g in range(k) for s in range(k + 1)]
    mask = np.zeros((kept + len(rows),) * 2, dtype=np.bool_)
    mask[:kept, :kept] = np.tri(kept, dtype=np.bool_)
    mask[kept:, :kept] = True
    for q, (g, s) in enumerate(rows):
        for key, (h, t) in enumerate(rows):
            mask[kept + q, kept + key] = h <= g if t == 0 else s >= 1 and g == h
    return mask, [*range(kept), *(kept + g + s for g, s in rows)]


# 6. The published code's slot 0 does not see the masks: that is seed="causal".
@pytest.mark.parametrize("adapter", [None, LORA])
@pytest.mark.parametrize("k", [2, 5])
def test_quadratic_groups_are_the_published_ones(k: int, adapter: str | None, decoder: Decoder, runner: Runner) -> None:
    prompt, drafts = ids(12, 2), ids(k - 1, 3)
    traits = Traits(mask_id=MASK, seed="causal", draft_adapter=adapter)
    request = Request(prompt, 40, "quadspec", Speculation(k), traits=traits)
    state = State(request, kept=12, output=(8,), draft=tuple(Draft(token, 0.5, 0, 0.1) for token in drafts))
    plan = quadspec.need(state)
    first = (8, *drafts)
    assert plan.rows == k * (k + 1)
    tokens = prompt + tuple(token for d in first for token in (d, *[MASK] * k))
    mask, positions = published_groups(12, k)
    gated = [12 + g * (k + 1) + s for g in range(k) for s in range(1, k + 1)] if adapter else []
    expected = dense(decoder, tokens, mask, positions, gated)[12:].view(k, k + 1, -1)
    logprobs(runner, [Span(prompt, 0)])
    found = logprobs(runner, plan.spans, 12)
    close(found[:k], expected[:, 0])
    close(found[:k], causal(decoder, prompt + first)[12:])
    close(found[k:].view(k, k, -1), expected[:, 1:])
    assert [(read.span, read.rows) for read in plan.reads[1:]] == [(g + 1, tuple(range(1, k))) for g in range(k)]


@pytest.mark.parametrize("seed", ["block", "causal", "copy"])
def test_a_quadratic_group_is_the_linear_draft_of_that_acceptance(
    seed: Any, decoder: Decoder, runner: Runner, folder: Path
) -> None:
    prompt, drafts, k = ids(12, 2), ids(3, 3), 4
    traits = Traits(mask_id=MASK, seed=seed, draft_adapter=LORA)
    request = Request(prompt, 40, "quadspec", Speculation(k), traits=traits)
    state = State(request, kept=12, output=(8,), draft=tuple(Draft(token, 0.5, 0, 0.1) for token in drafts))
    plan = quadspec.need(state)
    logprobs(runner, [Span(prompt, 0)])
    found, starts = logprobs(runner, plan.spans, 12), np.cumsum([0] + [len(span.tokens) for span in plan.spans])
    for accepted in range(k):
        confirmed = prompt + (8, *drafts)[: accepted + 1]
        linear = State(
            replace(request, settings=Speculation(k + 1, lookup=0)), kept=len(confirmed) - 1, output=confirmed[12:]
        )
        drafting = linearspec.need(linear)
        whole = of_spans(decoder, [Span(confirmed[:-1], 0), *sees_all(drafting.spans, len(confirmed) - 1)])
        masks = whole[-k:]
        close(found[starts[accepted + 1] : starts[accepted + 2]][-k:], masks)
        differ(masks, causal(decoder, confirmed + (MASK,) * k)[-k:])


def sees_all(spans: tuple[Span, ...], kept: int) -> list[Span]:
    """The spans of a plan when its kept context stands before them as span 0."""
    return [replace(span, sees=((0, kept), *((i + 1, rows) for i, rows in span.sees))) for span in spans]


def doubled_mask(length: int, size: int) -> NDArray[np.bool_]:
    """The published training mask over [noisy | clean], block b = position // size."""
    at = np.arange(2 * length)
    noisy, position = at < length, at % length
    block = position // size
    mask = noisy[:, None] & noisy[None] & (block[:, None] == block[None])
    mask |= noisy[:, None] & ~noisy[None] & (block[None] < block[:, None])
    return mask | (~noisy[:, None] & ~noisy[None] & (position[None] <= position[:, None]))


# 7.
@pytest.mark.parametrize("length", [24, 21])
def test_the_doubled_sequence_trains_what_is_decoded(length: int, decoder: Decoder, runner: Runner) -> None:
    clean, size = ids(length, 4), 6
    hidden = np.random.default_rng(5).random(length) < 0.5
    noisy = tuple(MASK if masked else token for token, masked in zip(clean, hidden, strict=True))
    spans = [Span(clean, 0)]
    for start in range(0, length, size):
        block = noisy[start : start + size]
        spans.append(Span(block, start, full=True, sees=((0, start),)))
    rows = of_spans(decoder, spans)
    close(rows[:length], causal(decoder, clean))
    close(rows[:length], logprobs(runner, [Span(clean, 0)]))
    for span in spans[1:]:
        alone = logprobs(runner, [Span(span.tokens, span.start, full=True)], span.start)
        close(rows[length + span.start :][: len(span.tokens)], alone)
        logprobs(runner, [Span(clean[span.start :], span.start)], span.start)  # the cache as it was
    other = dense(decoder, noisy + clean, doubled_mask(length, size), [*range(length)] * 2)
    close(torch.cat((rows[length:], rows[:length])), other)


def test_noise_in_one_block_reaches_no_other(decoder: Decoder) -> None:
    clean, size = ids(18, 4), 6

    def rows(middle: Ids) -> Tensor:
        blocks = [(MASK,) * size, middle, (MASK,) * size]
        noised = [Span(b, i * size, full=True, sees=((0, i * size),)) for i, b in enumerate(blocks)]
        return of_spans(decoder, [Span(clean, 0), *noised])

    one, two = rows(ids(size, 8)), rows(ids(size, 9))
    assert torch.equal(one[:24], two[:24])
    assert torch.equal(one[30:], two[30:])
    differ(one[24:30], two[24:30])


# 9.
def test_a_merged_adapter_equals_one_beside(decoder: Decoder, tmp_path: Path) -> None:
    merged, adapter = weights(), lora()
    for n in range(2):
        stem = f"encoder.layers.{n}.self_attn.o_proj"
        a, b = (adapter[f"base_model.model.{stem}.lora_{matrix}.weight"] for matrix in "AB")
        merged[f"{stem}.weight"] = merged[f"{stem}.weight"] + 32 / 8 * b @ a
    other, traits = loaded(save(tmp_path, merged))
    assert traits.draft_adapter is None
    prefix, block = ids(9, 1), (5, MASK, MASK, MASK)
    one, two = runner_of(decoder), runner_of(other)
    full, plain = Span(block, 0, full=True), Span(prefix, 0)
    close(logprobs(one, [replace(full, adapter=LORA)]), logprobs(two, [full]))
    close(logprobs(one, [replace(plain, adapter=LORA)]), logprobs(two, [plain]))
    differ(logprobs(one, [replace(full, adapter=LORA)]), logprobs(one, [full]))


def test_without_its_adapter_a_row_is_the_base_model_bit_for_bit(decoder: Decoder, tmp_path: Path) -> None:
    base, _ = loaded(save(tmp_path))
    prefix, block = ids(9, 1), (5, MASK, MASK, MASK)
    spans = [Span(prefix, 0), Span(block, 9, full=True, sees=((0, 9),))]
    one, two = logprobs(runner_of(decoder), spans), logprobs(runner_of(base), spans)
    assert torch.equal(one, two)
    mixed = logprobs(runner_of(decoder), [spans[0], replace(spans[1], adapter=LORA)])
    assert torch.equal(mixed[:9], one[:9])
    differ(mixed[9:], one[9:])
