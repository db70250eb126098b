"""What was measured before: kept per machine and model, and never trusted where the file is broken or foreign."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.scripted import TRAITS, VOCAB, Scripted, drain, request
from unmask import LM
from unmask.config import EngineConfig
from unmask.decoding.adaptivespec import SLOTS
from unmask.decoding.auto import Advice
from unmask.engine.engine import COST_CONTEXTS, COST_ROWS, Engine, Limits
from unmask.engine.known import Known, checked
from unmask.types import Request, Speculation, Traits

OF: dict[str, Any] = {"machine": {"threads": 2}, "files": [["model", 1, 2]]}
TABLE = tuple((rows, 0.5 + rows) for rows in COST_ROWS)


class Counting(Scripted):
    """Counts what it is asked to measure."""

    def __init__(self) -> None:
        super().__init__(100, 64)
        self.asked = list[tuple[str | None, int]]()

    def measure(
        self, rows: Sequence[int], pages: Sequence[int], *, adapter: str | None = None, kept: int = 0, own: bool = False
    ) -> Any:
        assert len(pages) * 64 >= kept + rows[-1]
        if rows[0] == COST_ROWS[0]:  # where a table begins
            self.asked.append((adapter, kept))
        return tuple((count, 1.0 + kept / 1024 + count / 128 + (adapter is not None)) for count in rows)


def engine(known: Known | None, pages: int = 100, longest: int = 10_000) -> tuple[Engine, Counting]:
    runner = Counting()
    return Engine(runner, pages, EngineConfig(), Limits(VOCAB, longest, ("draft",)), known), runner


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path / "measured", OF)


def test_a_second_engine_measures_nothing(known: Known) -> None:
    first, runner = engine(known)
    costs, extra = first.measured_costs(), first.measured_draft_costs("draft")
    assert runner.asked == [(None, 0), ("draft", 0)]
    assert extra == tuple((rows, 1.0) for rows in COST_ROWS)
    second, other = engine(known)
    assert (second.measured_costs(), second.measured_draft_costs("draft")) == (costs, extra)
    assert other.asked == []
    assert [path.suffix for path in known.folder.iterdir()] == [".json"]


def test_another_machine_or_model_has_another_file(known: Known) -> None:
    known.keep("context 0", TABLE)
    for change in ({"machine": {"threads": 1}}, {"files": [["model", 1, 3]]}):
        other = Known(known.folder, OF | change)
        assert other.path != known.path
        assert other.table("context 0", COST_ROWS) == ()
    # A file that came under this name by accident says itself that it is another's.
    other.keep("context 0", TABLE)
    other.path.rename(known.path)
    assert known.table("context 0", COST_ROWS) == ()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\0", json.dumps({"of": OF}), json.dumps({"of": OF, "seconds": 3, "advice": [1]})]
    + [
        json.dumps({"of": OF, "seconds": {"context 0": table}, "advice": {"strategy": "ar"}})
        for table in (
            None,
            7,
            [[1, 2]],
            [["a", "b"]] * 5,
            [[rows, -1.0] for rows in COST_ROWS],
            [[rows, 1e999] for rows in COST_ROWS],
            [[rows, 100.0 - i] for i, rows in enumerate(COST_ROWS)],
        )
    ],
)
def test_a_broken_file_is_measured_anew(known: Known, text: str) -> None:
    known.folder.mkdir()
    known.path.write_text(text, encoding="utf-8")
    mine, runner = engine(known)
    assert mine.advice is None
    assert mine.measured_costs() == tuple((rows, 1.0 + rows / 128) for rows in COST_ROWS)
    assert runner.asked == [(None, 0)]
    assert known.table("context 0", COST_ROWS) == mine.costs


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists))
def test_nothing_but_a_whole_table_is_one(found: Any) -> None:
    table = checked(found, COST_ROWS)
    assert table == () or [rows for rows, _ in table] == list(COST_ROWS)


@given(st.lists(st.floats(0, 1e3), min_size=len(COST_ROWS), max_size=len(COST_ROWS)).map(sorted))
def test_a_whole_table_comes_back(seconds: list[float]) -> None:
    table = tuple(zip(COST_ROWS, seconds, strict=True))
    assert checked(json.loads(json.dumps(table)), COST_ROWS) == table


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    mine, runner = engine(Known(tmp_path / "file", OF))
    assert mine.measured_costs()
    assert runner.asked == [(None, 0)]


def test_the_oldest_files_go(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.engine.known.MOST_FILES", 3)
    several = [Known(known.folder, {"number": number}) for number in range(5)]
    for number, one in enumerate(several):
        one.keep("context 0", TABLE)
        os.utime(one.path, (number, number))
    assert [bool(one.table("context 0", COST_ROWS)) for one in several] == [False, False, True, True, True]


def test_a_request_goes_by_the_costs_of_about_its_context() -> None:
    mine, runner = engine(None)
    plain = mine.measured_costs(100)
    far = mine.measured_costs(900)
    assert far == tuple((rows, seconds + 1.0) for rows, seconds in plain)
    mine.measured_costs(1100)
    assert runner.asked == [(None, 0), (None, 1024)]
    made = mine.prepared(Request((1,) * 1500, 8, "adaptivespec", Speculation(4), traits=TRAITS))
    assert isinstance(made.settings, Speculation)
    assert made.settings.costs == far
    assert mine.pages.in_use == 0


def test_what_is_warm_is_not_measured_when_a_drafting_request_comes() -> None:
    mine, runner = engine(None)
    mine.warm("draft")
    assert runner.asked == [(None, 0), ("draft", 0)]
    traits = replace(TRAITS, draft_adapter="draft")
    made = mine.prepared(Request((1, 2), 8, "adaptivespec", Speculation(4), traits=traits))
    assert isinstance(made.settings, Speculation)
    assert (made.settings.costs, made.settings.draft_costs) == (mine.costs, mine.draft_costs["draft"])
    assert len(runner.asked) == 2


def test_no_context_is_measured_that_does_not_fit() -> None:
    mine, runner = engine(None, pages=8)
    assert mine.measured_costs(1000) == mine.measured_costs(0)
    assert runner.asked == [(None, 0)]
    short, runner = engine(None, longest=COST_CONTEXTS[1] + COST_ROWS[-1] - 1)
    short.measured_costs(1000)
    assert runner.asked == [(None, 0)]


def test_an_incomplete_table_is_not_kept(known: Known) -> None:
    mine, _ = engine(known, pages=1)  # 64 rows
    assert [rows for rows, _ in mine.measured_costs()] == [rows for rows in COST_ROWS if rows <= 64]
    assert known.table("context 0", COST_ROWS) == ()


def test_measuring_anew_replaces_what_was_kept(known: Known) -> None:
    known.keep("context 0", TABLE)
    known.keep("context 1024", TABLE)
    known.advise(Advice("ar", 1))
    mine, runner = engine(known)
    assert mine.measured_costs() == TABLE
    mine.measure_anew("draft")
    assert runner.asked == [(None, 0), ("draft", 0)]
    assert known.table("context 0", COST_ROWS) == mine.costs != TABLE
    assert known.table("context 1024", COST_ROWS) == ()
    assert known.advice() == Advice("ar", 1)


def test_advice_comes_back_and_auto_takes_it(known: Known) -> None:
    known.advise(Advice("linearspec", 4, (0.9, 0.5), ar_from=3))
    mine, _ = engine(known)
    assert mine.advice == Advice("linearspec", 4, (0.9, 0.5), ar_from=3)
    chosen = [mine.prepared(request(strategy="auto", settings=Speculation(most))) for most in (8, 2)]
    assert [(one.strategy, one.settings.draft_block_size) for one in chosen] == [("linearspec", 4), ("linearspec", 2)]  # type: ignore[union-attr]
    assert chosen[0].settings.profile == pytest.approx((0.9, 0.5))  # type: ignore[union-attr]
    for _ in range(2):
        mine.submit(request(strategy="auto"))
    assert mine.prepared(request(strategy="auto")).strategy == "ar"
    drain(mine)
    # A way that was asked for is nobody's to change.
    assert mine.prepared(request(strategy="adaptivespec")).strategy == "adaptivespec"
    plain = replace(request(strategy="auto"), traits=Traits())
    assert mine.prepared(plain).strategy == "ar"


def test_finished_requests_are_learned_from_slot_by_slot() -> None:
    """What is learned of looked-up drafts is not taken for the first slots of the model's."""
    mine, _ = engine(None)
    mine.submit(request(strategy="adaptivespec", settings=Speculation(4), max_tokens=30))
    live = next(iter(mine.requests.values()))
    drain(mine)
    assert [tuple(map(float, pair)) for pair in mine.experience] == list(live.state.memory[SLOTS:])
    assert 0 < len(mine.expected_profile()) <= 4
    assert mine.expected_profile()[0] == pytest.approx((mine.experience[0][0] + 3 * 0.7) / (mine.experience[0][1] + 3))


@pytest.mark.parametrize("wrong", [{"strategy": "fastdiffuser"}, {"draft_block_size": 0}, {"profile": (1.5,)}])
def test_wrong_advice(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Advice(**{"strategy": "ar", "draft_block_size": 1, **wrong})


def test_a_loaded_model_knows_itself_again(tiny_folder: Path, tmp_path: Path) -> None:
    lm = LM.load(tiny_folder, dtype="float32")
    lm.generate("the", mode="auto", max_tokens=3)
    assert lm.engine.known is not None
    again = LM.load(tiny_folder, dtype="float32").engine
    assert again.known == lm.engine.known
    assert again.measured_costs() == lm.engine.costs
    for other in ({"exactness": "exact"}, {"dtype": "bfloat16"}, {"quantize": "int8"}):
        found = LM.load(tiny_folder, **{"dtype": "float32", **other}).engine.known  # type: ignore[arg-type]
        assert found is not None
        assert found.path != lm.engine.known.path, other
