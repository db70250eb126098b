"""Corruption: the statistics of the laws, one result per (seed, sample), blocks anchored where documents start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training import tiny
from unmask.training.noise import Block, corrupt, cut, linear_rates, runs, sizes, stratified
from unmask.training.settings import Blocks, TrainConfig

SEEDS = ["block", "causal", "copy"]


def noised(config: TrainConfig, samples: int, length: int) -> list[Block]:
    return [block for i in range(samples) for block in corrupt(tiny.sample(i, (length + 1,)), config)]


def statistics(size: int, **noise: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(share masked, mean weight) by position in the block, over many blocks of exactly `size`."""
    config = tiny.config(
        blocks_size=size,
        blocks_full_share=0.0,
        blocks_first_share=0.0,
        noise_weight_cap=1e9,
        **{f"noise_{key}": value for key, value in noise.items()},
    )
    # The first token of a document is in no block.
    masked, weight, blocks = np.zeros(size), np.zeros(size), 0
    for index in range(150):
        sample = tiny.sample(index, (size * 40 + 1,))
        for block in corrupt(sample, config):
            blocks += 1
            masked += block.masked
            weight += block.weight
    return masked / blocks, weight / blocks


# training.md §3.3: block size, half-life (None: uniform), P(masked) and mean weight at first, middle, last position.
TABLE = [
    (16, None, (0.50, 0.50, 0.50), (0.98, 0.98, 0.98)),
    (16, 0.25, (0.37, 0.50, 0.66), (0.60, 0.96, 1.55)),
    (16, 0.10, (0.27, 0.48, 0.83), (0.35, 0.82, 2.30)),
    (16, 0.05, (0.20, 0.48, 0.93), (0.23, 0.73, 2.87)),
    (32, 0.25, (0.37, 0.50, 0.66), (0.59, 0.95, 1.59)),
    (32, 0.10, (0.27, 0.47, 0.85), (0.35, 0.80, 2.42)),
]


