"""`unmask eval --suite infill`: the lines, the suffix gain, samples that are kept, models of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import readme
from tests.lm.test_fill import LEARNED
from tests.text.test_healing import with_tokens
from tests.text.vocabularies import BYTES
from tests.tinymodel import VOCABULARY, write_model
from unmask import LM
from unmask.evaluation import suite_of
from unmask.evaluation.benchmarks import Task
from unmask.evaluation.infill import Settings, config_of, results, run_on, some, tables
from unmask.evaluation.lines import Line, floor_of, judged, runs_of_lines, single_lines
from unmask.evaluation.record import rounded, write
from unmask.evaluation.suite import Job
from unmask.sandbox import Limits
from unmask.training.gap_measure import gap_losses, held_gaps, shuffled
from unmask.training.packing import Data, held_out
from unmask.types import Traits

SOLUTION = "    total = a\n\n    total += b\n    return total\n"
TASK = Task("HumanEval/0", "def add(a, b):\n", "add", SOLUTION, "def check(f):\n    assert f(1, 2) == 3\n")
PLAIN = {"samples": 4, "length": 64, "points": 2, "max_tokens": 6}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "held.py"
    file.write_text("\n".join(f"the_{i} = the + {i} * 7\nprint(the_{i})" for i in range(60)), encoding="utf-8")
    return str(file)


def model(folder: Path, kind: str) -> LM:
    if kind == "fim":
        path = write_model(folder, vocab_size=VOCABULARY + 4)
        names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")
        with_tokens(BYTES, *names).core.save(str(path / "tokenizer.json"))
    else:
        traits = {"joint": LEARNED | {"gap_causal": True}, "noisy": LEARNED}.get(kind)
        changes: dict[str, Any] = {"unmask": traits} if traits else {}
        path = write_model(folder, **changes)
    lm = LM.load(path, dtype="float32")
    if kind == "filler":  # an adapter that changes nothing
        lm.traits = lm.filler.traits = replace(Traits(**LEARNED), gap_causal=True, gap_adapter="fill")
        lm.engine.limits = replace(lm.engine.limits, adapters=("fill",))
    return lm


def test_a_line_and_what_is_around_it() -> None:
    lines = single_lines([TASK])
    assert [line.middle for line in lines] == ["    total = a", "    total += b", "    return total"]
    whole = TASK.prompt + TASK.solution
    assert all(line.prefix + line.middle + line.suffix == whole for line in lines)
    assert [line.name for line in lines] == ["HumanEval/0/L0", "HumanEval/0/L1", "HumanEval/0/L2"]


def test_runs_of_lines_are_all_that_begin_and_end_with_one() -> None:
    runs = {line.name.rsplit("/", 1)[1]: line for line in runs_of_lines([TASK])}
    assert runs.keys() == {"L0", "L1", "L2", "L0_L1", "L0_L2", "L1_L2"}
    assert runs["L0_L1"].middle == "    total = a\n\n    total += b"
    assert runs["L0_L1"].suffix == "\n    return total\n"
    whole = TASK.prompt + TASK.solution
    assert all(line.prefix + line.middle + line.suffix == whole for line in runs.values())
    assert [line.name for line in runs.values() if line.single] == [line.name for line in single_lines([TASK])]


def test_fewer_lines_are_the_first_of_more() -> None:
    lines = runs_of_lines([TASK])
    assert sorted(line.name for line in some(lines, 6)) == sorted(line.name for line in lines)
    assert some(lines, 6)[:3] == some(lines, 3)


def test_the_floor_knows_how_many_lines_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(tmp_path / "model", "none")
    monkeypatch.setattr(lm, "finish", lambda events: SimpleNamespace(text="a\nb\nc\nd"))
    texts = {line.name[-5:]: floor_of(lm, line, 30) for line in runs_of_lines([TASK])}
    assert (texts["L1_L2"], texts["L0_L1"], texts["L0_L2"]) == ("a\nb", "a\nb\nc", "a\nb\nc\nd")


@pytest.mark.parametrize(
    ("text", "exact", "passed"),
    [
        ("    total += b", True, True),
        ("    total += b\n    pass", False, True),
        ("    total = total + b", False, True),
        ("    total -= b", False, False),
        ("    total += (", False, False),
    ],
)
def test_what_counts(text: str, exact: bool, passed: bool) -> None:
    row = judged(single_lines([TASK])[1], text, Limits(seconds=5, memory=512 << 20))
    assert (row["exact"], row["passed"]) == (exact, passed)
    assert (row["likeness"] == 1) == exact


@pytest.mark.parametrize("kind", ["joint", "noisy", "filler", "fim", "none"])
def test_every_kind_of_model(kind: str, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(tmp_path / "model", kind)
    settings = Settings(data=(text,), **PLAIN)
    job = Job(lm, settings, tmp_path / "rows.jsonl")
    found = run_on(job, single_lines([TASK]), runs_of_lines([TASK])[:2])
    assert json.loads(json.dumps(found)) == found
    gains = {"joint": {"nelbo", "ar"}, "noisy": {"nelbo"}, "filler": {"ar"}, "fim": {"ar"}, "none": set[str]()}[kind]
    assert found["gaps"].keys() == gains | {f"gain_{name}" for name in gains}
    layouts = {"joint": "in-place", "noisy": "in-place", "filler": "in-place", "fim": "psm", "none": "prefix"}
    assert found["how"]["layout"] == layouts[kind]
    assert (found["lines"], found["multi"]) == (3, 2)
    for results_of in ("results", "multi_results"):
        assert {"exact", "floor_exact", "passed", "floor_passed", "tokens_per_forward"} <= found[results_of].keys()
    assert found["results"]["exact"]["samples"] == 1, "the lines of a function are one sample"
    titles = [str(table.title) for table in tables(found)]
    assert len(titles) == (2 if kind == "none" else 3)
    write(tmp_path / "infill.json", rounded(found))
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    shown = readme.infill()
    assert f"\n\nLayout {found['how']['layout']}, candidates: 1.\n\n" in shown
    assert (
        "\n|  | 3 lines | prefix alone | 2 runs of lines | prefix alone |\n|---|---|---|---|---|\n| exact match | "
        in shown
    )
    assert ("| 4 held-out gaps | nats a token | suffix gain |" in shown) == (kind != "none")
    assert ("| denoising (NELBO) | " in shown, "| causal rows | " in shown) == ("nelbo" in gains, "ar" in gains)
    lines = job.rows.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + (4 if gains else 0) + 3 + 2
    assert all("\n" not in json.loads(line)["text"] for line in lines if '"line ' in line), "told to be one line"
    # The same again reads what is there, and adds what is wanted beside it.
    lm.fill = None  # type: ignore[method-assign, assignment]
    again = run_on(Job(lm, settings, tmp_path / "rows.jsonl"), single_lines([TASK])[:2])
    assert again["lines"] == 2
    assert again["gaps"] == found["gaps"]
    with pytest.raises(ValueError, match="has samples of another run"):
        run_on(Job(lm, Settings(data=(text,), **{**PLAIN, "points": 3}), tmp_path / "rows.jsonl"), [])


def test_the_gain_is_that_of_training(tmp_path: Path, text: str) -> None:
    lm = model(tmp_path / "model", "joint")
    settings = Settings(data=(text,), **PLAIN)
    found = run_on(Job(lm, settings, tmp_path / "rows.jsonl"), [])
    config = config_of(lm, settings)
    assert (config.blocks.size, config.infill.room, config.infill.end_id) == (8, 3, LEARNED["gap_end"])
    gaps = held_gaps(held_out(Data((text,), held_out=(text,)), lm.tokenizer, 64, 8), lm.tokenizer, config)[:4]
    mask = int(LEARNED["mask_id"])
    both = [gap_losses(lm.decoder, several, config, mask, 2) for several in (gaps, shuffled(gaps))]
    tokens = sum(loss.tokens for loss in both[0])
    for name in ("nelbo", "ar"):
        true, other = (sum(getattr(loss, name) for loss in losses) for losses in both)
        assert found["gaps"][name]["value"] == pytest.approx(true / tokens, rel=1e-4)
        assert found["gaps"][f"gain_{name}"]["value"] == pytest.approx((other - true) / tokens, rel=1e-3, abs=1e-5)
    assert found["results"] == {}


def test_intervals_are_over_functions() -> None:
    rows: list[dict[str, Any]] = [
        {"key": f"HumanEval/{task}/L{line}", "exact": task < 5} for task in range(10) for line in range(7)
    ]
    exact = results(rows)["exact"]
    assert (exact["value"], exact["samples"]) == (0.5, 10)
    assert exact["high"] - exact["low"] > 0.4  # of 70 lines by themselves it would be about 0.23


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 2000}, "limit must be between 0 and 1033, got 2000"),
        ({"multi": -1}, "multi must be between 0 and 5815, got -1"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"length": 8}, "length must be at least 64, got 8"),
    ],
)
def test_mistakes(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite_of("infill").settings(**given)


def test_too_little_text(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("the", encoding="utf-8")
    settings = Settings(data=(str(tmp_path / "one.txt"),), **PLAIN)
    with pytest.raises(ValueError, match="has 0 gaps of 64 tokens; 2 are needed"):
        run_on(Job(model(tmp_path / "model", "noisy"), settings, tmp_path / "rows.jsonl"), list[Line]())
