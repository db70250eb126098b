"""The flow with fillings written by hand: what is accepted, what is not and why, what reaches the disk."""

from __future__ import annotations

import difflib
import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.constraints.oracles import Avoids, Contains
from unmask.patching import Asked, Candidate, FileChangedError, Gap, Patched, VerifierError, Written, task_of
from unmask.patching.change import apart, unified
from unmask.patching.imports import import_place, imports_of
from unmask.patching.oracles.calls import Calls
from unmask.patching.patch import edit
from unmask.patching.plain import as_object, summary
from unmask.patching.source import BOM, Source
from unmask.types import ByteSpan, Verdict, View, Violation

CODE = """import os


def total(rows):
    result = 0
    for row in rows:
        result += rwo.value
    return result
"""


class Scripted:
    """Fillings by level, and what was asked for them."""

    def __init__(self, **texts: Sequence[str]) -> None:
        self.texts, self.gaps = texts, list[Gap]()

    def __call__(self, gap: Gap) -> tuple[Sequence[Candidate], int]:
        self.gaps.append(gap)
        return [Candidate(text, -float(number)) for number, text in enumerate(self.texts.get(gap.level, ()))], 3


def patched(text: str | bytes, fills: Scripted, path: str = "m.py", **asked: Any) -> Patched:
    data = text.encode() if isinstance(text, str) else text
    return task_of(data, path, Asked(**asked)).run(fills)


def reasons(found: Patched) -> list[tuple[str, str]]:
    return [(trial.level, trial.judgement.reason) for trial in found.trials]


def test_the_first_candidate_that_may_stand_is_taken() -> None:
    fills = Scripted(span=["rwo", "rows_", "(", "row", "rows"])
    found = patched(CODE, fills, from_diagnostic="python", code="undefined-name", candidates=5)
    assert found.accepted
    assert reasons(found) == [("span", "unchanged"), ("span", "new fault"), ("span", "new fault"), ("span", "")]
    assert found.data.decode() == CODE.replace("rwo", "row")
    assert [one.message for one in found.targets] == ["undefined name 'rwo'"]
    (gap,) = fills.gaps
    assert (gap.old, gap.count, found.forwards) == ("rwo", 5, 3)
    assert gap.prefix + gap.old + gap.suffix == CODE
    assert found.chosen is not None
    assert found.chosen.edit == 2  # "rwo" -> "row": one letter moves


def test_the_part_grows_level_by_level() -> None:
    fills = Scripted(span=["xyz"], expr=["xyz.v"], stmt=["        result += row.value"])
    found = patched(CODE, fills, from_diagnostic="python", code="undefined-name", grow="def")
    assert reasons(found)[-1] == ("stmt", "")
    assert [gap.level for gap in fills.gaps] == ["span", "expr", "stmt"]
    found = patched(CODE, Scripted(), from_diagnostic="python", code="undefined-name", grow="def", candidates=1)
    assert (found.status, found.trials, found.diff) == ("rejected", (), "")
    assert "the model gave no candidate" in summary(found)


def test_a_missing_import_is_written_at_the_top() -> None:
    code = '"""Doc."""\n\nimport os\n\nprint(os.sep, math.pi)\n'
    fills = Scripted(**{"import": ["import sys\n", "import math\n"], "span": ["os"]})
    found = patched(code, fills, symbol=None, from_diagnostic="python")
    assert reasons(found) == [("import", "not mended"), ("import", "")]
    assert fills.gaps[0].choices == ("import math\n",)
    assert found.data.decode() == code.replace("import os\n", "import os\nimport math\n")
    # Of a name that no import leads to, only other names are tried.
    fills = Scripted(span=["os"])
    found = patched(code.replace("math.pi", "maths"), fills, from_diagnostic="python", grow="expr")
    assert [gap.level for gap in fills.gaps] == ["span"]
    assert found.accepted


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("x = y\n", 0),
        ("#!/bin/x\n# a\nx = y\n", 13),
        ('"""D."""\nx = y\n', 9),
        ("import a\nfrom b import (\n  c)\nx = y\n", 30),
        ("import a", 0),
        ("import a\n", 9),
        ("x = (\n", 0),
    ],
)
def test_where_an_import_goes(code: str, place: int) -> None:
    assert import_place(Source(code.encode())) == (place, place)


