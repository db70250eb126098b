"""runs/*.sh: every script is one `unmask convert` whose flags parse, and the tiny one runs; what `convert` draws."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.tinymodel import MASK, write_model
from unmask import LM
from unmask.cli import app, run
from unmask.cli.convert import settings_of
from unmask.training.settings import TrainConfig

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
EXPECTED = {"tiny": "adapter", "smollm2_adapter": "adapter", "smollm2_joint": "joint", "joint_8b_8gpu": "joint"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), unmask={"mask_id": MASK})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "one.txt"
    file.write_text("the cat and the dog and the bird\n" * 200, encoding="utf-8")
    return file


def stand_in(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    (folder / name).chmod(0o755)


def start(script: Path, folder: Path, *more: str, **variables: str) -> str:
    """What a script prints, run in `folder` with only the programs there, sh's own and python."""
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        ["sh", str(script), *more], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parsed(words: list[str]) -> tuple[dict[str, Any], TrainConfig]:
    """Flags of `unmask convert`, as the command line reads them, and the settings that they make."""
    group: Any = typer.main.get_command(app)
    assert words[0] == "convert"
    flags = group.commands["convert"].make_context("convert", words[1:]).params
    names = ("recipe", "method", "stage", "steps", "minutes", "block_size")
    chosen: dict[str, Any] = {name: flags[name] for name in names}
    return flags, settings_of(**chosen, changes=flags["settings"] or [])


def test_all_scripts_are_known() -> None:
    assert {script.stem for script in SCRIPTS} == EXPECTED.keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_flags_of_a_script_parse(script: Path, tmp_path: Path) -> None:
    show = f'#!/bin/sh\nexec "{sys.executable}" -c "import json, sys; print(json.dumps(sys.argv[1:]))" "$@"\n'
    for program in ("unmask", "torchrun"):
        stand_in(tmp_path, program, show)
    words = json.loads(start(script, tmp_path, "--set", "loss.chunk=128"))
    if words[0] != "convert":
        assert words[:4] == ["--nproc-per-node", "8", "-m", "unmask"]
        words = words[4:]
    flags, config = parsed(words)
    assert (config.method, config.loss.chunk) == (EXPECTED[script.stem], 128)
    assert os.access(script, os.X_OK)
    assert flags["data"]
    assert config.accumulation % (8 if config.shard else 1) == 0
    first = script.read_text(encoding="utf-8").splitlines()[:2]
    assert first[0] == "#!/bin/sh"
    assert first[1].startswith("# ")


def test_the_tiny_script_runs(base: Path, text: Path, tmp_path: Path) -> None:
    stand_in(tmp_path, "unmask", f'#!/bin/sh\nexec "{sys.executable}" -m unmask "$@"\n')
    where = {"MODEL": str(base), "DATA": str(text), "OUT": str(tmp_path / "out"), "PYTHONPATH": str(ROOT / "src")}
    printed = start(ROOT / "runs" / "tiny.sh", tmp_path, **where)
    assert printed.startswith("done: 20 steps")
    assert "plot.png shows the run" in printed
    assert (tmp_path / "out.run" / "plot.png").stat().st_size > 1000
    assert LM.load(base, adapter=tmp_path / "out").traits.trained


def test_no_plot_without_matplotlib_and_nothing_said(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.training.plot.find_spec", lambda name: None)
    fixed = ["convert", str(base), "--recipe", "tiny", "--data", str(text), "--steps", "2"]
    assert run([*fixed, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "shows the run" not in printed.out + printed.err
    assert not (tmp_path / "out.run" / "plot.png").exists()
    assert (tmp_path / "out" / "adapter_config.json").exists()


def test_event_files_where_they_are_asked_for(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = ["convert", str(base), "--recipe", "tiny", "--data", str(text), "--steps", "2", "--tensorboard"]
    assert run([*fixed, "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out.run" / "tensorboard").glob("events*"))
    capsys.readouterr()
    monkeypatch.setattr("unmask.training.tensorboard.find_spec", lambda name: None)
    assert run([*fixed, "--out", str(tmp_path / "two")]) == 2
    printed = capsys.readouterr().err
    assert "need the extra 'train': pip install 'unmask[train]'" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "two.run").exists()


def test_a_data_set_of_the_hub_without_the_extra(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    arguments = ["convert", str(base), "--recipe", "tiny", "--data", "hf:org/name", "--out", str(tmp_path / "out")]
    assert run(arguments) == 2
    printed = capsys.readouterr().err
    assert "needs the extra 'train'" in printed
    assert printed.count("\n") == 1


def test_a_loss_that_is_no_number_is_one_line(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["convert", str(base), "--recipe", "tiny", "--method", "joint", "--data", str(text), "--steps", "9"]
    assert run([*fixed, "--set", "optimiser.lr=1e38", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert "the loss is not a number in step" in printed[-1]


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell on this machine")
def test_scripts_stop_at_the_first_error(tmp_path: Path) -> None:
    assert all("set -eu" in script.read_text(encoding="utf-8") for script in SCRIPTS)
