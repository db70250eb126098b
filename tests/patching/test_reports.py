"""Reports of other tools: what they underline is found in the file, and what they do not say is not made up."""

from __future__ import annotations

import json
import runpy
import traceback
from pathlib import Path

import pytest

from unmask.patching import reports
from unmask.patching.oracles.tools import Ruff
from unmask.patching.source import BOM, Source
from unmask.types import View

CODE = 'def f(x):\r\n\té = "ü" + x["é"]["k"]; return é\r\n\r\nf({"é": {}})\r\n'


def shown(source: Source, report: reports.Report) -> str:
    return source.inside(reports.place(source, report))


@pytest.mark.parametrize("mark", [b"", BOM])
def test_ruff_counts_characters(mark: bytes) -> None:
    source = Source.of(mark + 'def f():\r\n\té = "ü漢😀", bad_näme\r\n\treturn é\r\n'.encode())
    (fault,) = Ruff().check(View.of(source.text)).violations
    start, end = (offset + source.first for offset in fault.span)
    assert (fault.code, source.data[start:end].decode()) == ("F821", "bad_näme")


@pytest.mark.parametrize("mark", [b"", BOM])
def test_a_traceback_underlines(tmp_path: Path, mark: bytes) -> None:
    file = tmp_path / "mod.py"
    file.write_bytes(mark + CODE.encode())
    try:
        runpy.run_path(str(file))
    except KeyError:
        text = traceback.format_exc()
    source, found = Source.of(file.read_bytes()), reports.read("traceback", text)
    here = [one for one in found if one.file == str(file)]
    assert [(one.code, one.message, one.line) for one in here] == [("KeyError", "'k'", 2), ("KeyError", "'k'", 4)]
    assert [shown(source, one) for one in here] == ['x["é"]["k"]', 'f({"é": {}})']
    assert reports.about(found, "mod.py") == here


def test_wide_letters_are_underlined_twice_by_some_pythons() -> None:
    text = (
        'Traceback (most recent call last):\n  File "m.py", line 1, in f\n    "漢" + x.y\n           ^^^\nKeyError: 1\n'
    )
    (one,) = reports.traceback(text)
    assert shown(Source('    "漢" + x.y\n'.encode()), one) == '    "漢" + x.y'


def test_a_syntax_error_is_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "mod.py"
    file.write_text("x = 1\nif x = 2:\n    pass\n", encoding="utf-8")
    try:
        runpy.run_path(str(file))
    except SyntaxError:
        text = traceback.format_exc()
    one = reports.about(reports.traceback(text), "mod.py")[0]
    assert (one.code, one.line, shown(Source(file.read_bytes()), one)) == ("SyntaxError", 2, "x = 2")


PYTEST = """
____________________________________ test_f ____________________________________

    def test_f():
>       assert m.f(1) == 2

test_m.py:3:
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

x = 1

    def f(x):
>       return x - y
E       NameError: name 'y' is not defined

src/m.py:2: NameError
____________________________________ test_g ____________________________________
test_m.py:6: in test_g
    m.g()
src/m.py:5: in g
    return 1 / 0
E   ZeroDivisionError: division by zero
=========================== short test summary info ============================
FAILED test_m.py::test_f - NameError: name 'y' is not defined
"""


def test_pytest_long_and_short() -> None:
    found = reports.read("pytest", PYTEST)
    assert [(one.file, one.line, one.code) for one in found] == [
        ("src/m.py", 2, "NameError"),
        ("test_m.py", 3, "NameError"),
        ("src/m.py", 5, "ZeroDivisionError"),
        ("test_m.py", 6, "ZeroDivisionError"),
    ]
    source = Source(b"def f(x):\n    return x - y\n\ndef g():\n    return 1 / 0\n")
    assert shown(source, reports.about(found, "m.py")[0]) == "    return x - y"
    assert shown(source, reports.about(found, "/srv/src/m.py", "ZeroDivisionError")[0]) == "    return 1 / 0"
    with pytest.raises(ValueError, match=r"the report has no KeyError for m.py; it has NameError, ZeroDivisionError"):
        reports.about(found, "m.py", "KeyError")
    with pytest.raises(ValueError, match=r"says nothing about other.py; it is about src/m.py, test_m.py"):
        reports.about(found, "other.py")


def told(line: int, column: int, end: int, code: str = "name-defined", severity: str = "error") -> str:
    where = {"file": "b.py", "line": line, "column": column, "end_line": line, "end_column": end}
    return json.dumps(where | {"message": "m", "hint": None, "code": code, "severity": severity})


def test_mypy_counts_from_0_and_is_not_believed_beyond_ascii() -> None:
    # What mypy 2.4.1 prints for these lines. The second span should be 13 to 21.
    source = Source('def f() -> None:\n    x = "u", bad_name\n    y = "é", bad_name\n'.encode())
    text = "\n".join([told(2, 13, 21), told(2, 0, 1, severity="note"), told(3, 12, 20), "Found 2 errors"])
    found = reports.read("mypy", text)
    assert [shown(source, one) for one in found] == ["bad_name", '    y = "é", bad_name']


@pytest.mark.parametrize(
    ("tool", "text", "message"),
    [
        ("ruff", "All checks passed!", "the ruff report is not what"),
        ("ruff", "[{}]", "the ruff report is not what"),
        ("mypy", "Success: no issues found", "the mypy report is not what"),
        ("mypy", '{"file": 1}', "the mypy report is not what"),
        ("flake8", "", "from-diagnostic must be one of ruff, mypy, pytest, traceback, got 'flake8'"),
    ],
)
def test_what_is_no_report(tool: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reports.read(tool, text)


def test_nothing_said_is_nothing_found() -> None:
    assert reports.read("ruff", "[]") == reports.read("mypy", "") == reports.read("pytest", "1 passed") == []
    with pytest.raises(ValueError, match="it is about nothing at all"):
        reports.about([], "a.py")
    with pytest.raises(ValueError, match="the report is about line 9, and the file has 1: it is an old one"):
        reports.place(Source(b"x\n"), reports.Report("ruff", "a.py", "F821", "m", 9))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a/b.py", "b.py", True),
        ("./a/b.py", "/x/a/b.py", True),
        ("a\\b.py", "a/b.py", True),
        ("a/b.py", "c/b.py", False),
        ("ab.py", "b.py", False),
        ("", "b.py", False),
    ],
)
def test_paths_that_may_be_one_file(one: str, other: str, same: bool) -> None:
    assert reports.same_file(one, other) == reports.same_file(other, one) == same
