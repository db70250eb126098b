"""The coherence head: its candidates against topk, its scores by hand, its way through files and through training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unmask.model.coherence import Coherence, candidates


@given(st.integers(0, 10**6), st.sampled_from([5, 40, 64 * 32, 64 * 130 + 17, 49152]), st.sampled_from([1, 3, 32]))
def test_candidates_are_those_of_topk(seed: int, size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.rand(3, size, generator=generator, dtype=torch.float64)
    logits[1, : size // 2] += 1  # largest ones side by side
    values, ids = candidates(logits, count)
    best = logits.topk(min(count, size), dim=-1)
    assert torch.equal(values, best.values)
    assert torch.equal(logits.gather(1, ids), values)
    assert torch.equal(ids, best.indices)


def test_a_new_head_changes_nothing_and_a_trained_one_what_its_formula_says() -> None:
    hidden, before = torch.randn(4, 8), torch.randn(4, 8)
    own, token, out = torch.randn(6, 8), torch.randn(6, 8), torch.randn(8, 6)
    assert not Coherence(own, token, torch.zeros(8, 6))(hidden, before).any()

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x / x.pow(2).mean(dim=-1, keepdim=True).sqrt()

    wanted = F.silu(scaled(hidden) @ own.T + scaled(before) @ token.T) @ out.T
    torch.testing.assert_close(Coherence(own, token, out)(hidden, before), wanted)
