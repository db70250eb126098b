"""The search by stripes gives what torch's argmax and max give, ties and endless values included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.engine.largest import STRIPE, best, next_best


@given(
    st.sampled_from([1, 5, STRIPE, 2 * STRIPE, 3 * STRIPE + 1, 5 * STRIPE]), st.integers(0, 10**6), st.integers(1, 6)
)
@settings(max_examples=150)
def test_best_and_next_best_are_those_of_torch(vocab: int, seed: int, levels: int) -> None:
    """Few different values, so that ties are common, and -inf among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(levels, (4, vocab), generator=generator).float()
    values[values == 0] = -math.inf
    assert best(values).tolist() == values.argmax(dim=-1).tolist()
    picked = torch.randint(vocab, (4,), generator=generator)
    for place in (best(values), picked):
        rest = values.scatter(1, place[:, None], -math.inf).max(dim=-1)
        ids, found = next_best(values, place)
        assert found.tolist() == rest.values.tolist()
        finite = rest.values > -math.inf  # where nothing is left, any place will do
        assert ids[finite].tolist() == rest.indices[finite].tolist()


@pytest.mark.parametrize("vocab", [STRIPE * 8, STRIPE * 8 - 1])
def test_the_first_of_equal_values_wins(vocab: int) -> None:
    values = torch.zeros(1, vocab)
    assert best(values).tolist() == [0]
    assert next_best(values, torch.tensor([0]))[0].tolist() == [1]
    assert next_best(values, torch.tensor([70]))[0].tolist() == [0]
