"""Acceptance by draft slot, from an answer's steps: what viewers are told of every round says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask import LM
from unmask.evaluation.measures import generated
from unmask.evaluation.slots import drafts_taken, slots_taken
from unmask.evaluation.starter import Settings, slots_of
from unmask.types import Frame


def row(*counts: int, kind: str = "code", way: str = "linearspec") -> dict[str, Any]:
    """An answer whose prefill gave a token, and its forwards so many each."""
    steps = [1, *(2 + number for number, count in enumerate(counts) for _ in range(count))]
    return {"step": steps, "prefill_tokens": 1, "kind": kind, "way": way}


def test_rounds_that_count() -> None:
    assert drafts_taken(row(), 3, 100) == []
    assert drafts_taken(row(1), 3, 100) == []
    assert drafts_taken(row(1, 4), 3, 100) == [], "the end may have cut it"
    assert drafts_taken(row(1, 4, 1), 3, 100) == [3]
    assert drafts_taken(row(1, 4, 1, 1, 1, 3), 3, 100) == [3, 0]
    assert drafts_taken(row(1, 4, 1, 1, 1, 3, 1), 3, 13) == [3, 0, 2]
    assert drafts_taken(row(1, 4, 1, 1, 1, 3, 1), 3, 12) == [3, 0], "a draft that had less room was shorter"


def test_slots_of_a_suite() -> None:
    rows = [row(1, 4, 1, 1, 1), row(1, 3, 1), row(1, 1, 1, kind="chat"), row(1, 4, 1, way="quadspec")]
    assert slots_taken(rows[:2], 3, 100) == {"rounds": 3, "taken": [2, 2, 1]}
    found = slots_of(rows, Settings(draft_block_size=5, max_tokens=100))
    assert found == {"code": {"rounds": 3, "taken": [2, 2, 1]}, "chat": {"rounds": 1, "taken": [0, 0, 0]}}
    assert slots_of([row(1, way="ar")], Settings()) == {}


@pytest.mark.parametrize("prompt", ["the cat", "def f(x):", "a a a a a a"])
def test_steps_say_what_viewers_see(tiny_folder: Path, prompt: str) -> None:
    lm, drafted, most = LM.load(tiny_folder, dtype="float32", exactness="exact"), 4, 50
    way: dict[str, Any] = {
        "mode": "self-speculation",
        "spec_variant": "linearspec",
        "draft_block_size": drafted + 2,
        "lookup": 0,
    }
    way |= {"max_tokens": most, "ignore_eos": True, "temperature": 0.7, "seed": 3}
    seen = [event.checked for event in lm.stream(prompt, frames=True, **way) if isinstance(event, Frame)]
    whole = [draft.accepted for draft in seen if draft is not None and len(draft.ids) == drafted]
    _, answer = generated(lm, lm.encode(prompt), **way)
    found = drafts_taken(answer, drafted, most)
    assert len(found) >= 5
    assert found in (whole, whole[:-1])


def test_the_picture_shows_shares_of_the_rounds() -> None:
    pytest.importorskip("matplotlib")
    from scripts.plots import slots

    rows = {"code": {"rounds": 8, "taken": [6, 3, 0, 0]}, "chat": {"rounds": 0, "taken": [0, 0, 0, 0]}}
    figure = slots({"slots": rows})
    assert figure is not None
    (left,), (right,) = ([line.get_xydata() for line in axis.get_lines()] for axis in figure.axes)
    assert np.array_equal(left, [(1, 0.75), (2, 0.375), (3, 0.0), (4, 0.0)])
    assert np.array_equal(right, [(1, 0.75), (2, 0.5), (3, 0.0)])
    assert slots({}) is None
    assert slots({"slots": {"chat": rows["chat"]}}) is None