@pytest.mark.parametrize(
    ("name", "line"),
    [("math", "import math"), ("List", "from typing import List"), ("deque", "from collections import deque")],
)
def test_imports_that_lead_somewhere(name: str, line: str) -> None:
    lines = imports_of(name)
    assert f"{line}\n" in lines
    for one in lines:
        spaces = dict[str, Any]()
        exec(one, spaces)
        assert name in spaces
    assert imports_of("nonesuch_name") == []


def test_what_was_wrong_before_elsewhere_does_not_matter() -> None:
    code = "import os\nx = nam\ny = nam\nz = other\n"
    found = patched(code, Scripted(span=["1"]), range="2:5-2:8")
    assert found.accepted  # one of two alike is gone; the import was unused before
    assert found.data.decode() == code.replace("nam", "1", 1)
    assert [one.message for one in found.targets] == ["undefined name 'nam'"]
    found = patched(code, Scripted(span=["other"]), range="2:5-2:8")
    assert reasons(found) == [("span", "new fault")]  # it would be the second of its kind


def test_an_invalid_file_has_to_be_valid_afterwards() -> None:
    code = "import os\ndef f(a):\n    return <FILL>\n"
    fills = Scripted(span=["a +", "b", "a"])
    found = patched(code, fills, marker="<FILL>")
    assert reasons(found) == [("span", "not mended"), ("span", "new fault"), ("span", "")]
    assert "invalid syntax" in found.targets[0].message
    # What else was wrong could not be known before: only what is in the new text counts.
    assert found.data.decode() == code.replace("<FILL>", "a")


def test_text_that_is_not_python_is_judged_by_commands_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one <X> three\n", encoding="utf-8")
    fills = Scripted(span=["2", "two"])
    found = patched("one <X> three\n", fills, "a.txt", marker="<X>", verify=("grep -q two a.txt",), root=tmp_path)
    assert reasons(found) == [("span", "not mended"), ("span", "")]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "one <X> three\n"
    assert [one.message for one in found.targets] == ["grep -q two a.txt failed"]


def test_a_command_that_cannot_be_run_is_told_at_once() -> None:
    with pytest.raises(VerifierError, match=r"no-such-command-here could not be run: .*not found"):
        patched("x = 1\n", Scripted(), lines="1", verify=("no-such-command-here",))


def test_a_test_report_needs_a_way_to_run_it() -> None:
    report = "m.py:2: in f\nE   NameError: name 'b' is not defined\n"
    code = "def f(a):\n    return b\n"
    asked: dict[str, Any] = {"from_diagnostic": "pytest", "report": report}
    with pytest.raises(ValueError, match="from-diagnostic pytest needs verify"):
        patched(code, Scripted(), **asked)
    with pytest.raises(ValueError, match=r"the fault is not there: true succeeds on m.py as it is"):
        patched(code, Scripted(), **asked, verify=("true",))
    check = "python -c 'import m; assert m.f(1) == 2'"
    fills = Scripted(stmt=[], span=["    return a", "    return a + 1"])
    found = patched(code, fills, **asked, verify=(check,))
    assert reasons(found) == [("span", "not mended"), ("span", "")]
    assert found.data.decode() == code.replace("b", "a + 1")


class Asking:
    """An oracle that fails, or does not know."""

    name, partial = "asking", False

    def __init__(self, *, wrong: bool = False, when: str = "") -> None:
        self.wrong, self.when = wrong, when

    def check(self, view: View) -> Verdict:
        if self.when in view.text:
            if self.wrong:
                raise RuntimeError("out of order")
            return Verdict("unknown", "no idea")
        return Verdict("satisfied")


