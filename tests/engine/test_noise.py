"""Keyed noise: a pure function of seed, position and id; Gumbel distributed; unrelated where one of them differs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unmask.engine.noise import gumbel, key

CPU = torch.device("cpu")
SEEDS = st.integers(-(2**200), 2**200)
POSITIONS = st.integers(0, 2**40)


def uniform(noise: Tensor) -> Tensor:
    """Gumbel noise back to (0, 1)."""
    return torch.exp(-torch.exp(-noise.double()))


@given(SEEDS, st.lists(POSITIONS, min_size=1, max_size=8), st.integers(1, 70), st.integers(1, 70))
def test_noise_depends_on_seed_position_and_id_alone(seed: int, positions: list[int], vocab: int, more: int) -> None:
    together = gumbel(seed, positions, vocab, CPU)
    assert together.shape == (len(positions), vocab)
    assert together.dtype == torch.float32
    assert torch.isfinite(together).all()
    for position, row in zip(positions, together, strict=True):
        assert torch.equal(gumbel(seed, [position], vocab + more, CPU)[0, :vocab], row)


@given(SEEDS, POSITIONS)
def test_keys_are_two_words(seed: int, position: int) -> None:
    assert all(0 <= word < 2**32 for word in key(seed, position))


def test_values_are_the_same_on_every_machine() -> None:
    """Words are integer arithmetic, so a saved request replays elsewhere; logarithms may differ in the last bit."""
    assert key(0, 0) == (0x7B1DCDAF, 0xE220A839)
    assert key(0, 0) == key(2**64, 0)  # seeds count modulo 2**64
    assert key(-1, 5) == key(2**64 - 1, 5)
    expected = torch.tensor([0.2198, 3.3204, -0.4898, -0.5332])
    torch.testing.assert_close(gumbel(7, [3], 4, CPU)[0], expected, rtol=0, atol=1e-4)


def test_no_draw_is_infinite() -> None:
    """The largest of all draws once rounded up to u = 1: infinite noise, which picks its token whatever the logits."""
    noise = gumbel(0, [237], 95_025, CPU)[0]
    assert noise.argmax() == 95_024
    assert 15 < noise[95_024] < math.inf


# How often a test below may fail for noise that is truly random (it does not, since the seed is fixed).
FALSE_ALARM = 1e-9


def test_distribution_is_gumbel() -> None:
    """Kolmogorov-Smirnov; the bound is Dvoretzky-Kiefer-Wolfowitz's with Massart's constant, valid for every n."""
    for seed in (0, -1, 2**63, 12345):
        ordered = uniform(gumbel(seed, range(100), 4000, CPU)).flatten().sort().values
        n = len(ordered)
        steps = torch.arange(n + 1, dtype=torch.float64) / n
        distance = torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max()
        assert distance < math.sqrt(math.log(2 / FALSE_ALARM) / (2 * n))


def test_argmax_follows_the_softmax() -> None:
    """Gumbel-max: how often each id wins, against its probability (Hoeffding's bound, for every id at once)."""
    logits = torch.tensor([2.0, 1.0, 0.0, 0.0, -1.0, -3.0])
    n = 200_000
    picks = (logits + gumbel(3, range(n), len(logits), CPU)).argmax(dim=-1)
    shares = torch.bincount(picks, minlength=len(logits)) / n
    bound = math.sqrt(math.log(2 * len(logits) / FALSE_ALARM) / (2 * n))
    assert (shares - logits.softmax(dim=0)).abs().max() < bound


@pytest.mark.parametrize(
    "neighbour", [(1, 0, 0), (0, 1, 0), (1, -1, 0), (2**32, 0, 0), (0, 2**32, 0), (0, 0, 1)], ids=str
)
def test_neighbours_are_unrelated(neighbour: tuple[int, int, int]) -> None:
    """Covariance of disjoint pairs of uniforms: products lie within 1/4 of 0, so Hoeffding bounds their mean."""
    seed, position, token = neighbour
    seeds, positions = range(0, 40, 2), range(2**20, 2**20 + 100, 2)
    grids = [
        torch.stack([gumbel(one + s, [p + at for at in positions], 501, CPU) for one in seeds])[..., t : 500 + t : 2]
        for s, p, t in ((0, 0, 0), (seed, position, token))
    ]
    first, second = (uniform(noise) - 0.5 for noise in grids)
    bound = math.sqrt(math.log(2 / FALSE_ALARM) / (8 * first.numel()))
    assert (first * second).mean().abs() < bound
    # Nor are tails: both large at once, as often as independence says.
    both = ((first > 0.45) & (second > 0.45)).double().mean()
    assert abs(both - 0.05**2) < math.sqrt(math.log(2 / FALSE_ALARM) / (2 * first.numel()))


def test_seeds_and_positions_are_not_interchangeable() -> None:
    grid = {key(seed, position) for seed in range(-50, 50) for position in range(100)}
    assert len(grid) == 100 * 100
