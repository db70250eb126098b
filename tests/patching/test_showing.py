"""What a model sees beside a file: comments above the gap, other files; none of it reaches the file."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.patching.test_patch import CODE, Scripted, patched
from unmask.patching import Candidate, Gap
from unmask.patching.showing import Shown, shown_of
from unmask.patching.source import BOM, Source
from unmask.types import ByteSpan

WANTED = "Add up what the rows are worth."
NOTE = f"# {WANTED}"


def test_it_stands_above_the_gap_and_is_not_written() -> None:
    fills = Scripted(span=["        result += row.value"])
    found = patched(
        CODE, fills, lines="7", instruction=f"{WANTED}\n\nNothing else.\n", context={"rows.py": "class Row: ..."}
    )
    (gap,) = fills.gaps
    assert gap.prefix.endswith(f"    for row in rows:\n        {NOTE}\n        # Nothing else.\n")
    assert gap.suffix == "\n    return result\n"
    assert gap.context == ("# rows.py\nclass Row: ...\n\n",)
    assert found.data.decode() == CODE.replace("rwo", "row")
    # Within a line, it is above that line.
    fills = Scripted(span=["row"])
    patched(CODE, fills, range="7:19-7:22", instruction=WANTED)
    assert fills.gaps[0].prefix.endswith(f"\n        {NOTE}\n        result += ")


def test_an_import_at_the_top_is_not_what_is_meant() -> None:
    fills = Scripted(**{"import": ["import math\n"]})
    patched("x = math.pi\n", fills, from_diagnostic="python", instruction=WANTED, context={"a.py": "b = 1"})
    assert fills.gaps[0].prefix == ""
    assert fills.gaps[0].context == ("# a.py\nb = 1\n\n",)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"    {NOTE}\n    return 1", "    return 1"),
        (f"{NOTE}\n    return 1\n    pass", "return 1\n    pass"),
        (f"    return 1\n    {NOTE}", "    return 1"),
        (f"    return 1  {NOTE}  ", "    return 1"),
        (f"    {NOTE} Or not.\n    return 1", f"    {NOTE} Or not.\n    return 1"),
        ("    return 1\n", "    return 1\n"),
        (f"    return 1  {NOTE} {NOTE}\n    {NOTE} {NOTE}", "    return 1"),
        (NOTE, ""),
    ],
)
def test_a_model_that_says_it_again_is_not_heard(text: str, kept: str) -> None:
    assert Shown((NOTE,)).unsaid(text) == kept
    assert Shown().unsaid(text) == text


@given(st.text(alphabet="a# \n\té漢", max_size=30), st.lists(st.sampled_from(["a", "b c", "é"]), max_size=3), st.data())
def test_without_the_comments_it_is_the_file(text: str, wanted: list[str], data: st.DataObject) -> None:
    source = Source(BOM + text.encode() if data.draw(st.booleans()) else text.encode())
    at = len(source.data) - len(text[data.draw(st.integers(0, len(text))) :].encode())
    shown = Shown(tuple(f"#! {one}" for one in wanted))
    seen = shown.before(source, ByteSpan(at, at))
    rows = seen.split("\n")
    assert sum("#!" in row for row in rows) == len(wanted)
    assert "\n".join(row for row in rows if "#!" not in row) == source.seen(ByteSpan(at, at))[0]


def test_valid_python_stays_valid() -> None:
    source = Source(CODE.encode())
    for row in source.rows:
        seen = Shown((NOTE,)).before(source, row) + CODE.encode()[row.start :].decode()
        assert NOTE in seen
        ast.parse(seen)


@pytest.mark.parametrize(
    ("path", "comment"),
    [
        ("a.py", "# b"),
        ("Makefile", "# b"),
        ("x/a.TS", "// b"),
        ("a.html", "<!-- b -->"),
        ("a.css", "/* b */"),
        ("a.sql", "-- b"),
    ],
)
def test_comments_of_other_languages(path: str, comment: str) -> None:
    assert shown_of(path, "b", {}).comments == (comment,)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"instruction": " \n"}, "instruction must say something"),
        ({"instruction": "a" * 2001}, "instruction must have at most 2000 characters, got 2001"),
        ({"instruction": 3}, "instruction must be text, got 3"),
        ({"context": ["a.py"]}, r"context must map names to texts, got \['a.py'\]"),
        ({"context": {"a.py": 1}}, r"context must map names to texts, got \('a.py', 1\)"),
        ({"context": {str(number): "a" for number in range(17)}}, "context must have at most 16 files, got 17"),
    ],
)
def test_mistakes(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patched(CODE, Scripted(), lines="1", **asked)


def test_a_row_that_was_there_before_stays() -> None:
    code = f"def f(a):\n    {NOTE}\n    return b\n"
    fills = Scripted(span=[f"    {NOTE}\n    return a  {NOTE}"])
    found = patched(code, fills, lines="2-3", instruction=WANTED)
    assert found.data.decode() == code.replace("b", "a")


def test_of_what_a_hard_constraint_has_made_nothing_is_taken() -> None:
    text = f"x = 2  {NOTE}"
    for exact, kept in ((True, text), (False, "x = 2")):
        fills = Made(Candidate(text, exact=exact))
        assert patched("x = 1\n", fills, lines="1", instruction=WANTED).data.decode() == f"{kept}\n"


class Made(Scripted):
    def __init__(self, candidate: Candidate) -> None:
        super().__init__()
        self.candidate = candidate

    def __call__(self, gap: Gap) -> tuple[Sequence[Candidate], int]:
        return [self.candidate], 1
