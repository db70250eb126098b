"""`unmask eval --suite starter` on the tiny model: real decoding in every mode, counted, resumed, shown."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.test_prompts import CHATS, FUNCTIONS, TASKS
from tests.tinymodel import write_model
from unmask import LM
from unmask.cli import run
from unmask.evaluation import prompts, starter
from unmask.evaluation.likelihood import scored
from unmask.evaluation.pictures import quality_over_speed
from unmask.evaluation.prompts import Prompt
from unmask.evaluation.rows import read
from unmask.evaluation.starter import Settings, common_prefix, repeated, run_on, ways_of
from unmask.evaluation.starter_tables import tables
from unmask.evaluation.suite import Job

PROMPTS = [
    Prompt("code", "one", "def f(x):", "def f(x): return x"),
    Prompt("code", "two", "import this and that", ""),
    Prompt("chat", "three", "the cat", "the cat", chat=True),
    Prompt("editing", "four", "the def f():", "", stop=("\n```",), begun="def f():", original="def f():\n    pass"),
]
SETTINGS = Settings(max_tokens=12, draft_block_size=4)


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32", exactness="exact")


@pytest.fixture(scope="module")
def job(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(lm, SETTINGS, tmp_path_factory.mktemp("starter") / "x.jsonl")


@pytest.fixture(scope="module")
def found(job: Job) -> dict[str, Any]:
    return run_on(job, PROMPTS)


def test_every_prompt_in_every_way(found: dict[str, Any], job: Job) -> None:
    _, rows = read(job.rows)
    ways = list(ways_of(SETTINGS))
    assert [(row["prompt"], row["way"]) for row in rows] == [(prompt.name, way) for prompt in PROMPTS for way in ways]
    assert ways[:4] == ["ar", "linearspec", "linearspec + lookup", "quadspec"]
    assert ways[4:7] == ["adaptivespec", "adaptivespec + lookup", "adaptivespec + lookup, rows free"]
    for way in ("linearspec", "adaptivespec"):
        assert ways_of(SETTINGS)[way]["lookup"] == 0, "the drafter alone"
    assert all(row["tokens"] == len(row["ids"]) == len(row["step"]) <= 12 for row in rows)
    assert all(row["same"] for row in rows if "spec" in row["way"])
    assert json.loads(json.dumps(found)) == found


def test_the_numbers_are_those_of_the_rows(found: dict[str, Any], job: Job) -> None:
    _, rows = read(job.rows)
    code = [row for row in rows if row["kind"] == "code" and row["way"] == "linearspec"]
    later = sum(row["tokens"] - row["prefill_tokens"] for row in code)
    numbers = found["kinds"]["code"]["linearspec"]
    assert numbers["acceptance_length"]["value"] == later / sum(row["rounds"] for row in code)
    assert numbers["tpf"]["value"] == later / sum(row["nfe"] for row in code)
    assert numbers["tpf"]["samples"] == 2
    assert found["all"]["ar"]["tpf"]["value"] == 1.0
    assert found["kinds"].keys() == {"code", "chat", "editing", "code, function alone"}
    alone = found["kinds"]["code, function alone"]
    assert "acceptance_length" in alone["linearspec"]
    assert alone["linearspec + lookup"].keys() == {"tpf", "tokens", "nfe"}, "no telling how many rounds by then"
    asked = {(row["measure"], row["way"], row["kind"]): row for row in found["targets"]}
    assert asked["acceptance_length", "linearspec", "code"]["target"] == 4.0
    assert asked["tpf", "adaptivespec", "editing"]["target"] == 4.5
    assert (
        asked["same_as_ar", "quadspec", "chat"] | {"met": True, "found": 1.0} == asked["same_as_ar", "quadspec", "chat"]
    )
    assert asked["acceptance_length", "linearspec", "code"]["found"] == numbers["acceptance_length"]["value"]
    assert len(asked) == 33
    assert found["settings"]["max_tokens"] == 12
    assert found["machine"].keys() >= {"processor", "threads"}
    assert found["versions"].keys() >= {"torch", "unmask"}


def test_the_function_alone_is_counted_as_if_it_had_ended_there(lm: LM) -> None:
    text = "    return 1\n\ndef g"
    ids = list(lm.tokenizer.encode(text))
    steps = [1 + i // 2 * 2 for i in range(len(ids))]
    whole = {"way": "linearspec", "ids": ids, "step": steps, "tokens": len(ids), "prefill_tokens": 1, "rounds": 9}
    whole["nfe"] = steps[-1] - 1
    (alone,) = starter.cut(lm, [whole])
    kept = len(ids) - len(lm.tokenizer.encode("\ndef g"))
    assert alone["tokens"] == kept
    assert alone["nfe"] == steps[kept - 1] - 1
    assert alone["rounds"] == len(set(steps[1:kept]))
    (mixed,) = starter.cut(lm, [whole | {"way": starter.LINEAR_LOOKUP}])
    assert mixed == {**{key: alone[key] for key in ("tokens", "prefill_tokens", "nfe")}, "way": starter.LINEAR_LOOKUP}
    nothing = whole | {"ids": list(lm.tokenizer.encode("\ndef g")), "step": steps[:6]}
    assert list(starter.cut(lm, [nothing])) == []


def test_a_run_goes_on_where_it_stopped(found: dict[str, Any], job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = job.rows.read_bytes()
    monkeypatch.setattr(starter, "sample", lambda *_: pytest.fail("everything is there"))
    again = run_on(job, PROMPTS)
    assert {**again, "forward_costs": 0} == {**found, "forward_costs": 0}
    fewer = run_on(replace(job, settings=replace(SETTINGS, part="speculation")), PROMPTS[:1])
    assert fewer["kinds"]["code"].keys() == set(list(ways_of(SETTINGS))[:7])
    assert job.rows.read_bytes() == before
    with pytest.raises(ValueError, match="another run"):
        run_on(replace(job, settings=replace(SETTINGS, max_tokens=13)), PROMPTS)


def test_fastdiffuser_is_held_against_ar(found: dict[str, Any], job: Job, lm: LM) -> None:
    _, rows = read(job.rows)
    for row in rows:
        prompt = next(prompt for prompt in PROMPTS if prompt.name == row["prompt"])
        if row["way"] == "ar" or row["way"].startswith("fast"):
            expected = sum(one.log_likelihood for one in scored(lm, prompt.ids(lm), row["ids"]))
            assert row["log_likelihood"] == pytest.approx(expected, abs=1e-4)
        if row["way"].startswith("fast"):
            ar = next(one for one in rows if (one["prompt"], one["way"]) == (row["prompt"], "ar"))
            assert row["agreement_prefix"] == common_prefix(ar["ids"], row["ids"]) / len(ar["ids"])
            assert (row["agreement"] == 1.0) == (ar["ids"] == row["ids"])
    assert (
        found["kinds"]["chat"]["ar"]["log_likelihood"]["value"]
        > found["kinds"]["chat"]["fastdiffuser 0.5"]["log_likelihood"]["value"]
    ), "nothing is likelier, token by token, than what is greedy"


def test_likelihoods_are_those_of_a_plain_forward(lm: LM) -> None:
    context, continuation = lm.encode("the cat and"), lm.encode(" the dog and the bird")
    found = scored(lm, context, continuation)
    greedy = lm.generate(context, mode="ar", max_tokens=5, ignore_eos=True, logprobs=0)
    own = scored(lm, context, greedy.token_ids)
    assert [one.log_likelihood for one in own] == pytest.approx([token.logprob for token in greedy.tokens], abs=1e-4)
    assert all(one.greedy for one in own)
    assert len(found) == len(continuation)
    # One token at a time says the same as all at once.
    singly = [scored(lm, (*context, *continuation[:i]), continuation[i : i + 1])[0] for i in range(len(continuation))]
    assert [one.log_likelihood for one in found] == pytest.approx([one.log_likelihood for one in singly], abs=1e-4)
    total = sum(math.exp(scored(lm, context, (token,))[0].log_likelihood) for token in range(lm.config.vocab_size))
    assert total == pytest.approx(1.0, abs=1e-3)
    assert scored(lm, context, ()) == []
    lm.engine.check()
    assert lm.engine.pages.in_use == 0
    with pytest.raises(ValueError, match="at least one token"):
        scored(lm, (), continuation)
    with pytest.raises(ValueError, match="exceed the context of 256"):
        scored(lm, context, (1,) * 300)


def test_long_texts_are_scored_in_chunks(tiny_folder: Path) -> None:
    lm = LM.load(tiny_folder, dtype="float32")
    ids = tuple(int(i) for i in torch.randint(0, 200, (90,), generator=torch.Generator().manual_seed(0)))
    whole = scored(lm, ids[:3], ids[3:])
    lm.engine.config = replace(lm.engine.config, prefill_chunk=16)
    parts = scored(lm, ids[:3], ids[3:])
    assert [one.log_likelihood for one in whole] == pytest.approx([one.log_likelihood for one in parts], abs=1e-4)


def test_repetition_and_prefixes() -> None:
    assert repeated([1, 2, 3, 4, 5, 6]) == 0.0
    assert repeated([1, 2, 3, 4] * 3) == 5 / 12
    assert repeated([7] * 10) == 6 / 10
    assert repeated([]) == 0.0
    assert [common_prefix(*pair) for pair in (([1, 2], [1, 3]), ([1], [1, 2]), ([], [1]), ([4], [5]))] == [1, 1, 0, 0]


def test_tables_and_picture(found: dict[str, Any]) -> None:
    titles = [str(table.title) for table in tables(found)]
    assert titles[0] == "found, and what was asked for"
    assert "chat: fastdiffuser by threshold" in titles
    assert "all: fastdiffuser by threshold" in titles
    figure = quality_over_speed(found)
    assert figure is not None
    left, right = figure.axes
    assert left.get_legend_handles_labels()[1] == ["code", "chat", "editing"]
    assert [len(line.get_xdata()) for line in left.lines] == [5, 1] * 3  # type: ignore[arg-type]
    assert right.get_title() == "agreement with AR's greedy text"
    without = {
        kind: {way: ways[way] for way in ("ar", "linearspec") if way in ways} for kind, ways in found["kinds"].items()
    }
    assert quality_over_speed(found | {"kinds": without}) is None


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "human_eval", lambda: TASKS)
    monkeypatch.setattr(prompts, "mt_bench", lambda: CHATS)
    monkeypatch.setattr(
        starter,
        "held_out_functions",
        lambda: [text.replace("Say something about the arguments. ", "Text. ", 7) for text in FUNCTIONS],
    )


@pytest.mark.usefixtures("made_up")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "tiny", max_position_embeddings=2048)
    data = tmp_path / "train.jsonl"
    data.write_text(json.dumps({"text": TASKS[0].prompt}) + "\n", encoding="utf-8")
    file = tmp_path / "found.json"
    arguments = ["eval", "--suite", "starter", "--model", str(model), "--dtype", "float32", "--limit", "1", "-n", "6"]
    arguments += ["--seed", "5", "--out", str(file)]
    assert run([*arguments, "--json", "--check-data", str(data)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["suite"], found["exactness"], found["settings"]["seed"]) == ("starter", "exact", 5)
    assert found["trained_on"] == []
    assert found["settings"]["prompts"] == 3
    assert json.loads(file.read_text(encoding="utf-8")).keys() == found.keys()
    assert (tmp_path / "found.png").stat().st_size > 1000
    assert len(read(tmp_path / "found.jsonl")[1]) == 3 * 12
    assert run([*arguments, "--part", "speculation"]) == 0
    assert "what was asked for" in capsys.readouterr().out


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--limit", "33"], "limit must be between 1 and 32, got 33"),
        (["--part", "some"], "part must be one of all, speculation, fastdiffuser, got 'some'"),
        (["--draft-block-size", "1"], "draft_block_size must be at least 2, got 1"),
        (["--check-data", "/no/such.jsonl"], "no file /no/such.jsonl to look for the prompts in"),
        (["--points", "3"], "--points does not apply to suite 'starter'"),
        (["--temperature", "0.5"], "--temperature does not apply to suite 'starter'"),
        (["--out", "/tmp/x.jsonl"], "--out is for the JSON object"),
        (["--model", "other"], "the model is given twice"),
    ],
)
def test_mistakes_are_one_line(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run(["eval", str(tiny_folder), "--suite", "starter", *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_model_without_a_mask_token(tmp_path: Path) -> None:
    lm = LM.load(write_model(tmp_path / "plain", unmask={}), dtype="float32")
    with pytest.raises(ValueError, match="names no mask token"):
        run_on(Job(lm, SETTINGS, tmp_path / "x.jsonl"), PROMPTS)
