"""Means with intervals: percentiles of the bootstrap over samples (Efron 1979), with a fixed seed.

A ratio is taken as total over total (tokens of all samples over forwards of all samples), which long samples weigh more
in; the mean of the samples' own ratios stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS, SEED, LEVEL = 4000, 20_261_125, 0.95
Pairs = Sequence[tuple[float, float]]  # (numerator, denominator) of each sample
Floats = NDArray[np.float64]


def summary(pairs: Pairs) -> dict[str, Any]:
    """{"value", "low", "high"}: total over total and its interval; {"mean", "mean_low", "mean_high"}: of the samples'
    own ratios; "samples": how many. A sample whose denominator is 0 has no ratio of its own."""
    counts = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    own = counts[counts[:, 1] > 0]
    means = own[:, 0] / own[:, 1]
    low, high = interval(totals(counts, draws_of(len(counts))))
    mean_low, mean_high = interval(means[draws_of(len(means))].mean(axis=1)) if len(means) else (0.0, 0.0)
    return {
        "value": float(ratio(counts.sum(axis=0))),
        "low": low,
        "high": high,
        "mean": float(means.mean()) if len(means) else 0.0,
        "mean_low": mean_low,
        "mean_high": mean_high,
        "samples": len(counts),
    }


def difference(before: Pairs, after: Pairs) -> dict[str, Any]:
    """How much higher total over total is after than before, on the same samples in the same order, with the interval
    of the paired bootstrap. "sure": whether the interval leaves 0 out."""
    one, two = (np.asarray(pairs, dtype=np.float64).reshape(-1, 2) for pairs in (before, after))
    if len(one) != len(two):
        raise ValueError(f"a paired difference needs the same samples, got {len(one)} and {len(two)}")
    draws = draws_of(len(one))
    low, high = interval(totals(two, draws) - totals(one, draws))
    values = [float(ratio(counts.sum(axis=0))) for counts in (one, two)]
    change = values[1] - values[0]
    sure = low > 0 or high < 0
    return {"before": values[0], "after": values[1], "change": change, "low": low, "high": high, "sure": sure}


def draws_of(samples: int) -> NDArray[np.int64]:
    """[DRAWS, samples] indices, the same for the same number of samples."""
    return np.random.default_rng(SEED).integers(0, max(samples, 1), size=(DRAWS, samples))


def totals(counts: Floats, draws: NDArray[np.int64]) -> Floats:
    return ratio(counts[draws].sum(axis=1).T)


def ratio(counts: Floats) -> Floats:
    """First row over second; 0 where there is nothing to divide by."""
    top, bottom = counts
    return np.asarray(np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))


def interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
