"""Where documents come from, and what is said of data that is no good."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.training.data import Listing, Streamed, document_from, mixed, open_data, order


def listing(*sources: object, **options: Any) -> Listing:
    opened = open_data([str(source) for source in sources], **options)
    assert not isinstance(opened, Streamed)
    return opened


def texts(opened: Listing) -> list[str]:
    return [opened.read(number).text for number in range(len(opened))]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.py", "a.md", "deep/c.rst", "deep/d.txt", "picture.png"):
        (tmp_path / name).write_text(f"text of {name}\n")
    lines(tmp_path / "rows.jsonl", {"text": "x"}, "\n", {"text": "y", "source": "z"})
    whole = ["text of a.md\n", "text of b.py\n", "text of deep/c.rst\n", "text of deep/d.txt\n"]
    assert texts(listing(tmp_path)) == whole
    assert texts(listing(tmp_path / "b.py")) == ["text of b.py\n"]
    assert texts(listing(tmp_path / "**" / "*.rst")) == ["text of deep/c.rst\n"]
    assert texts(listing(tmp_path / "rows.jsonl", tmp_path / "b.py")) == ["x", "y", "text of b.py\n"]
    assert texts(listing(tmp_path / "*")) == ["text of a.md\n", "text of b.py\n", "x", "y"]


def test_json_lines_of_every_kind(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    rows = [{"prompt": "1 + 1 =", "completion": " 2"}, {"messages": chat}, {"prompt": chat[:1], "completion": chat[1:]}]
    found = listing(lines(tmp_path / "rows.jsonl", *rows))
    assert (found.read(0).text, found.read(0).completion) == ("1 + 1 =", " 2")
    assert list(found.read(1).messages) == list(found.read(2).messages) == chat
    assert found.read(2).where.endswith("rows.jsonl:3")


def test_a_corpus_folder_keeps_its_held_out_half(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", {"text": "train"})
    lines(tmp_path / "heldout.jsonl", {"text": "apart"})
    assert texts(listing(tmp_path)) == ["train"]
    assert texts(listing(tmp_path, held_out=True)) == ["apart"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"text": "x"}\n{"body": "y"}\n', r"rows.jsonl:2: no 'text', 'messages', .* the fields are: 'body'"),
        ('\n\n{"text": 3}\n', "rows.jsonl:3: no 'text'"),
        ("{}\n", "the fields are: none"),
        ('{"text": \n', "rows.jsonl:1: not valid JSON"),
        ("[1]\n", "rows.jsonl:1: must be a JSON object, not list"),
        ('{"messages": ["hi"]}\n', "rows.jsonl:1: 'messages' must be a list of objects"),
        ('{"text": "caf\udce9"}\n', r"rows.jsonl:1: not UTF-8 \(byte 0xe9 at 13\)"),
    ],
)
def test_broken_lines_are_named(content: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    opened = listing(file)
    with pytest.raises(ValueError, match=complaint):
        texts(opened)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a.txt: not UTF-8 \(byte 0xe9 at 3\)"):
        texts(listing(tmp_path / "a.txt"))


def test_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "picture.png").touch()
    cases: list[tuple[list[str], type[Exception], str]] = [
        ([], ValueError, "no training data"),
        ([str(tmp_path / "none.txt")], FileNotFoundError, "no such file or folder: .*none.txt .*hf:org/name"),
        ([str(tmp_path / "*.csv")], FileNotFoundError, "no such file"),
        ([str(tmp_path / "empty.jsonl")], ValueError, "the corpus is empty"),
        ([str(tmp_path / "folder")], ValueError, "holds no .py, .txt"),
        ([str(tmp_path / "picture.png")], ValueError, "unknown kind; supported: .py"),
        (["starter"], FileNotFoundError, "has to be built first"),
        (["hf:org/name", "x"], ValueError, "cannot be mixed"),
    ]
    for sources, kind, complaint in cases:
        with pytest.raises(kind, match=complaint):
            open_data(sources)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").touch()
    for source in (str(tmp_path / "a.parquet"), "hf:org/name"):
        with pytest.raises(ImportError, match=r"needs the extra 'train': pip install 'unmask\[train\]'"):
            open_data([source])


def test_what_is_asked_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((args, options))
        return [{"text": "one"}, {"text": "two"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    stream = open_data(["hf:org/name:small:validation"])
    assert isinstance(stream, Streamed)
    assert [document.text for document in stream.open()] == [document.text for document in stream.open()]
    assert asked[0] == (("org/name", "small"), {"split": "validation", "streaming": True})
    (tmp_path / "a.parquet").touch()
    assert texts(listing(tmp_path / "a.parquet")) == ["one", "two"]
    assert asked[-1] == (("parquet",), {"data_files": str(tmp_path / "a.parquet"), "split": "train"})


@pytest.mark.filterwarnings("default")  # the library's own
def test_datasets_for_real(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra 'train' is not installed")
    table = importlib.import_module("pyarrow").table({"text": ["one", "two"]})
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    assert texts(listing(tmp_path / "a.parquet")) == ["one", "two"]
    stream = open_data([f"hf:{tmp_path}"])  # the library takes a folder for a data set
    assert isinstance(stream, Streamed)
    assert [document.text for document in stream.open()] == ["one", "two"]
    (tmp_path / "b.parquet").write_text("nonsense")
    with pytest.raises(ValueError, match=r"b\.parquet is not a parquet file"):
        listing(tmp_path / "b.parquet")


def test_a_fingerprint_follows_the_files(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", {"text": "x"})
    before = listing(file).fingerprint()
    assert listing(file).fingerprint() == before
    lines(file, {"text": "other"})
    assert listing(file).fingerprint() != before


@given(st.integers(0, 300), st.integers(0, 2**63), st.integers(0, 10))
def test_an_order_is_a_permutation_that_seed_and_epoch_decide(count: int, seed: int, epoch: int) -> None:
    numbers = np.arange(count)
    mine = order(numbers, seed, epoch)
    assert sorted(mine.tolist()) == numbers.tolist()
    assert np.array_equal(mine, order(numbers, seed, epoch))
    if count > 20:
        assert not np.array_equal(mine, order(numbers, seed, epoch + 1))
        assert not np.array_equal(mine, order(numbers, seed + 1, epoch))


def test_the_order_is_the_same_on_every_machine() -> None:
    """Recorded: another one would break the resumption of runs under way."""
    assert order(np.arange(8), 1, 2).tolist() == [1, 4, 0, 6, 2, 3, 7, 5]
    assert mixed(1, 2, 3) == 0xD0734750FDE362B3


def test_fields_win_in_a_fixed_order() -> None:
    row = {"text": "t", "prompt": "p", "completion": "c"}
    assert document_from(row, "x").completion == "c"
    assert document_from({"text": "t", "messages": None}, "x").text == "t"