@pytest.mark.parametrize(("size", "half_life", "masked", "weight"), TABLE)
def test_the_laws_have_the_published_statistics(
    size: int, half_life: float | None, masked: Sequence[float], weight: Sequence[float]
) -> None:
    law: dict[str, Any] = {"law": "uniform"} if half_life is None else {"half_life": half_life}
    share, mean = statistics(size, **law)
    places = [0, size // 2, size - 1]
    np.testing.assert_allclose(share[places], masked, atol=0.03)
    np.testing.assert_allclose(mean[places], weight, rtol=0.12, atol=0.06)


@pytest.mark.parametrize(
    ("noise", "low", "high"),
    [
        ({"law": "uniform"}, 0.93, 1.0),
        ({"law": "exponential"}, 0.93, 1.0),
        ({"law": "uniform", "mode": "bernoulli"}, 0.93, 1.0),
        ({"law": "exponential", "weight_cap": 1e9}, 0.96, 1.02),
        ({"law": "linear", "mode": "bernoulli"}, 0.97, 1.03),
    ],
)
def test_mean_weight_per_maskable_token(noise: dict[str, Any], low: float, high: float) -> None:
    config = tiny.config(blocks_size=16, blocks_full_share=0.0, **{f"noise_{k}": v for k, v in noise.items()})
    weight = eligible = 0.0
    for index in range(300):
        sample = tiny.sample(index, (200,))
        weight += sum(block.weight.sum() for block in corrupt(sample, config))
        eligible += 199
    assert low < weight / eligible < high


def test_bernoulli_is_uniform_over_positions() -> None:
    share, _ = statistics(16, law="uniform", mode="bernoulli")
    np.testing.assert_allclose(share, 0.5, atol=0.03)


def test_linear_rates_of_the_article() -> None:
    rates = linear_rates(32, 0.15, 2.0)
    assert rates[[0, 15, 31]].round(3).tolist() == [0.15, 0.295, 0.45]
    share, mean = statistics(32, law="linear", mode="bernoulli")
    np.testing.assert_allclose(share, rates, atol=0.03)
    np.testing.assert_allclose(mean, 1.0, atol=0.1)


def test_corruption_depends_on_seed_and_sample_alone() -> None:
    config = tiny.config(views=2)
    again = [corrupt(tiny.sample(7, (9, 15)), config) for _ in range(2)]
    for a, b in zip(*again, strict=True):
        assert a.first == b.first
        assert (a.masked == b.masked).all()
        assert a.t == b.t

    def key(config: TrainConfig, index: int) -> list[tuple[int, tuple[bool, ...]]]:
        sample = replace(tiny.sample(7, (9, 15)), index=index)
        return [(block.first, tuple(block.masked.tolist())) for block in corrupt(sample, config)]

    kinds = [key(config, 7), key(config, 8), key(replace(config, seed=1), 7)]
    assert kinds[0] != kinds[1]
    assert kinds[0] != kinds[2]


@pytest.mark.parametrize("placement", SEEDS)
def test_drafting_blocks(placement: Any) -> None:
    config = tiny.config(seed_placement=placement, blocks_full_share=1.0, blocks_first_share=0.0, blocks_draft_size=5)
    blocks = corrupt(tiny.sample(0, (12,)), config)
    assert [block.first for block in blocks] == [1, 6, 11]
    for block in blocks:
        given = placement != "causal"
        assert block.masked.tolist() == [not given] + [True] * (len(block.masked) - 1)
        assert block.eligible == block.masked.sum()
        assert block.weight.tolist() == block.masked.tolist()
        assert block.sees == block.first + (placement == "copy")


def test_complementary_views_mask_every_token_once() -> None:
    config = tiny.config(blocks_full_share=0.0, noise_complementary=True, noise_law="uniform")
    sample = tiny.sample(2, (23,))
    masked = np.zeros(23, dtype=int)
    for block in corrupt(sample, config):
        masked[block.first : block.first + len(block.masked)] += block.masked
    assert masked.tolist() == [0] + [1] * 22


def test_stratified_levels_cover_their_range_evenly() -> None:
    config = tiny.config(noise_low=0.3, noise_high=0.8)
    rng = np.random.default_rng(0)
    ts = stratified(10, 5, config, 0, rng)
    strata = ((ts - 0.3) / 0.5 * 10).astype(int)
    assert sorted(strata.tolist()) == list(range(10))
    offsets = np.sort([stratified(1, i, config, 0, rng)[0] for i in range(100)])
    assert np.diff(offsets).max() < 0.03 * 0.5  # samples in a row are spread as well


def test_runs_are_answers_within_documents() -> None:
    sample = tiny.sample(0, (6, 5), padding=2)
    spoken = sample.supervised.copy()
    spoken[[0, 1, 8]] = False
    assert runs(replace(sample, supervised=spoken)) == [(2, 6), (7, 8), (9, 11)]
    assert runs(sample) == [(1, 6), (7, 11)]
    assert runs(sample, 5) == [(5, 6)]
    assert runs(replace(sample, supervised=np.zeros(13, dtype=bool))) == []


@given(st.integers(0, 40), st.integers(1, 9), st.integers(2, 9), st.floats(0, 1), st.floats(0, 1))
def test_blocks_tile_their_run(length: int, size: int, draft_size: int, full: float, first_share: float) -> None:
    blocks = Blocks(full_share=full, first_share=first_share)
    pieces = list(cut(3, 3 + length, size, draft_size, blocks, np.random.default_rng(length)))
    rows = [row for first, last, _ in pieces for row in range(first, last)]
    assert rows == list(range(3, 3 + length))
    for first, last, draft in pieces[1:-1]:
        assert last - first == (draft_size if draft else size)


def test_sizes_by_curriculum_and_by_chance() -> None:
    rng = np.random.default_rng(0)
    growing = Blocks(size=16, draft_size=8, curriculum=((0, 1), (10, 4), (20, 16)))
    assert [sizes(growing, i, rng) for i in (0, 9, 10, 19, 20, 99)] == [
        (1, 2),
        (1, 2),
        (4, 4),
        (4, 4),
        (16, 8),
        (16, 8),
    ]
    random = Blocks(size=16, random_sizes=(8, 32), random_share=0.5)
    found = {sizes(random, i, rng)[0] for i in range(50)}
    assert found == {8, 16, 32}
