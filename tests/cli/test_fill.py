"""`unmask fill`: where the gap is, what is printed, that files change whole or not at all."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.cli import common, run
from unmask.cli.fill import marked, ranged
from unmask.patching.change import replace_file, unified

START = VOCABULARY - 3
TEXT = "the cat\nand the dog\nand the bird\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    learned = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": START, "gap_room": 24, "gap_causal": True}
    return str(write_model(tmp_path_factory.mktemp("gap"), unmask=learned))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.replace("the dog", "<FILL>").encode())
    return path


def call(file: Path | str, model: str, *more: str) -> list[str]:
    return ["fill", str(file), "--model", model, "--dtype", "float32", "--mode", "ar", "-n", "6", *more]


def test_the_text_of_the_gap_is_printed(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = file.read_bytes()
    assert run(call(file, model)) == 0
    expected = LM.load(model, dtype="float32").fill("the cat\nand ", "\nand the bird\n", mode="ar", max_tokens=6)
    shown = capsys.readouterr().out
    assert shown == expected.text + "\n" * (not expected.text.endswith("\n"))
    assert file.read_bytes() == before
    assert run(call(file, model, "--json", "--candidates", "2")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layout"], found["written"]) == ("in-place", False)
    assert found["text"] in [one["text"] for one in found["candidates"]]


def test_a_diff_and_a_written_file(file: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.chmod(0o640)
    assert run(call(file, model, "--diff")) == 0
    change = capsys.readouterr().out
    assert change.startswith(f"--- a/{file}\n+++ b/{file}\n")
    assert run(call(file, model, "--write", "--diff")) == 0
    assert capsys.readouterr().out == change
    expected = LM.load(model, dtype="float32").fill("the cat\nand ", "\nand the bird\n", mode="ar", max_tokens=6)
    assert file.read_text(encoding="utf-8") == f"the cat\nand {expected.text}\nand the bird\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_that_changed_meanwhile_is_left_alone(
    file: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = common.load_model

    def slow(*arguments: Any, **more: Any) -> LM:
        file.write_text("somebody else's", encoding="utf-8")
        return load(*arguments, **more)

    monkeypatch.setattr("unmask.cli.fill.load_model", slow)
    assert run(call(file, model, "--write")) == 2
    assert "has changed since it was read: nothing is written" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "somebody else's"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("place", "gap"),
    [
        ("2", "and the dog"),
        ("2-3", "and the dog\nand the bird"),
        ("1-1", "the cat"),
        ("2:5-2:8", "the"),
        ("1:5-2:4", "cat\nand"),
        ("3:13-3:13", ""),
    ],
)
def test_ranges(place: str, gap: str) -> None:
    start, stop = ranged(TEXT, place)
    assert TEXT[start:stop] == gap


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--range", "2-9"], "--range 2-9: the file has lines 1 to 3"),
        (["--range", "3-2"], "the file has lines 1 to 3"),
        (["--range", "two"], "--range must be like 12-15 or 12:5-12:20, got 'two'"),
        (["--range", "2:3-3"], "--range must be like"),
        (["--range", "1:3-1:40"], "line 1 has columns 1 to 8"),
        (["--range", "1:6-1:2"], "ends before it begins"),
        (["--marker", "the", "--range", "1"], "give one"),
        (["--marker", "and"], "the marker 'and' must stand in the file once, and stands there 2 times"),
        (["--marker", ""], "--marker must not be empty"),
        (["--marker", "fish"], "stands there 0 times"),
        (["--diff", "--json"], "--diff and --json exclude each other"),
        (["--layout", "psm"], "layout must be 'in-place' here"),
    ],
)
def test_mistakes(file: Path, model: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(call(file, model, *more)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_files_that_cannot_be_filled(
    tmp_path: Path, file: Path, model: str, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_bytes(b"<FILL>\xff")
    for path, told in ((tmp_path / "bad", "not UTF-8 (byte 0xff at 6)"), (tmp_path / "none", "No such file")):
        assert run(call(path, model)) == 2
        assert told in capsys.readouterr().err
    assert run(call("-", model, "--write")) == 2
    assert "stdin cannot be written to" in capsys.readouterr().err
    assert run(call(file, str(tiny_folder))) == 2
    assert "this model cannot fill a gap" in capsys.readouterr().err
    assert run(call(file, str(tiny_folder), "--untrained")) == 0
    assert "has not learned to fill gaps" in capsys.readouterr().err


def test_a_diff_is_one_that_patch_reads() -> None:
    assert marked("a<FILL>b", "<FILL>") == (1, 7)
    last = "\\ No newline at end of file\n"
    change = unified("one\ntwo", "one\nthree", "f")
    assert change == f"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n one\n-two\n{last}+three\n{last}"
    assert unified("a\n", "a\n", "f") == ""


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="has changed"):
        replace_file(path, b"older", b"new")
    replace_file(path, b"old", b"new\r\n")
    assert path.read_bytes() == b"new\r\n"
    assert list(tmp_path.iterdir()) == [path]
