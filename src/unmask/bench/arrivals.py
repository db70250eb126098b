"""When tokens came: speed after the first one, waits between arrivals, and from which length on one way is ahead.

An arrival is (seconds since the request, tokens so far). Tokens that become certain together arrive together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, inf

Arrivals = Sequence[tuple[float, int]]


def decode_speed(arrivals: Arrivals) -> float:
    """Tokens per second after the first arrival; 0 where there was only one."""
    if len(arrivals) < 2 or arrivals[-1][0] <= arrivals[0][0]:
        return 0.0
    return (arrivals[-1][1] - arrivals[0][1]) / (arrivals[-1][0] - arrivals[0][0])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]


def waits(arrivals: Arrivals) -> list[float]:
    """Seconds between one arrival and the next."""
    return [later[0] - earlier[0] for earlier, later in pairwise(arrivals)]


def reached(arrivals: Arrivals, tokens: int) -> float:
    """Seconds until so many tokens were there; infinite if they never were."""
    return next((seconds for seconds, count in arrivals if count >= tokens), inf)


def ahead_from(one: Arrivals, other: Arrivals) -> int | None:
    """The least number of tokens from which on `one` is never later than `other`; None if it is later at the end."""
    end = min(one[-1][1], other[-1][1])
    behind = [count for count in range(1, end + 1) if reached(one, count) > reached(other, count)]
    if not behind:
        return 1
    return behind[-1] + 1 if behind[-1] < end else None
