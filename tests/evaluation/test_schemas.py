"""`unmask eval --suite schemas`: schemas that can be kept, a judge, a clock, real decoding on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import pytest
from jsonschema.validators import validator_for

from scripts import readme
from tests.constraints.walks import BYTES, text_of
from tests.tinymodel import write_model
from unmask import LM
from unmask.cli import run as command
from unmask.constraints import Compiler, spec_of
from unmask.evaluation.rows import read
from unmask.evaluation.schemas import suite
from unmask.evaluation.schemas.suite import FREE, WAYS, Settings, first_value, judged, run_on, summed_up, tables
from unmask.evaluation.schemas.tasks import LEVELS, PER_LEVEL, Task, record, tasks
from unmask.evaluation.schemas.timing import Clock, Timed, again
from unmask.evaluation.suite import Job

ALL = list(tasks())
SMALL = [
    Task("flat", "tiny", "a", record(a={"type": "boolean"})),
    Task("recursive", "loop", "b", {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}),
]
IMPOSSIBLE = Task("flat", "impossible", "c", {"type": "array", "uniqueItems": True})
SETTINGS = Settings(max_tokens=12)


def test_sixty_schemas_of_growing_difficulty() -> None:
    assert [task.level for task in ALL] == [level for level in LEVELS for _ in range(PER_LEVEL)]
    assert len({task.prompt for task in ALL}) == 60
    assert [task.name for task in tasks(1)] == [next(iter(of)) for of in LEVELS.values()]


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_a_schema_is_kept_whatever_is_chosen(task: Task) -> None:
    """Random texts are valid to jsonschema, and read by llguidance too."""
    validator_for(task.schema, jsonschema.Draft202012Validator).check_schema(task.schema)
    spec = spec_of({"type": "json_schema", "schema": task.schema})
    theirs = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(task.schema))
    for seed in range(4):
        text = text_of(spec, seed)
        assert judged(task.schema, text) == ""
        matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), theirs)
        assert matcher.get_error() == ""
        if not set("\\\x7f") & set(text):  # ours alone writes every escape that JSON has, and DEL
            assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode()), text
            assert matcher.is_accepting()


@pytest.mark.parametrize(
    ("schema", "text", "fault"),
    [
        ({"type": "integer"}, "3", ""),
        ({"type": "integer"}, "3.5", "$: 3.5 is not of type 'integer'"),
        ({"type": "integer"}, "3 and more", "no JSON: Extra data"),
        ({"type": "number"}, "NaN", "no JSON: NaN is no JSON number"),
        ({"type": "string", "format": "date"}, '"2001-02-30"', "$: '2001-02-30' is not a 'date'"),
        ({"items": {"const": 1}}, "[1, 2]", "$[1]: 1 was expected"),
        ({}, "[" * 100_000, "no JSON: "),
    ],
)
def test_the_judge(schema: Any, text: str, fault: str) -> None:
    found = judged(schema, text)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (' {"a": 1}\n\nmore', '{"a": 1}'),
        ("```json\n[1]\n```", "[1]"),
        ("so: [1]", "so: [1]"),
        ("", ""),
    ],
)
def test_the_first_value_of_a_text(text: str, value: str) -> None:
    assert first_value(text) == value


def test_a_clock_changes_nothing_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Compiler(BYTES).start(spec_of({"type": "regex", "pattern": "(ab){1,9}"}), (), 20)
    ticks = iter(range(1000))
    monkeypatch.setattr("time.thread_time", lambda: float(next(ticks)))
    clock = Clock()
    timed = Timed(place, clock)
    assert timed.allowed(9) == place.allowed(9)
    assert not timed.over(9)
    assert timed.take(ord("b"), 9) is None
    after = timed.take(ord("a"), 9)
    assert isinstance(after, Timed)
    assert after.accepting == after.inner.accepting
    assert after.ending(9) == (ord("b"),)
    assert after.fill((((98, -1.0),),), (98,), 9, 1) == (98,)
    assert clock.seconds == 6, "six questions of one tick each; that a text may end is no work"
    assert again(place, b"abab", 4) == (12.0, False)
    long = Compiler(BYTES).start(spec_of({"type": "regex", "pattern": "a(b|ccc)"}), (), 20)
    assert [again(long, b"ab", budget)[1] for budget in (3, 4)] == [True, False], "ccc fits into four"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = write_model(tmp_path_factory.mktemp("roomy"), max_position_embeddings=2048)
    return LM.load(folder, dtype="float32", exactness="exact")


def test_every_schema_in_every_way(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(lm, SETTINGS, tmp_path / "x.jsonl")
    found = run_on(job, [*SMALL, IMPOSSIBLE])
    _, rows = read(job.rows)
    assert [row["way"] for row in rows] == [*WAYS] * 3
    for row in rows[: 2 * len(WAYS)]:
        if row["way"] != FREE:
            assert row["obeys"], row
            assert row["tokens"] <= SETTINGS.max_tokens
            assert row["work_ms"] > 0
    for way in ("linearspec", "quadspec", "adaptivespec"):
        assert found["all"][way]["same_as_ar"]["value"] == 1
    assert len(found["refusals"]) == len(WAYS) - 1
    assert set(found["refusals"].values()) == {"#/uniqueItems is a keyword that is not supported"}
    assert found["faults"] == {}, "of what was decoded under a constraint"
    assert sum(found["finish"]["quadspec"].values()) == 2
    assert json.loads(json.dumps(found)) == found
    assert len(list(tables(found))) == 3
    monkeypatch.setattr(suite, "sample", lambda *_: pytest.fail("everything is there"))
    assert run_on(job, [*SMALL, IMPOSSIBLE])["all"] == found["all"]
    with pytest.raises(ValueError, match="another run"):
        run_on(replace(job, settings=Settings(max_tokens=13)), SMALL)


def test_an_invalid_answer_is_told() -> None:
    row = {"kind": "flat", "schema": "x", "tokens": 3, "finish": "stop", "fault": "$: no", "obeys": False}
    row |= {"seconds": 2.0, "first_seconds": 1.0, "first_tokens": 1}
    found = summed_up([row | {"way": "ar"}, row | {"way": FREE}])
    assert found["faults"] == {"flat/x, ar": "$: no"}
    assert found["all"]["ar"]["obeys"]["value"] == 0


def test_the_command(
    lm: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "tasks", lambda limit=1: iter(SMALL[:limit]))
    folder = write_model(tmp_path / "tiny", max_position_embeddings=2048)
    arguments = ["eval", str(folder), "--suite", "schemas", "--dtype", "float32", "--limit", "1", "-n", "12"]
    assert command([*arguments, "--out", str(tmp_path / "schemas.json")]) == 0
    assert "valid, by level" in capsys.readouterr().out
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "| adaptivespec | 100.0 % | 100.0 % |" in readme.schemas()
    assert command(["eval", "--compare", *[str(tmp_path / "schemas.json")] * 2, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]["flat, ar"]["obeys"]["change"] == 0
    for more, message in (
        (["--limit", "11"], "limit must be between 1 and 10, got 11"),
        (["--mode", "ar"], "--mode does not apply to suite 'schemas'"),
    ):
        assert command([*arguments, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_model_without_a_mask_token(tmp_path: Path) -> None:
    lm = LM.load(write_model(tmp_path / "plain", unmask={}), dtype="float32")
    with pytest.raises(ValueError, match="names no mask token"):
        run_on(Job(lm, SETTINGS, tmp_path / "x.jsonl"), SMALL)
