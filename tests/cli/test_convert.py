"""`unmask convert` from a folder of text to a model that `LM.load` takes: tiny, resumed, stopped, misused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tinymodel import MASK, write_model
from unmask import LM
from unmask.cli import run
from unmask.model.checkpoint import open_checkpoint, read_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), unmask={"mask_id": MASK})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(6):
        (folder / f"{number}.txt").write_text("the cat and the dog and the bird\n" * 40, encoding="utf-8")
    return folder


def command(base: Path, text: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--recipe", "tiny", "--data", str(text), "--set", "dtype=float32", "--out", str(out), "--json"]
    return ["convert", str(base), *fixed, *more]


def test_an_adapter_that_loads(base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(base, text, tmp_path / "out", "--steps", "4", "--held-out", str(text))) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines[:-1]] == [1, 2, 3, 4]
    assert lines[-1]["reason"] == "done"
    lm = LM.load(base, dtype="float32", adapter=tmp_path / "out")
    assert lm.traits.trained
    plain = LM.load(base, dtype="float32").generate("the cat", mode="ar", max_tokens=12, ignore_eos=True)
    drafted = lm.generate("the cat", mode="self-speculation", max_tokens=12, ignore_eos=True)
    assert drafted.token_ids == plain.token_ids


def test_an_adapter_that_begins_as_another(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate of next to nothing the second is the first, its coherence head included."""
    head = ["--set", "adapter.coherence=5"]
    assert run(command(base, text, tmp_path / "one", "--steps", "2", *head)) == 0
    first = ["--start", str(tmp_path / "one"), "--steps", "1", "--set", "optimiser.lr=1e-12"]
    assert run(command(base, text, tmp_path / "two", *first, *head)) == 0
    config = open_checkpoint(base).config
    one, two = (read_adapter(tmp_path / name, config) for name in ("one", "two"))
    assert one.coherence is not None
    assert two.coherence is not None
    for a, b in zip(one.coherence, two.coherence, strict=True):
        torch.testing.assert_close(a, b)
    for name, pair in one.matrices.items():
        torch.testing.assert_close(pair, two.matrices[name])
    capsys.readouterr()
    for more, message in [
        (["--set", "adapter.rank=3", "--set", "adapter.alpha=3"], "lora_A, and the one to be trained [3, 32]"),
        (["--set", "adapter.alpha=3", *head], "has alpha / rank 1, the one to be trained 0.75"),
        ([], "as coherence.hidden, and the one to be trained nothing"),
        (["--method", "joint"], "only an adapter can start from an adapter"),
    ]:
        assert run(command(base, text, tmp_path / "three", "--run", str(tmp_path / message[:6]), *first, *more)) == 2
        assert message in capsys.readouterr().err
    lost = ["--start", str(tmp_path / "nowhere"), "--steps", "1"]
    assert run(command(base, text, tmp_path / "four", *lost)) == 2
    assert not (tmp_path / "four.run").exists(), "something is left behind"


def test_a_joint_model_that_loads(base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(base, text, tmp_path / "out", "--steps", "3", "--method", "joint")) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["ar"] > 0
    lm = LM.load(tmp_path / "out", dtype="float32")
    assert (lm.traits.trained, lm.traits.mask_id, lm.traits.block_size) == (True, MASK, 8)
    ar = lm.generate("the", mode="ar", max_tokens=8)
    assert lm.generate("the", mode="self-speculation", max_tokens=8).token_ids == ar.token_ids
    assert run(command(tmp_path / "out", text, tmp_path / "drafter", "--steps", "2", "--recipe", "drafter")) == 0


def test_a_stopped_run_goes_on_to_the_same_numbers(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--set", "save_every=1", "--steps", "40"]
    assert run(command(base, text, tmp_path / "whole", *more)) == 0
    whole = [json.loads(line) for line in capsys.readouterr().out.splitlines()[:-1]]
    arguments = command(base, text, tmp_path / "parts", *more)
    with subprocess.Popen([sys.executable, "-m", "unmask", *arguments], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        for _ in range(3):
            first.stdout.readline()
        first.send_signal(signal.SIGKILL)
    assert run(arguments) == 0
    rest = [json.loads(line) for line in capsys.readouterr().out.splitlines()[:-1]]
    assert 1 < rest[0]["step"] <= 40
    assert [line["loss"] for line in rest] == [line["loss"] for line in whole[rest[0]["step"] - 1 :]]
    one = (tmp_path / "whole" / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "parts" / "adapter_model.safetensors").read_bytes() == one


def test_ctrl_c_ends_after_a_step_with_a_checkpoint(base: Path, text: Path, tmp_path: Path) -> None:
    arguments = command(base, text, tmp_path / "out", "--steps", "100000")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-m", "unmask", *arguments], stdout=subprocess.PIPE, env=environment) as one:
        assert one.stdout is not None
        one.stdout.readline()
        one.send_signal(signal.SIGINT)
        begin = time.monotonic()
        lines = one.stdout.read().splitlines()
        assert one.wait(60) == 0
        assert time.monotonic() - begin < 60
    assert json.loads(lines[-1])["reason"] == "stopped"
    assert (tmp_path / "out" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe", "magic"], "recipe must be one of tiny, adapter, joint, joint-8b, drafter, filler, got 'magic'"),
        (["--steps", "1", "--minutes", "1"], "give steps or minutes, not both"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--method", "both"], "method must be 'joint' or 'adapter', got 'both'"),
        (["--set", "optimiser.speed=3"], "--set takes NAME=VALUE"),
        (["--set", "adapter.rank=0"], "rank must be at least 1, got 0"),
        (["--block-size", "0"], "block size must be at least 1, got 0"),
        (["--data", "/no/such/file.txt"], "/no/such/file.txt"),
        (["--mask-id", "100000"], "mask_id must be between 0 and"),
    ],
)
def test_mistakes_are_one_line(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run([*command(base, text, tmp_path / "out"), *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_replaced_unasked(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("dear")
    assert run(command(base, text, tmp_path / "out")) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "dear"


def test_a_model_without_a_mask_token(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_model(tmp_path / "plain", unmask={})
    assert run(command(plain, text, tmp_path / "out")) == 2
    assert "names no mask token: give mask_id" in capsys.readouterr().err


def test_another_run_in_the_same_folder(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(base, text, tmp_path / "one", "--steps", "1", "--run", str(tmp_path / "run"))) == 0
    capsys.readouterr()
    assert run(command(base, text, tmp_path / "two", "--steps", "2", "--run", str(tmp_path / "run"))) == 2
    assert str(tmp_path / "run") in capsys.readouterr().err


def test_an_empty_corpus(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run(command(base, tmp_path / "empty", tmp_path / "out")) == 2
    assert capsys.readouterr().err.count("\n") == 1


_BUILDS = """
import sys, time
from unmask.training import corpus
from unmask.cli.convert import make_starter_corpus

def build(out, progress):
    folder = corpus.default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    time.sleep(0.5)  # long enough for the other process to come and look
    (folder / "train.jsonl").write_text("{}")
    print("built", flush=True)

corpus.build_corpus = build
make_starter_corpus()
print("there", corpus.default_folder().joinpath("train.jsonl").exists())
"""


def test_of_two_processes_one_builds_the_starter_corpus(tmp_path: Path) -> None:
    environment = os.environ | {"UNMASK_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", _BUILDS], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert sorted("built" in text for text in said) == [False, True]
    assert all("there True" in text for text in said)
