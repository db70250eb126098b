"""Samples made several at once: the same rows as one by one, in the order asked for, each made once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tinymodel import write_model
from unmask import LM
from unmask.evaluation.revision import Settings, run
from unmask.evaluation.rows import Row, Rows, read
from unmask.evaluation.suite import Job
from unmask.evaluation.together import MOST, TIMES, check_at_once, together


@given(at_once=st.integers(1, 8), count=st.integers(0, 12), there=st.integers(0, 12))
def test_each_row_is_made_once_and_all_come_in_order(
    tmp_path_factory: pytest.TempPathFactory, at_once: int, count: int, there: int
) -> None:
    rows = Rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", {})
    for number in range(min(there, count)):
        rows.add(str(number), {"value": number})
    made, lock, seen = list[int](), threading.Lock(), list[int]()

    def make(number: int) -> Row:
        with lock:
            made.append(number)
        return {"value": number, "seconds": 1.0}

    work = {str(number): lambda number=number: make(number) for number in range(count)}
    found = together(rows, work, at_once, lambda done: seen.append(len(done)))
    assert [row["value"] for row in found] == list(range(count))
    assert sorted(made) == list(range(min(there, count), count))
    assert seen == list(range(min(there, count), count + 1))
    assert {row["key"]: row for row in read(rows.path)[1]} == {row["key"]: row for row in found}
    assert all(("seconds" in row) == (at_once == 1) for row in found if row["value"] in made)


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_sample_that_fails_ends_the_run_and_what_was_made_is_kept(at_once: int, tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", {})

    def fails() -> Row:
        raise OSError("no space left")

    made = list[int]()

    def makes() -> Row:
        made.append(1)
        time.sleep(0.01)
        return {"value": 2}

    work = {"a": makes, "b": fails, **{f"c{n}": makes for n in range(50)}}
    with pytest.raises(OSError, match="no space"):
        together(rows, work, at_once)
    assert len(made) < 50, "those that had not begun are not made any more"
    kept = [row["key"] for row in read(rows.path)[1]]
    assert "b" not in kept
    if at_once == 1:
        assert kept == ["a"]


def test_how_many_at_once_has_bounds() -> None:
    check_at_once(1)
    check_at_once(MOST)
    for wrong in (0, MOST + 1):
        with pytest.raises(ValueError, match=f"at_once must be between 1 and {MOST}, got {wrong}"):
            check_at_once(wrong)


def test_a_suite_says_the_same_however_many_are_in_hand(tmp_path: Path) -> None:
    """In `exact` a text does not depend on who else is in the batch."""
    found = dict[int, list[Row]]()
    for at_once in (1, 5):
        lm = LM.load(str(write_model(tmp_path / str(at_once))), exactness="exact")
        file = tmp_path / f"{at_once}.jsonl"
        run(Job(lm, Settings(limit=2, shots=0, max_tokens=20, at_once=at_once), file))
        found[at_once] = sorted(read(file)[1], key=lambda row: str(row["key"]))
    plain = [{name: value for name, value in row.items() if name not in TIMES} for row in found[1]]
    for one, other in zip(plain, found[5], strict=True):
        assert one["ids"] == other["ids"]
        assert one["nfe"] == other["nfe"]
    assert all(name not in row for row in found[5] for name in TIMES)
