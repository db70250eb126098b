"""`unmask patch`: exit codes, what is printed, what is written, with tiny models that fill at random."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.cli import common, run
from unmask.cli.patch import context, path_in, root_of
from unmask.lm.patching import ModelFills
from unmask.patching import Candidate, Gap

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


def test_the_old_file_is_kept_beside(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.chmod(0o640)
    assert run(call(file, model, *NUMBER, "--write", "--backup", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["backup"] == "m.py.orig"
    first = file.read_text(encoding="utf-8")
    old = file.with_name("m.py.orig")
    assert (old.read_bytes(), stat.S_IMODE(old.stat().st_mode)) == (CODE.encode(), 0o640)
    file.write_text(first.replace("a *", "a * <FILL> *"), encoding="utf-8")
    assert run(call(file, model, *NUMBER, "--write", "--backup")) == 0
    assert "the old file is m.py.orig2" in capsys.readouterr().err
    assert old.read_bytes() == CODE.encode(), "what is there already stays"
    assert file.with_name("m.py.orig2").read_text(encoding="utf-8") == first.replace("a *", "a * <FILL> *")
    assert len(list(file.parent.iterdir())) == 3


def test_several_faults_of_one_tool(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("def f(a):\n    return b + c\n", encoding="utf-8")
    asked = ["--from-diagnostic", "python", "--regex", "a", "--candidates", "1"]
    assert run(call(file, model, *asked, "--max", "5", "--write", "--backup")) == 0
    shown = capsys.readouterr()
    assert "2 of 2 faults mended" in shown.err
    assert shown.out.endswith("-    return b + c\n+    return a + a\n")
    assert file.read_text(encoding="utf-8") == "def f(a):\n    return a + a\n"
    assert file.with_name("m.py.orig").read_text(encoding="utf-8") == "def f(a):\n    return b + c\n"
    file.write_text("def f(a):\n    return b + c\n", encoding="utf-8")
    assert run(call(file, model, *asked, "--max", "1", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["message"] for one in found["left"]] == ["undefined name 'c'"]
    assert (found["mended"], found["written"], found["backup"]) == (1, False, None)
    assert run(call(file, model, *asked[:2], "--max", "5", "--candidates", "1", "--regex", "zz")) == 1
    assert "0 of 2 faults mended" in capsys.readouterr().err


def test_what_is_wanted_and_other_files(file: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent.parent / "util.py").write_text("class A:\n    def b(self):\n        return 1\n", encoding="utf-8")
    gaps = list[Gap]()
    fills = ModelFills.__call__

    def watched(self: ModelFills, gap: Gap) -> tuple[Sequence[Candidate], int]:
        gaps.append(gap)
        return fills(self, gap)

    monkeypatch.setattr(ModelFills, "__call__", watched)
    util = str(file.parent.parent / "util.py")
    more = ["--instruction", "Twice as much.", "--context", util, "--context", f"{util}:A.b"]
    assert run(call(file, model, *NUMBER, *more, "--write")) == 0
    assert gaps[0].prefix.endswith("def size(a):\n    # Twice as much.\n    return a * ")
    assert gaps[0].context[0].startswith("# util.py\nclass A:\n")
    assert gaps[0].context[1] == "# util.py: A.b\ndef b(self):\n    return 1\n\n"
    assert "Twice" not in file.read_text(encoding="utf-8")


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


def test_a_soft_constraint_is_about_what_is_written(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("# TODO old\nx = 1\ny = 2\n", encoding="utf-8")
    todo = '{"type": "not_contains", "texts": ["TODO"]}'
    for text, code in (("x = 3  # TODO new", 1), ("x = 3", 0)):
        assert run(call(file, model, "--lines", "2", "--choice", text, "--constraint", todo, "--json")) == code
        assert json.loads(capsys.readouterr().out)["candidates"][0]["text"] == text


def test_two_files_of_one_name_are_both_seen(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("root", "a", "b")]
    for folder in folders:
        folder.mkdir()
        (folder / "x.py").write_text(f"x = '{folder.name}'\n", encoding="utf-8")
    given = [str(folder / "x.py") for folder in folders[1:]]
    assert context([*given, given[0]], folders[0]) == {"x.py": "x = 'a'\n", given[1]: "x = 'b'\n"}


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
        (["--lines", "1", "--backup"], "--backup belongs to --write"),
        (["--lines", "1", "--max", "2"], "max_faults (--max) needs from-diagnostic python, ruff or mypy"),
        (["--lines", "1", "--instruction", " "], "instruction must say something"),
        (["--lines", "1", "--context", "none.txt"], "No such file"),
        (["--lines", "1", "--context", f"{__file__}:nonesuch"], "symbol nonesuch is not defined in the file"),
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
