"""Acceptance by draft slot, read off the steps of linearspec's answers: nothing is recorded for it while they run.

Other variants have no such profile: what they draft, and how much of it, changes from round to round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from unmask.evaluation.rows import Row


def drafts_taken(row: Row, drafted: int, max_tokens: int) -> list[int]:
    """How many of the `drafted` tokens each round took; only rounds with a whole draft that another forward followed.

    A round emits one token in the forward that drafts; then what was taken, and one more. The end cuts the last one.
    """
    counts = list(Counter(row["step"][row["prefill_tokens"] :]).values())
    before = [row["prefill_tokens"] + sum(counts[:start]) for start in range(0, len(counts), 2)]
    whole = drafted + 2  # the tokens of a round that takes all
    verified = zip(before, counts[1:-1:2], strict=False)
    return [count - 1 for begun, count in verified if max_tokens - begun >= whole]


def slots_taken(rows: Sequence[Row], drafted: int, max_tokens: int) -> dict[str, Any]:
    """rounds: that were counted. taken: in how many of them the first, second, ... drafted token was taken."""
    taken = [count for row in rows for count in drafts_taken(row, drafted, max_tokens)]
    return {"rounds": len(taken), "taken": [sum(count > slot for count in taken) for slot in range(drafted)]}