@pytest.mark.parametrize(("wrong", "detail"), [(True, "asking failed: RuntimeError: out of order"), (False, "no idea")])
def test_unknown_is_never_good_enough(wrong: bool, detail: str) -> None:
    found = patched("x = 1\n", Scripted(span=["x = 2"]), lines="1", oracles=(Asking(wrong=wrong, when="2"),))
    assert reasons(found) == [("span", "unknown")]
    assert found.trials[0].judgement.detail == detail
    assert "nothing acceptable" in summary(found)


def test_an_oracle_that_does_not_know_the_file_is_told_at_once() -> None:
    with pytest.raises(VerifierError, match="no idea"):
        patched("x = 1\n", Scripted(span=["x = 2"]), lines="1", oracles=(Asking(when="x"),))


def test_two_oracles_of_one_kind_are_two() -> None:
    oracles = Calls(must_not=("print",)), Calls(must_not=("open",))
    code = "def f():\n    print(open('x'))\n"
    found = patched(code, Scripted(span=["    print(1)", "    open('x')", "    pass"]), lines="2", oracles=oracles)
    assert reasons(found) == [("span", "not mended"), ("span", "not mended"), ("span", "")]
    assert len(found.targets) == 2
    kept = patched(code, Scripted(span=["    print(2)"]), lines="2", oracles=oracles[1:])
    assert kept.accepted


