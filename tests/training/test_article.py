"""The article's functions, against values worked out by hand and against the article's own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.training import build_block_wise_attention_mask, position_dependent_mask_rate


def test_the_articles_example() -> None:
    mask = build_block_wise_attention_mask(seq_len=8, block_size=4)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]] * 4 + [[1] * 8] * 4


def test_a_ragged_last_block() -> None:
    mask = build_block_wise_attention_mask(5, 2)
    assert mask.int().tolist() == [[1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 1, 0]] * 2 + [[1] * 5]
    assert build_block_wise_attention_mask(3, 8).all()
    assert build_block_wise_attention_mask(4, 1).equal(torch.ones(4, 4).tril().bool())
    assert build_block_wise_attention_mask(0, 4).shape == (0, 0)


@given(st.integers(0, 6), st.integers(1, 7))
def test_what_the_article_prints(blocks: int, block_size: int) -> None:
    seq_len = blocks * block_size
    mask = torch.zeros(seq_len, seq_len, dtype=torch.bool)
    for block_idx in range(seq_len // block_size):
        block_start = block_idx * block_size
        block_end = block_start + block_size
        mask[block_start:block_end, block_start:block_end] = True
        if block_idx > 0:
            mask[block_start:block_end, :block_start] = True
    assert build_block_wise_attention_mask(seq_len, block_size).equal(mask)


def test_mask_rates() -> None:
    rates = position_dependent_mask_rate(seq_len=32)
    assert rates.shape == (32,)
    assert rates[0] == pytest.approx(0.15)
    assert rates[15] == pytest.approx(0.15 * (1 + 30 / 31))  # 0.295, where the article's comment says 0.300
    assert round(float(rates[15]), 3) == 0.295
    assert rates[31] == pytest.approx(0.45)
    assert np.allclose(np.diff(rates), 0.3 / 31)


def test_mask_rates_are_cut() -> None:
    assert position_dependent_mask_rate(3, 0.5, 2.0).tolist() == [0.5, 1.0, 1.0]
    assert position_dependent_mask_rate(3, 0.5, -4.0).tolist() == [0.5, 0.0, 0.0]
    assert position_dependent_mask_rate(1).tolist() == [0.15]
    assert position_dependent_mask_rate(0).tolist() == []


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        build_block_wise_attention_mask(8, 0)
    with pytest.raises(ValueError, match="seq_len must be at least 0, got -1"):
        build_block_wise_attention_mask(-1, 4)
    with pytest.raises(ValueError, match="seq_len must be at least 0, got -1"):
        position_dependent_mask_rate(-1)
