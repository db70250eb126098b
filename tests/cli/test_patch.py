"""`unmask patch`: exit codes, what is printed, what is written, with tiny models that fill at random."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.cli import common, run
from unmask.cli.patch import path_in, root_of

LEARNED = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": VOCABULARY - 3, "gap_room": 24}
CODE = "import os\n\n\ndef size(a):\n    return a * <FILL>\n"
NUMBER = ("--marker", "<FILL>", "--regex", "[1-9][0-9]{0,2}")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("gap"), unmask=LEARNED | {"gap_causal": True}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "part" / "m.py"
    path.parent.mkdir()
    (tmp_path / "pyproject.toml").touch()
    path.write_bytes(CODE.encode())
    return path


def call(file: Path | str, model: str, *more: str) -> list[str]:
    return ["patch", str(file), "--model", model, "--dtype", "float32", "--mode", "ar", *more]


def test_a_constrained_filling_is_accepted_and_written(
    file: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.chmod(0o640)
    assert run(call(file, model, *NUMBER)) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("--- a/part/m.py\n+++ b/part/m.py\n")
    assert "accepted, level span: mends syntax: invalid syntax" in shown.err
    assert file.read_bytes() == CODE.encode()
    assert run(call(file, model, *NUMBER, "--write", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["written"], found["diff"]) == ("accepted", True, shown.out)
    assert file.read_text(encoding="utf-8") == found["new_text"]
    assert found["new_text"].startswith(CODE.partition("<FILL>")[0])
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_nothing_acceptable(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    check = "python -c 'import sys; sys.exit(1)'"
    assert run(call(file, model, *NUMBER, "--write", "--candidates", "2", "--verify", check)) == 1
    shown = capsys.readouterr()
    assert "nothing acceptable" in shown.err
    assert "+    return a * " in shown.out  # the nearest is shown
    assert file.read_bytes() == CODE.encode()


def test_a_constraint_that_cannot_be_kept(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(call(file, model, "--marker", "<FILL>", "--regex", "[0-9]{40}", "-n", "5")) == 3
    assert "the shortest text that the constraint allows needs" in capsys.readouterr().err


def test_a_verifier_that_cannot_be_run(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(call(file, model, *NUMBER, "--verify", "no-such-command-here")) == 4
    said = capsys.readouterr().err
    assert "no-such-command-here could not be run" in said
    assert said.count("\n") == 1


def test_a_file_that_changed_meanwhile(
    file: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = common.load_model

    def slow(*arguments: Any, **more: Any) -> LM:
        file.write_text("somebody else's", encoding="utf-8")
        return load(*arguments, **more)

    monkeypatch.setattr("unmask.cli.patch.load_model", slow)
    assert run(call(file, model, *NUMBER, "--write")) == 5
    assert "has changed since it was read: nothing is written" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "somebody else's"


def test_an_oracle_from_the_command_line(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = json.dumps({"type": "calls", "must": ["open"]})
    assert run(call(file, model, *NUMBER, "--constraint", wanted, "--candidates", "1", "--json")) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["detail"] == "open must be called"
    allowed = json.dumps({"type": "calls", "must_not": ["open"]})
    assert run(call(file, model, *NUMBER, "--constraint", allowed)) == 0
    todo = '{"type": "not_contains", "texts": ["import os"]}'  # which is not in what is written
    assert run(call(file, model, *NUMBER, "--constraint", todo)) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lines", "1", "--constraint", "{"], "--constraint {: this is no JSON"),
        (["--lines", "1", "--constraint", "magic"], "a constraint's type must be one of"),
        (["--lines", "1", "--constraint", '{"type": "regex", "pattern": "a"}'], "is no check of a file"),
        (["--lines", "1", "--constraint", "layers"], "ranks must map names to whole numbers"),
        (["--lines", "1", "--oracle", "json"], "--oracle must be MODULE:FUNCTION"),
        ([], "say where to patch, once"),
        (["--lines", "1", "--symbol", "f"], "got lines, symbol"),
        (["--lines", "9"], "lines 9: the file has lines 1 to 5"),
        (["--from-diagnostic", "pytest", "--report", "none.txt"], "No such file"),
        (["--from-diagnostic", "python", "--select", "undefined-name"], "the fault is not there: python finds"),
        (["--lines", "1", "--root", "/usr"], "--root /usr does not hold"),
        (["--lines", "1", "--layout", "psm"], "layout must be 'in-place' here"),
    ],
)
def test_mistakes(file: Path, model: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(call(file, model, *more)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_model_that_has_not_learned_it(file: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(call(file, str(tiny_folder), *NUMBER)) == 2
    assert "this model cannot fill a gap" in capsys.readouterr().err
    assert run(call(file, str(tiny_folder), *NUMBER, "--untrained", "-n", "4")) == 0
    assert "has not learned to fill gaps" in capsys.readouterr().err


def test_the_project_around_a_file(file: Path, tmp_path: Path) -> None:
    assert root_of(file) == tmp_path.resolve()
    assert path_in(tmp_path, file) == "part/m.py"
    (file.parent / "setup.py").touch()
    assert root_of(file) == file.parent.resolve()
