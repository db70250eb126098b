"""Who sees whom: rectangles equal the pairwise rule, and the published masks are plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.decoding import quadspec
from unmask.types import Draft, Request, Span, Speculation, State, Traits
from unmask.visibility import is_causal, mask, offsets, visible


@st.composite
def span_lists(draw: st.DrawFn) -> list[Span]:
    spans = list[Span]()
    for _ in range(draw(st.integers(0, 6))):
        sees = tuple(
            (earlier, draw(st.integers(0, len(span.tokens))))
            for earlier, span in enumerate(spans)
            if draw(st.booleans())
        )
        spans.append(Span((0,) * draw(st.integers(1, 5)), draw(st.integers(0, 9)), draw(st.booleans()), sees))
    return spans


@given(span_lists(), st.integers(0, 4))
def test_mask_is_the_rule_for_every_pair(spans: list[Span], kept: int) -> None:
    rows = [(s, row) for s, span in enumerate(spans) for row in range(len(span.tokens))]
    pairwise = [[True] * kept + [visible(spans, query, key) for key in rows] for query in rows]
    assert mask(spans, kept).tolist() == pairwise
    assert offsets(spans) == [*(rows.index((s, 0)) for s in range(len(spans))), len(rows)]


@pytest.mark.parametrize("sees", [(1, 1), (2, 1), (-1, 1), (0, 3), (0, -1)])
def test_only_rows_of_earlier_spans_can_be_seen(sees: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"span 1 sees {sees[1]} rows of span {sees[0]}"):
        mask([Span((7, 8), 0), Span((9,), 2, sees=(sees,)), Span((9,), 2)])


def test_one_causal_span_needs_no_mask() -> None:
    assert is_causal([Span((1, 2), 0)])
    assert not is_causal([Span((1, 2), 0, full=True)])
    assert not is_causal([Span((1,), 0), Span((2,), 1)])


def test_the_published_quadspec_example() -> None:
    """reference/nemotron-labs-diffusion.md section 3.5: k = 2, ten clean tokens, groups d0 m01 m02 and d1 m11 m12.

    Their d0 is certain already: our seed. Ours keeps the causal rows together, ahead of the groups.
    """
    traits = Traits(mask_id=99, seed="causal")
    request = Request(tuple(range(10)), 50, "quadspec", Speculation(2), traits=traits)
    state = State(request, kept=10, output=(50,), draft=(Draft(51, 1.0, -1, 0.0),))
    plan = quadspec.need(state)
    assert [(span.tokens, span.start) for span in plan.spans] == [((50, 51), 10), ((99, 99), 11), ((99, 99), 12)]
    published = [
        # d0 m01 m02 d1 m11 m12
        [1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [1, 0, 0, 1, 1, 1],
        [1, 0, 0, 1, 1, 1],
    ]
    order = [0, 3, 1, 2, 4, 5]  # d0 d1, m01 m02, m11 m12
    seen = mask(plan.spans, kept=10)
    assert seen[:, :10].all()
    assert seen[:, 10:].tolist() == np.array(published, dtype=bool)[np.ix_(order, order)].tolist()


def doubled(length: int, size: int) -> list[Span]:
    """The training sequence: the clean tokens, then a full span of noised tokens per block."""
    spans = [Span((0,) * length, 0)]
    for start in range(0, length, size):
        noised = (1,) * (min(start + size, length) - start)
        sees: Any = ((0, start),) if start else ()
        spans.append(Span(noised, start, full=True, sees=sees, masked=(True,) * len(noised)))
    return spans


@given(st.integers(1, 40), st.integers(1, 12))
def test_the_training_sequence_has_the_published_mask(length: int, size: int) -> None:
    """reference/nemotron-labs-diffusion.md section 2.3, our rows clean first."""
    position, block = np.arange(length), np.arange(length) // size
    clean_clean = position[:, None] >= position
    noisy_clean = block[:, None] > block
    noisy_noisy = block[:, None] == block
    published = np.block([[clean_clean, np.zeros_like(clean_clean)], [noisy_clean, noisy_noisy]])
    spans = doubled(length, size)
    assert (mask(spans) == published).all()
    assert [span.start + i for span in spans for i in range(len(span.tokens))] == [*position, *position]
