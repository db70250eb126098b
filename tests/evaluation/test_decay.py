"""`unmask eval --suite decay` on the tiny model, and its statistics against plain loops."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import readme
from tests.tinymodel import write_model
from unmask import LM
from unmask.cli import run as command
from unmask.evaluation.bootstrap import DRAWS
from unmask.evaluation.decay import enforce, suite
from unmask.evaluation.decay.blame import RulesOracle
from unmask.evaluation.decay.enforce import best_of_n, forwards, masked, masked_and_remasked, remasked
from unmask.evaluation.decay.shown import picture, tables
from unmask.evaluation.decay.spec_tasks import SpecTask
from unmask.evaluation.decay.statistics import Curve, hypotheses, marginal, number, of_length, of_way
from unmask.evaluation.decay.suite import Settings, run, samples
from unmask.evaluation.rows import read
from unmask.evaluation.suite import Job
from unmask.types import Verdict, View

SETTINGS = Settings(limit=2, levels=(0, 1), shots=0, enforcements=("prompt", "best-of-n", "mask"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("decay") / "tiny", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def lm(folder: Path) -> LM:
    return LM.load(folder, dtype="float32", exactness="exact", max_tokens_cached=4096)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpecTask, "max_tokens", 84)
    monkeypatch.setattr(enforce, "ROUNDS", 2)


# The statistics.


def row(task: str, level: int, value: float, way: str = "ar, prompt", **more: Any) -> dict[str, Any]:
    mode, enforcement = way.split(", ")
    base = {"task": task, "order": 0, "level": level, "way": way, "mode": mode, "enforcement": enforcement}
    shares = dict.fromkeys(("raw", "satisfied", "strict", "joint"), value)
    active = [f"r{i}" for i in range(level)]
    spent = dict.fromkeys(("nfe", "tokens", "tried"), 1.0)
    return base | shares | spent | {"active": active, "kept": dict.fromkeys(active, value > 0), "padding": 0} | more


VALUES = st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=6)


@settings(max_examples=20)
@given(VALUES)
def test_numbers_of_a_way_are_those_of_plain_loops(values: list[list[float]]) -> None:
    levels = (0, 2, 5)
    rows = [row(f"t{t}", level, v) for t, own in enumerate(values) for level, v in zip(levels, own, strict=True)]
    found = of_way(rows)
    means = [sum(own[i] for own in values) / len(values) for i in range(3)]
    assert [found["levels"]["raw"][str(level)]["value"] for level in levels] == pytest.approx(means)
    assert found["decay"]["raw"]["value"] == pytest.approx(means[0] - means[2], abs=1e-12)
    assert found["slope"]["raw"]["value"] == pytest.approx(np.polyfit(levels, means, 1)[0], abs=1e-9)
    area = ((means[0] + means[1]) / 2 * 2 + (means[1] + means[2]) / 2 * 3) / 5
    assert found["area"]["raw"]["value"] == pytest.approx(area)
    curve = Curve(rows, "raw")
    assert curve.means().shape == (1 + DRAWS, 3)
    decay = found["decay"]["raw"]
    each = [own[0] - own[2] for own in values]
    assert min(each) - 1e-9 <= decay["low"] <= decay["high"] <= max(each) + 1e-9


def test_samples_of_a_task_are_drawn_together() -> None:
    """Two tasks, many samples each: the interval is as wide as for two, not for many."""
    rows = [row(task, 0, value) for task, value in (("a", 0.0), ("b", 1.0)) for _ in range(50)]
    rows += [row(task, 1, 0.0) for task in ("a", "b")]
    decay = number(Curve(rows, "raw").decay())
    assert (decay["value"], decay["low"], decay["high"], decay["sure"]) == (0.5, 0.0, 1.0, False)


def test_what_a_rule_costs_is_told_from_pairs() -> None:
    rows = [row("a", 0, 1.0), row("a", 1, 0.5), row("a", 2, 0.4), row("b", 0, 1.0), row("b", 1, 0.7), row("b", 3, 0.0)]
    rows[-3]["active"] = rows[1]["active"] = ["x"]
    rows[2]["active"] = ["x", "y"]
    found = marginal([one | {"kept": dict.fromkeys(one["active"], True)} for one in rows])
    assert found.keys() == {"r0", "x", "y"} - ({"r0"} - {one["active"][-1] for one in rows[1:5] if one["active"]})
    assert found["y"]["raw"]["value"] == pytest.approx(-0.1)
    assert sum(one["pairs"] for one in found.values()) == 3, "level 3 has no partner at level 2"
    assert found["y"]["kept"]["value"] == 1.0


def curve(way: str, values: list[float], spread: float = 0.0) -> list[dict[str, Any]]:
    return [row(f"t{t}", k, min(max(v + spread * (t - 1), 0), 1), way) for t in range(3) for k, v in enumerate(values)]


def test_hypotheses_follow_the_numbers() -> None:
    ar, flat = curve("ar, prompt", [0.9, 0.3]), curve("fastdiffuser, prompt", [0.9, 0.8])
    assert [one["verdict"] for one in hypotheses(ar + flat)["H3"]] == ["holds"]
    swapped = curve("ar, prompt", [0.9, 0.8]) + curve("fastdiffuser, prompt", [0.9, 0.3])
    assert [one["verdict"] for one in hypotheses(swapped)["H3"]] == ["fails"]
    low = curve("ar, prompt", [0.01, 0.0]) + curve("fastdiffuser, prompt", [0.01, 0.0])
    (undecided,) = hypotheses(low)["H3"]
    assert (undecided["verdict"], "right without rules" in undecided["why"]) == ("undecided", True)
    mask = [one | {"satisfied": 1.0} for one in curve("ar, mask", [0.9, 0.35])]
    (first,) = hypotheses(ar + mask)["H1"]
    assert first["verdict"] == "holds"
    assert first["decay_of_satisfied_taken_away"]["value"] == pytest.approx(0.6)
    both = [one | {"satisfied": 1.0} for one in curve("ar, mask", [0.9, 0.9])]
    assert hypotheses(ar + both)["H1"][0]["verdict"] == "fails", "the mask took the decay of raw away as well"
    nothing = curve("ar, mask", [0.9, 0.3])
    assert hypotheses(ar + nothing)["H1"][0]["verdict"] == "fails"
    assert hypotheses(ar)["H2"] == []
    again = curve("ar, best-of-n", [0.9, 0.3]) + curve("ar, remask", [0.9, 0.6])
    (second,) = hypotheses(again)["H2"]
    assert (second["verdict"], second["why"], second["forwards"]) == ("holds", "1 forwards against 1", [1.0, 1.0])


def test_length_is_held_against_none() -> None:
    rows = [row("a", 0, 0.8), row("b", 0, 0.6), row("a", 1, 0.1), row("b", 1, 0.1)]
    found = of_length(rows, [row("a", 0, 0.6, padding=4), row("b", 0, 0.4, padding=4)])
    assert found["ar, prompt"]["change"] == pytest.approx(-0.2)


# Enforcement.


def test_the_best_of_many_obeys_most_and_spends_no_more_than_it_may(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    task = SpecTask(0, 0, 0)
    seen = list[str]()

    def kept(self: SpecTask, text: str, active: Any) -> dict[str, bool]:
        if text not in seen:
            seen.append(text)
        right = seen.index(text) == 2
        return {rule: right and rule == "repo" for rule in active}

    monkeypatch.setattr(enforce, "ROUNDS", 4)
    monkeypatch.setattr(SpecTask, "kept", kept)
    monkeypatch.setattr(SpecTask, "max_tokens", 24)
    answer = best_of_n(lm, task, ("repo", "version"), 0, {"mode": "ar"})
    assert answer.text == seen[2]
    assert answer.judged.satisfied == 0.5
    assert answer.tried >= 3
    once = enforce.written(lm, task, ("repo", "version"), 0, {"mode": "ar", "stop": task.stops})
    assert answer.nfe <= 4 * forwards([once]), "whole answers, of no more tokens than the first"
    assert best_of_n(lm, task, (), 0, {"mode": "ar"}).tried == 1, "without rules there is nothing to choose by"


def test_masks_are_part_of_the_table(lm: LM) -> None:
    task = SpecTask(1, 0, 0)
    answer = masked(lm, task, ("version", "repo"), 0, {"mode": "ar"})
    assert answer.judged.satisfied == 1.0
    assert answer.text.startswith(f"version {task.spec.version}\n")


@pytest.mark.parametrize("mode", ["ar", "fastdiffuser"])
def test_an_oracle_blames_and_masks_still_hold_beside_it(lm: LM, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, looks = SpecTask(1, 0, 0), list[bool]()
    real = RulesOracle.check

    def watched(self: RulesOracle, view: View) -> Verdict:
        looks.append(view.complete)
        return real(self, view)

    monkeypatch.setattr(RulesOracle, "check", watched)
    answer = masked_and_remasked(lm, task, ("version", "repo", "unique"), 0, {"mode": mode})
    assert answer.judged.kept["version"]
    assert answer.judged.kept["repo"]
    assert True in looks
    assert False in looks, "it is asked while the text is being written"
    plain = masked(lm, task, ("version", "repo", "unique"), 0, {"mode": mode})
    assert answer.nfe >= plain.nfe
    looks.clear()
    assert remasked(lm, task, (), 0, {"mode": mode}).tried == 1
    assert looks == [], "without rules there is nothing to look for"


# The suite.


@pytest.fixture(scope="module")
def job(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(lm, SETTINGS, tmp_path_factory.mktemp("decay") / "x.jsonl")


def test_a_run_is_counted_and_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(job)
    _, rows = read(job.rows)
    assert len(rows) == len(list(samples(SETTINGS))) == 2 * (2 * 2 * 3 + 2)
    assert len({row["key"] for row in rows}) == len(rows)
    assert list(found["ways"]) == [f"{m}, {e}" for m in ("ar", "fastdiffuser") for e in ("prompt", "best-of-n", "mask")]
    assert found["tasks"] == 2
    assert found["hypotheses"]["H2"] == []
    assert [one["of"] for one in found["hypotheses"]["H3"]] == ["best-of-n", "mask", "prompt"]
    for one in rows:
        assert one["level"] == len(one["active"]) == len(one["kept"])
        assert one["strict"] in (0.0, one["raw"])
        if one["enforcement"] == "mask":
            maskable = [rule for rule in one["active"] if rule in found["maskable"]]
            assert all(one["kept"][rule] for rule in maskable)
    assert {one["padding"] for one in rows} == {0, 1}
    assert json.loads(json.dumps(found)) == found
    assert len(list(tables(found))) == 6
    figure = picture(found)
    assert figure is not None
    assert len(figure.axes) == 3
    assert picture(found | {"settings": found["settings"] | {"levels": [3]}}) is None
    monkeypatch.setattr(suite, "sample", lambda *_: pytest.fail("everything is there"))
    assert run(job)["ways"] == found["ways"]
    assert run(replace(job, settings=replace(SETTINGS, levels=(0,))))["ways"].keys() == found["ways"].keys()


def test_the_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["eval", str(folder), "--suite", "decay", "--dtype", "float32", "--limit", "1", "--tier", "b"]
    arguments += ["--levels", "0", "--levels", "1", "--shots", "0", "--modes", "ar", "--enforce", "mask"]
    assert command([*arguments, "--out", str(tmp_path / "decay-b.json")]) == 0
    assert "H3" in capsys.readouterr().out
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "| ar, mask | " in readme.decay()
    assert (tmp_path / "decay-b.png").stat().st_size > 1000
    assert command(["eval", "--compare", str(tmp_path / "decay-b.json"), str(tmp_path / "decay-b.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]["1 rules, ar, mask"]["satisfied"]["change"] == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tier", "d"], "tier must be one of a, b, c, got 'd'"),
        (["--limit", "61"], "limit must be between 1 and 60, got 61"),
        (["--levels", "3", "--levels", "1"], "levels must be numbers of rules, ascending, got [3, 1]"),
        (["--levels", "13"], "levels must be at most 12, the rules of tier a, got 13"),
        (["--modes", "magic"], "modes must be some of ar, fastdiffuser"),
        (
            ["--enforce", "hope"],
            "enforcements must be some of prompt, best-of-n, mask, remask, mask+remask, patch, got 'hope'",
        ),
        (["--confidence-threshold", "2"], "confidence_threshold must be between 0 and 1, got 2"),
        (["--temperature", "1"], "--temperature does not apply to suite 'decay'"),
    ],
)
def test_mistakes_are_one_line(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert command(["eval", str(tiny_folder), "--suite", "decay", *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
