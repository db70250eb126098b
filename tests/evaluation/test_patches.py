"""`unmask eval --suite patch`: faults that are put in and come out again, ways to mend them, samples that are kept."""

from __future__ import annotations

import ast
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from scripts import readme
from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.evaluation import patches
from unmask.evaluation.benchmarks import Task
from unmask.evaluation.mutations import KINDS, models, mutations
from unmask.evaluation.patches import WAYS, Case, Passes, Settings, case_of, measured, mend, run_on, tables, task_for
from unmask.evaluation.record import rounded, write
from unmask.evaluation.suite import Job
from unmask.patching import Candidate, Gap
from unmask.patching.oracles.orm import SqlAlchemy
from unmask.patching.source import Source
from unmask.sandbox import Limits
from unmask.types import View

LEARNED = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": VOCABULARY - 3, "gap_room": 24}
PROMPT = 'import math\n\ndef area(wide, high):\n    """Of a box, at least 0."""\n'
SOLUTION = "    size = wide * high\n    size = max(size, 0 + 0)\n    return math.floor(size) - pow(wide, high) * 0\n"
TEST = "def check(f):\n    assert f(2, 3) == 6\n    assert f(-1, 3) == 0\n    assert f(2.5, 1) == 2\n"
TASK = Task("HumanEval/0", PROMPT, "area", SOLUTION, TEST)
TEXT = PROMPT + SOLUTION


def judge() -> Passes:
    return Passes(f"{TEST}\ncheck(area)\n", Limits())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_one_place_that_can_be_undone(kind: str) -> None:
    text = models()[0][1] if kind == "column" else TEXT
    source = Source(text.encode())
    found = mutations(source, kind)
    assert found
    assert found == mutations(source, kind)
    for one in found:
        faulty = one.applied(source)
        assert faulty != source
        ast.parse(faulty.text)
        old = source.data[one.span.start : one.span.end]
        back = faulty.data[: one.span.start] + old + faulty.data[one.span.start + len(one.new.encode()) :]
        assert back == source.data
        assert one.line(source) == faulty.line(one.span.start)
        if kind != "import":
            assert len(faulty.rows) == len(source.rows)


def test_which_faults_there_are() -> None:
    source = Source(TEXT.encode())

    def told(kind: str) -> set[tuple[str, str]]:
        return {(source.data[a:b].decode(), one.new) for one in mutations(source, kind) for a, b in [one.span]}

    assert told("operator") == {("*", "+"), ("+", "-"), ("-", "+")}
    assert ("wide", "high") in told("name")
    assert ("wide", "math") not in told("name")
    assert told("argument") == {("size, 0 + 0", "0 + 0, size"), ("wide, high", "high, wide")}
    assert told("import") == {("import math\n", "")}
    assert {old.strip() for old, _ in told("line")} == {row.strip() for row in SOLUTION.splitlines()}


@pytest.mark.parametrize("name", [name for name, _ in models()])
@pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="sqlalchemy is not installed")
def test_models_are_sound_and_their_faults_are_seen(name: str) -> None:
    text = dict(models())[name]
    source = Source(text.encode())
    assert SqlAlchemy(run=name == "models/Post").check(View.of(text)).status == "satisfied"
    for one in mutations(source, "column"):
        assert SqlAlchemy(run=False).check(View.of(one.applied(source).text)).status == "violated"


class Undoing:
    """A model that knows what was there; for a line of it, or for all that follows."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __call__(self, gap: Gap) -> tuple[list[Candidate], int]:
        text = self.case.source.text
        if gap.level == "import":
            return [Candidate("import os\n"), Candidate("import math\n")], 2
        assert text.startswith(gap.prefix)
        after = len(text) - len(gap.suffix)
        return [Candidate("    pass"), Candidate(text[len(gap.prefix) : after])], 5


@pytest.mark.parametrize("kind", ["operator", "import", "line"])
def test_every_way_can_mend(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path) -> None:
    case = case_of(kind, "area", TEXT, len(PROMPT), judge())
    assert case is not None
    monkeypatch.setattr(patches, "fills_of", lambda *_, **__: Undoing(case))
    monkeypatch.setattr(patches, "Continues", lambda *_: Undoing(case))
    job = Job(LM.load(tiny_folder, dtype="float32"), Settings(), tmp_path / "rows.jsonl")
    if kind == "import":  # which writing the function anew does not bring back
        assert mend(job, case, "patch").data == case.source.data
        return
    row = measured(job, case)
    for way in WAYS:
        assert (row[way]["fixed"], row[way]["first"], row[way]["tries"]) == (True, False, 2)
        assert row[way]["edit"] == row["smallest"] == case.smallest > 0


def test_the_judge_has_to_be_content() -> None:
    case = case_of("operator", "area", TEXT, len(PROMPT), judge())
    assert case is not None
    task = task_for(case, 3)
    assert {fault.source for fault in task.targets} == {"tests"}
    assert task.source.inside(task.span) == task.source.text.splitlines()[case.mutation.line(case.source) - 1]
    assert case_of("operator", "area", TEXT.replace("max", "min"), len(PROMPT), judge()) is None  # was never sound
    assert case_of("import", "area", SOLUTION, 0, judge()) is None  # has none


@pytest.mark.parametrize("kind", ["in-place", "none"])
def test_a_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "KINDS", ("operator", "line"))
    traits: dict[str, Any] = {"unmask": LEARNED | {"gap_causal": True}} if kind == "in-place" else {}
    lm = LM.load(write_model(tmp_path / "model", **traits), dtype="float32")
    settings = Settings(limit=1, candidates=2, max_tokens=4)
    job = Job(lm, settings, tmp_path / "rows.jsonl", options={"mode": "ar"})
    found = run_on(job, [TASK])
    assert json.loads(json.dumps(found)) == found
    assert found["faults"] == 2
    assert found["results"].keys() == {"all", "operator", "line"}
    for way in WAYS:
        assert found["results"]["all"][way]["fixed"]["value"] == 0.0  # weights are random
        assert found["results"]["all"][way]["forwards"]["value"] > 0
    assert [str(table.title) for table in tables(found)] == [
        "model: all, 2 faults",
        "model: operator, 1 faults",
        "model: line, 1 faults",
    ]
    write(tmp_path / "patch.json", rounded(found))
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    shown = readme.patch()
    assert f"\n\nLayout {found['how']['layout']}, candidates: 2.\n\n" in shown
    numbers = {name: one["value"] for name, one in found["results"]["operator"]["patch"].items()}
    cells = ["0.0 %", "0.0 %", f"{100 * numbers['new']:.1f} %", "", f"{numbers['forwards']:.2f}"]
    assert f"| operator | 1 | patch | {' | '.join(cells)} |" in shown
    monkeypatch.setattr(patches, "measured", None)  # the same again reads what is there
    assert run_on(job, [TASK])["results"] == found["results"]


@pytest.mark.parametrize("given", [{"limit": 0}, {"candidates": 0}])
def test_mistakes(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Settings(**given)
