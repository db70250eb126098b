"""`unmask eval --suite revision`: chains that are right, a checker that is exact, real decoding on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import readme
from tests.tinymodel import write_model
from unmask import LM
from unmask.cli import run as command
from unmask.evaluation import revision
from unmask.evaluation.chains import KINDS, LONGEST, SHORTEST, Checked, apply, check, draw, prompt
from unmask.evaluation.revision import Settings, run, tables, ways_of
from unmask.evaluation.rows import read
from unmask.evaluation.suite import Job

SETTINGS = Settings(limit=2, shots=0, max_tokens=20)


@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(-9, 10**4))
def test_chains_can_be_worked_out_and_each_step_counts(kind: str, seed: int, number: int) -> None:
    chain = draw(kind, seed, number)
    assert chain == draw(kind, seed, number)
    assert SHORTEST <= len(chain.steps) == len(chain.states) <= LONGEST
    state = chain.start
    for step, after in zip(chain.steps, chain.states, strict=True):
        assert apply(kind, step, state) == after != state
        state = after
    assert check(chain, chain.answer) == Checked(True, len(chain.steps), len(chain.steps), len(chain.steps))
    text = prompt(chain, seed, 2)
    assert text.endswith(chain.question)
    assert text.count("Start: ") == 3
    wrong = "\n".join(["zzz", *chain.answer.split("\n")[1:]])
    assert check(chain, wrong) == Checked(True, len(chain.steps) - 1, len(chain.steps) - 2, len(chain.steps))
    assert not check(chain, chain.answer.rpartition("\n")[0]).last
    assert check(chain, "") == Checked(False, 0, 0, len(chain.steps))


@pytest.mark.parametrize(
    ("kind", "step", "state", "after"),
    [
        ("arithmetic", "Add 5", "7", "12"),
        ("arithmetic", "Take 9", "7", None),
        ("arithmetic", "Times 3", "400", None),
        ("arithmetic", "Times 3", "4 0", None),
        ("rewriting", "Reverse", "a b c", "c b a"),
        ("rewriting", "Swap the first two", "a b c c", "b a c c"),
        ("rewriting", "Swap the first two", "a b", "b a"),
        ("rewriting", "Move the first to the end", "a b c", "b c a"),
        ("rewriting", "Write the last twice", "a b", "a b b"),
        ("rewriting", "Drop the first", "a b", None),
        ("rewriting", "Change a to b", "a c a", "b c b"),
        ("rewriting", "Reverse", "a d", None),
    ],
)
def test_steps_by_hand(kind: str, step: str, state: str, after: str | None) -> None:
    assert apply(kind, step, state) == after


def test_a_slip_is_told_from_what_follows_from_it() -> None:
    chain = next(one for n in range(99) if (one := draw("arithmetic", 1, n)).steps[-1].startswith("Add"))
    *kept, line, last = chain.answer.split("\n")
    slipped = [
        f"{line.rpartition(': ')[0]}: {int(state) + 1}"
        for line, state in zip((line, last), chain.states[-2:], strict=True)
    ]
    found = check(chain, "\n".join([*kept, *slipped]))
    assert (found.last, found.right) == (False, len(chain.steps) - 2)
    assert found.valid == len(chain.steps) - 1, "the last step is right for what was written before it"


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32", exactness="exact")


def test_every_chain_in_every_way_within_its_forwards(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(lm, SETTINGS, tmp_path / "x.jsonl")
    found = run(job)
    _, rows = read(job.rows)
    size = lm.traits.block_size
    ways = list(ways_of(SETTINGS, size))
    assert sorted(row["way"] for row in rows) == sorted(ways * 4)
    for row in rows:
        blocks = -(-row["tokens"] // size)
        most = size if "half" not in row["way"] else size // 2
        assert row["nfe"] <= (row["tokens"] if row["way"] == "ar" else blocks * most)
        assert (row["revisions"] > 0) <= row["way"].startswith("revision")
    assert any(row["revisions"] for row in rows), "a random model is sure of nothing"
    assert found["kinds"].keys() == set(KINDS)
    assert found["differences"]["revision against diffusion"]["before"] == found["all"]["diffusion"]["passed"]["value"]
    assert json.loads(json.dumps(found)) == found
    assert len(list(tables(found))) == 5
    monkeypatch.setattr(revision, "sample", lambda *_: pytest.fail("everything is there"))
    assert run(job)["all"] == found["all"]


def test_the_command(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: list[Any] = ["eval", str(tiny_folder), "--suite", "revision", "--dtype", "float32", "--limit", "1"]
    arguments += ["--shots", "0", "-n", "6"]
    assert command([*arguments, "--out", str(tmp_path / "revision.json")]) == 0
    assert "revision against diffusion" in capsys.readouterr().out
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "revision, half against diffusion, half: " in readme.revision()
    assert (
        command(["eval", "--compare", str(tmp_path / "revision.json"), str(tmp_path / "revision.json"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["groups"]["arithmetic, revision"]["right_steps"]["change"] == 0
    for more, message in (
        (["--limit", "0"], "limit must be between 1 and 500, got 0"),
        (["--revision-threshold", "2"], "revision_threshold must be between 0 and 1, got 2"),
    ):
        assert command([*arguments, *more]) == 2
        assert message in capsys.readouterr().err


def test_a_model_without_a_mask_token(tmp_path: Path) -> None:
    lm = LM.load(write_model(tmp_path / "plain", unmask={}), dtype="float32")
    with pytest.raises(ValueError, match="names no mask token"):
        run(Job(lm, SETTINGS, tmp_path / "x.jsonl"))
