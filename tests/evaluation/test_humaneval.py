"""`unmask eval --suite humaneval`: answers run in the sandbox, on made-up tasks and on the real ones' solutions."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unmask import LM
from unmask.cli import run
from unmask.evaluation import humaneval
from unmask.evaluation.benchmarks import Task, human_eval
from unmask.evaluation.humaneval import Settings, judged, prompt_of, run_on
from unmask.evaluation.rows import read
from unmask.evaluation.suite import Job
from unmask.sandbox import Limits

TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n"
TASK = Task("HumanEval/0", 'def double(x):\n    """Twice x.\n    """\n', "double", "    return 2 * x\n", TEST)
# A test that any program passes that has a function of that name at all.
EASY = Task(
    "HumanEval/1", "def anything(x):\n    '''Whatever.'''\n    return x\n", "anything", "", "def check(f): pass\n"
)
LIMITS = Limits(seconds=2)


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("\n    return 2 * x", "passed"),
        ("\n    return x", "failed"),
        ("", "failed"),
        ("\n    raise SystemExit(0)", "exited"),
        ("\n    import os\n    os._exit(0)", "exited"),
        ("\n    return x +", "failed"),
        ("\n    return 2 * x\n\ncheck = lambda f: None", "passed"),  # the test's own `check` comes after
        ("\n    return 0\n\ncheck = lambda f: None", "failed"),
    ],
)
def test_answers_are_judged_by_their_tests(completion: str, status: str) -> None:
    assert judged(TASK, completion, LIMITS).status == status


@pytest.fixture
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32")


def job_of(lm: LM, rows: Path, **options: Any) -> Job:
    return Job(lm, Settings(max_tokens=6, limit=2), rows, options)


def test_a_run_is_counted_and_goes_on(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model writes nonsense: after EASY's whole function that fails as Python or passes, never by chance."""
    ran = list[str]()
    real = humaneval.judged

    def watched(task: Task, completion: str, limits: Limits) -> Any:
        ran.append(task.name)
        return real(task, "" if task is EASY else completion, limits)

    monkeypatch.setattr(humaneval, "judged", watched)
    job = job_of(lm, tmp_path / "x.jsonl", mode="fastdiffuser", confidence_threshold=0.7)
    told = list[str]()
    found = run_on(replace(job, progress=lambda what, done, total: told.append(f"{what} {done} {total}")), [TASK, EASY])
    assert told == ["0 passed 0 2", "0 passed 1 2", "1 passed 2 2"]
    assert found["results"]["passed"]["value"] == 0.5
    assert found["ends"] == {"failed": 1, "passed": 1}
    assert found["decoding"]["strategy"] == "fastdiffuser"
    assert found["decoding"]["settings"]["confidence_threshold"] == 0.7
    assert found["decoding"]["settings"]["block_size"] == 8
    assert found["decoding"]["max_tokens"] == 6
    assert json.loads(json.dumps(found)) == found
    assert ran == ["HumanEval/0", "HumanEval/1"]
    assert run_on(job, [TASK, EASY])["results"] == found["results"]
    assert len(ran) == 2, "nothing is done twice"
    with pytest.raises(ValueError, match="another run"):
        run_on(job_of(lm, tmp_path / "x.jsonl", mode="ar"), [TASK])


def test_a_prompt_is_given_without_its_last_newline(lm: LM, tmp_path: Path) -> None:
    assert prompt_of(TASK) == 'def double(x):\n    """Twice x.\n    """'
    run_on(job_of(lm, tmp_path / "x.jsonl"), [TASK])
    (row,) = read(tmp_path / "x.jsonl")[1]
    assert row["prompt_tokens"] == len(lm.encode(prompt_of(TASK)))
    assert row["tokens"] == len(row["ids"]) <= 6


def test_the_command(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(humaneval, "human_eval", lambda: (TASK, EASY))
    for mode, name in (("ar", "one"), ("auto", "two")):
        arguments = ["eval", str(tiny_folder), "--suite", "humaneval", "--mode", mode, "--dtype", "float32", "-n", "4"]
        assert run([*arguments, "--limit", "2", "--seconds", "1", "--out", str(tmp_path / f"{name}.json")]) == 0
        assert "pass@1" in capsys.readouterr().out
    assert run(["eval", "--compare", str(tmp_path / "one.json"), str(tmp_path / "two.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"]["all"]["passed"]["change"] == 0
    assert found["changed"].keys() == {"decoding"}
    base = ["eval", str(tiny_folder), "--suite", "humaneval"]
    for more, message in (
        (["--limit", "165"], "limit must be between 1 and 164, got 165"),
        (["--mode", "magic"], "mode must be one of"),
        (["--mode", "ar", "--steps", "3"], "steps does not apply to mode 'ar'"),
        (["--part", "all"], "--part does not apply to suite 'humaneval'"),
        (["--seconds", "0"], "seconds must be above 0, got 0"),
    ):
        assert run([*base, *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_reference_solutions_score_all_and_empty_ones_none() -> None:
    """HumanEval's own solutions through our sandbox: 164 of 164; without any body 0."""
    try:
        tasks = human_eval()
    except ConnectionError as error:
        if os.environ.get("UNMASK_OFFLINE_OK") == "1":
            pytest.skip(f"HumanEval's wheel cannot be had here, and UNMASK_OFFLINE_OK=1 allows that: {error}")
        raise
    limits = Settings().limits()
    assert [task.name for task in tasks if not judged(task, "\n" + task.solution, limits).passed] == []
    assert [task.name for task in tasks if judged(task, "", limits).passed] == []