def test_a_failed_test_may_want_an_import() -> None:
    report = "m.py:2: NameError\nE   NameError: name 'math' is not defined\n"
    code = "def f(a):\n    return math.floor(a)\n"
    check = "python -c 'import m; assert m.f(1.5) == 1'"
    fills = Scripted(**{"import": ["import math\n"]})
    found = patched(code, fills, from_diagnostic="pytest", report=report, verify=(check,))
    assert found.data.decode() == "import math\n" + code


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "say where to patch, once: by lines, range, symbol, marker or from-diagnostic; got none"),
        ({"lines": "1", "marker": "x"}, "got lines, marker"),
        ({"from_diagnostic": "flake8"}, "from-diagnostic must be one of python, ruff, mypy, pytest, traceback"),
        ({"lines": "1", "report": "x"}, "belong to from-diagnostic"),
        ({"from_diagnostic": "python", "report": "x"}, "takes no report"),
        (
            {"from_diagnostic": "python", "code": "undefined-name"},
            "the fault is not there: python finds nothing in m.py",
        ),
        ({"lines": "1", "candidates": 0}, "candidates must be between 1 and 64, got 0"),
        ({"lines": "1", "verify": (" ",)}, "a command must not be empty"),
        ({"lines": "1", "grow": "file"}, "grow must be one of"),
    ],
)
def test_mistakes(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patched("x = 1\n", Scripted(), **asked)


def test_a_report_of_ruff_is_looked_for_in_the_file_as_it_is(tmp_path: Path) -> None:
    from unmask.patching.oracles.copies import tool

    program = tool("ruff")
    assert program is not None
    (tmp_path / "m.py").write_text("x = None\nif x == None:\n    print(nam)\n", encoding="utf-8")
    call = [program, "check", "--isolated", "--select", "E711,F", "--output-format", "json", "m.py"]
    report = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    code = "\n\n" + (tmp_path / "m.py").read_text(encoding="utf-8")  # moved meanwhile
    asked: dict[str, Any] = {"from_diagnostic": "ruff", "report": report}
    found = patched(code, Scripted(expr=["x is None"]), **asked, code="E711")
    assert found.data.decode() == code.replace("== None", "is None")
    assert found.targets[0].code == "E711"
    with pytest.raises(ValueError, match="the fault is not there: ruff finds F821"):
        patched(code.replace("x == None", "x"), Scripted(), **asked, code="E711")


def test_as_plain_data() -> None:
    found = patched(BOM + CODE.encode(), Scripted(span=["row"]), from_diagnostic="python", code="undefined-name")
    plain = as_object(found)
    assert plain["status"] == "accepted"
    assert plain["span"]["start"] == {"line": 7, "column": 19}
    assert plain["span"]["bytes"] == [CODE.index("rwo") + 3, CODE.index("rwo") + 6]
    assert [one["message"] for one in plain["diagnostics"]["fixed"]] == ["undefined name 'rwo'"]
    assert plain["new_text"] == "\ufeff" + CODE.replace("rwo", "row")
    assert plain["candidates"][0]["accepted"]
    assert "mends names: undefined name 'rwo'" in summary(found)


ROWS = st.lists(st.text(alphabet="ab é漢\t\x0c\x85\u2028", max_size=4), max_size=6)


@given(ROWS, ROWS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans(), st.booleans())
def test_diffs_are_what_git_applies(
    old: list[str], new: list[str], end: str, old_ends: bool, new_ends: bool, marked: bool
) -> None:
    before, after = (
        "\ufeff" * marked + end.join(rows) + end * ends for rows, ends in ((old, old_ends), (new, new_ends))
    )
    assert applied(before, unified(before, after, "f")) == after


def applied(text: str, diff: str) -> str:
    """An independent reader of unified diffs."""
    rows = text.split("\n")
    lines = [row + "\n" for row in rows[:-1]] + ([rows[-1]] if rows[-1] else [])
    done, at = list[str](), 0
    body = diff.split("\n")[2:-1] if diff else []
    for number, row in enumerate(body):
        last = number + 1 < len(body) and body[number + 1].startswith("\\")
        if row.startswith("@@"):
            first = int(row.split()[1].split(",")[0][1:])
            count = row.split()[1].split(",")[1:]
            start = first if count == ["0"] else first - 1
            done += lines[at:start]
            at = start
        elif row[:1] in (" ", "-"):
            assert lines[at] == row[1:] + "\n" * (not last)
            done += [lines[at]] * (row[0] == " ")
            at += 1
        elif row[:1] == "+":
            done.append(row[1:] + "\n" * (not last))
    return "".join([*done, *lines[at:]])


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "END"])
def test_git_itself_applies_them(tmp_path: Path, end: str, last: str) -> None:
    code = BOM + (CODE.replace("\n", end).removesuffix(end) + last.replace("END", end)).encode()
    found = patched(code, Scripted(span=["row"]), from_diagnostic="python", code="undefined-name")
    (tmp_path / "m.py").write_bytes(code)
    call = ["git", "apply", "--whitespace=nowarn", "-"]
    subprocess.run(call, input=found.diff.encode(), cwd=tmp_path, check=True, env={**os.environ, "GIT_DIR": "none"})
    assert (tmp_path / "m.py").read_bytes() == found.data == code.replace(b"rwo", b"row")


