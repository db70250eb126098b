"""`unmask eval --suite light` on the tiny model: the oracle's states are those of real denoising."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts import readme
from tests.tinymodel import write_model
from unmask import LM
from unmask.cli import run
from unmask.evaluation import light
from unmask.evaluation.light import Block, Settings, run_on, searched, sizes_of
from unmask.evaluation.prompts import Prompt
from unmask.evaluation.rows import read
from unmask.evaluation.schedules import Found
from unmask.evaluation.suite import Job

PROMPTS = [
    Prompt("code", "one", "def f(x):", ""),
    Prompt("editing", "two", "the def f():", "", stop=("e",), begun="def f():", original="def f():\n    pass"),
]
SETTINGS = Settings(max_tokens=20, draft_block_size=4, budget=12)


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32", exactness="exact")


@pytest.fixture(scope="module")
def job(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(lm, SETTINGS, tmp_path_factory.mktemp("light") / "x.jsonl")


@pytest.fixture(scope="module")
def found(job: Job) -> dict[str, Any]:
    return run_on(job, PROMPTS)


def test_the_oracle_bounds_what_was_denoised(found: dict[str, Any], job: Job) -> None:
    _, rows = read(job.rows)
    oracles = [row for row in rows if "blocks" in row]
    assert {row["way"] for row in oracles} == {"oracle 8", "oracle 4"}
    for row in oracles:
        assert row["blocks"] <= row["nfe"] <= row["greedy_nfe"] <= row["tokens"]
        assert row["forwards"] <= row["tokens"] + row["blocks"] * SETTINGS.budget
        placed = [sum(int(step, 16).bit_count() for step in steps) for steps in row["steps"]]
        assert sum(placed) == row["tokens"] == len(row["ids"])
        assert sum(map(len, row["steps"])) == row["nfe"]
    ways = found["kinds"]["code"]
    row = next(row for row in oracles if row["kind"] == "code" and row["way"] == "oracle 8")
    assert ways["oracle 8"]["tpf"]["value"] == row["tokens"] / row["nfe"]
    assert ways["oracle 8, commits apart"]["tpf"]["value"] == row["tokens"] / (row["nfe"] + row["blocks"])
    assert ways["oracle 8, greedy"]["tpf"]["value"] == row["tokens"] / row["greedy_nfe"]
    assert ways["ar"]["tpf"]["value"] == 1.0
    assert found["proved"]["oracle 4"] == 1.0, "a block of four has few enough states to try them all"
    assert json.loads(json.dumps(found)) == found


def test_states_are_those_of_real_denoising(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each state that serial denoising went through, what it placed next is right."""
    ids = lm.encode("the cat and the")
    serial = lm.generate(ids, mode="fastdiffuser", block_size=8, schedule=True, max_tokens=8, ignore_eos=True)
    steps = [token.step for token in serial.tokens]
    order = sorted(range(8), key=lambda slot: steps[slot])
    seen = dict[int, list[int]]()

    def spy(order: Any, ask: Any, budget: int, batch: int) -> Any:
        states = [sum(1 << slot for slot in order[:placed]) for placed in range(8)]
        seen.update(zip(states, ask(states), strict=True))
        return Found(None, (), 0, False)

    monkeypatch.setattr(light, "shortest", spy)
    searched(lm, ids, Block(serial.token_ids, 8), order, 0)
    for placed, slot in enumerate(order):
        assert slot in seen[sum(1 << other for other in order[:placed])]


def test_after_an_end_all_is_known() -> None:
    block = Block((5, 6, 2), 5)
    assert block.shown(0b001, 9) == ((5, 9, 9, 9, 9), (False, True, True, True, True))
    assert block.shown(0b100, 9) == ((9, 9, 2, 2, 2), (True, True, False, False, False))


def test_a_run_goes_on_where_it_stopped(found: dict[str, Any], job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = job.rows.read_bytes()
    monkeypatch.setattr(light, "sample", lambda *_: pytest.fail("everything is there"))
    assert run_on(job, PROMPTS)["all"] == found["all"]
    assert job.rows.read_bytes() == before
    with pytest.raises(ValueError, match="another run"):
        run_on(replace(job, settings=replace(SETTINGS, budget=5)), PROMPTS)


def test_sizes() -> None:
    assert (sizes_of(32), sizes_of(6), sizes_of(2)) == ([32, 16, 8, 4], [6], [2])


def test_the_command(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "held_out_functions", list)
    monkeypatch.setattr(light, "draw", lambda kind, *_: [prompt for prompt in PROMPTS if prompt.kind == kind])
    arguments = ["eval", str(tiny_folder), "--suite", "light", "--dtype", "float32", "--limit", "1", "-n", "8"]
    assert run([*arguments, "--budget", "4", "--out", str(tmp_path / "light.json")]) == 0
    assert "oracle 8, commits apart" in capsys.readouterr().out
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "| oracle 8, greedy | " in readme.light()
    assert "tiny" in readme.light()
    assert run(["eval", "--compare", str(tmp_path / "light.json"), str(tmp_path / "light.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"]["code, oracle 8"]["tpf"]["change"] == 0
    mistakes = {("--limit", "33"): "limit must be between", ("--budget", "-1"): "budget must be at least 0"}
    for more, message in mistakes.items():
        assert run([*arguments, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_model_without_a_mask_token(tmp_path: Path) -> None:
    lm = LM.load(write_model(tmp_path / "plain", unmask={}), dtype="float32")
    with pytest.raises(ValueError, match="needs a mask token"):
        run_on(Job(lm, SETTINGS, tmp_path / "x.jsonl"), PROMPTS)
