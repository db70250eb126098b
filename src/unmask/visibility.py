"""Spans -> who sees whom, for inference and training alike.

`visible` is the rule, one pair of rows at a time; `mask` is the same rule by rectangles, which everything else uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unmask.types import Span


def offsets(spans: Sequence[Span]) -> list[int]:
    """First row of each span in the plan, and the number of rows at the end."""
    starts = [0]
    for span in spans:
        starts.append(starts[-1] + len(span.tokens))
    return starts


def visible(spans: Sequence[Span], query: tuple[int, int], key: tuple[int, int]) -> bool:
    """Whether row `query` = (span, row) sees row `key`. The kept context is visible to every row and not asked here."""
    (s, r), (e, k) = query, key
    if s == e:
        return spans[s].full or k <= r
    return any(e == earlier and k < rows for earlier, rows in spans[s].sees)


def mask(spans: Sequence[Span], kept: int = 0) -> NDArray[np.bool_]:
    """Boolean [rows, kept + rows]: whether the row (first axis) sees the key. Keys: kept context, then the plan's rows.

    Raises ValueError when a span names one that is not earlier, or more rows than it has.
    """
    starts = offsets(spans)
    seen = np.zeros((starts[-1], kept + starts[-1]), dtype=np.bool_)
    seen[:, :kept] = True
    for s, span in enumerate(spans):
        top, bottom = starts[s], starts[s + 1]
        own = seen[top:bottom, kept + top : kept + bottom]
        own[:] = True if span.full else np.tri(bottom - top, dtype=np.bool_)
        for earlier, rows in span.sees:
            if not (0 <= earlier < s and 0 <= rows <= len(spans[earlier].tokens)):
                raise ValueError(
                    f"span {s} sees {rows} rows of span {earlier}, which is not an earlier span of that size"
                )
            seen[top:bottom, kept + starts[earlier] : kept + starts[earlier] + rows] = True
    return seen


def is_causal(spans: Sequence[Span]) -> bool:
    """Whether the plan is one causal span, which attention kernels know without a mask."""
    return len(spans) == 1 and not spans[0].full