def test_what_reaches_the_disk(tmp_path: Path) -> None:
    code = CODE.replace("\n", "\r\n").encode()
    file, link = tmp_path / "m.py", tmp_path / "link.py"
    file.write_bytes(code)
    file.chmod(0o751)
    link.symlink_to(file)
    found = patched(code, Scripted(span=["row"]), from_diagnostic="python", code="undefined-name")
    found.write(link)
    assert link.is_symlink()
    assert file.read_bytes() == code.replace(b"rwo", b"row")
    assert stat.S_IMODE(file.stat().st_mode) == 0o751
    with pytest.raises(FileChangedError, match="has changed since it was read: nothing is written"):
        found.write(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.py", "m.py"]
    rejected = patched(code, Scripted(), from_diagnostic="python", code="undefined-name")
    assert rejected.data == code
    with pytest.raises(ValueError, match="there is nothing to write"):
        rejected.write(file)


def test_a_write_that_fails_leaves_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.py"
    file.write_text(CODE, encoding="utf-8")
    found = patched(CODE, Scripted(span=["row"]), from_diagnostic="python", code="undefined-name")

    def full(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no room"):
            found.write(file, backup=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.py"]
    assert found.write(file, backup=True) == tmp_path / "m.py.orig"
    assert (tmp_path / "m.py.orig").read_text(encoding="utf-8") == CODE
    with pytest.raises(FileChangedError):
        found.write(file, backup=True)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, modes, sync = tmp_path / "m.py", list[int](), os.fsync
    file.write_text(CODE, encoding="utf-8")
    file.chmod(0o600)
    found = patched(CODE, Scripted(span=["row"]), from_diagnostic="python", code="undefined-name")

    def full(number: int) -> None:
        if (copy := tmp_path / "m.py.orig").exists():
            modes.append(stat.S_IMODE(copy.stat().st_mode))
            raise OSError("no room")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        found.write(file, backup=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.py"]
    assert modes == [0o600], "nobody could read it meanwhile who may not read the file"


def test_only_what_differs_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, matcher = list[int](), difflib.SequenceMatcher.__init__

    def watched(self: Any, isjunk: Any = None, a: Any = "", b: Any = "", autojunk: bool = True) -> None:
        compared.append(len(a) + len(b))
        matcher(self, isjunk, a, b, autojunk)

    monkeypatch.setattr(difflib.SequenceMatcher, "__init__", watched)
    rows = [f"row {number}\n" for number in range(500)]
    before, after = "".join(rows), "".join([*rows[:300], "new\n", *rows[301:]])
    assert applied(before, unified(before, after, "f")) == after
    assert edit(before, after) == len("row 300") + len("new") - 2  # both have one "w"
    assert max(compared) <= 14


@given(st.text(alphabet="ab", max_size=8), st.text(alphabet="ab", max_size=8), st.integers(0, 3))
def test_what_lies_between_equal_ends(old: str, new: str, around: int) -> None:
    first, one, other = apart(old, new, around)
    end = len(old) - first - len(one)
    assert old[:first] == new[:first]
    assert old[len(old) - end :] == new[len(new) - end :]
    assert (old[:first] + other + old[len(old) - end :], first >= 0, end >= 0) == (new, True, True)
    if around == 0 and one and other:
        assert (one[0] != other[0], one[-1] != other[-1]) == (True, True)


def test_what_is_written_is_not_excused_by_what_was_there() -> None:
    code = "# TODO old\nx = 1\ny = 2\n"
    oracles = Written(Avoids(("TODO",))), Written(Contains("y"))
    fills = Scripted(span=["x = 3  # TODO new", "x = 3", "x = 3  # y"])
    found = patched(code, fills, lines="2", oracles=oracles)
    assert reasons(found) == [("span", "new fault"), ("span", "new fault"), ("span", "")]
    assert found.targets == (), "old text is not judged"
    assert patched(code, Scripted(span=["# TODO y"]), lines="1", oracles=oracles[1:]).accepted


@given(st.text(alphabet="ab", max_size=6), st.text(alphabet="ab", max_size=6))
def test_the_size_of_an_edit(old: str, new: str) -> None:
    assert (edit(old, new) == 0) == (old == new)
    assert abs(len(old) - len(new)) <= edit(old, new) <= len(old) + len(new)


def test_blame_of_oracles_is_moved_past_the_mark() -> None:
    class Blaming(Asking):
        def check(self, view: View) -> Verdict:
            start = view.text.encode().index(b"rwo")
            spans = ByteSpan(start, start + 3), ByteSpan(0, 1)
            return Verdict("violated", "", (Violation("m", spans[0], "c", self.name, (spans[1],)),))

    task = task_of(BOM + CODE.encode(), "m.py", Asked(lines="7", oracles=(Blaming(),)))
    (fault,) = (one for one in task.before.faults if one.source == "asking")
    assert task.source.inside(fault.span) == "rwo"
    assert fault.blame == (ByteSpan(3, 4),)
