"""Several faults of one file, with fillings written by hand: order, what is passed over, what is left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unmask.patching import Asked, Candidate, Gap, Mended, VerifierError, series_of
from unmask.patching.plain import MOST_LEFT, series_object, series_summary
from unmask.types import ByteSpan, Verdict, View, Violation

CODE = "def f(a, b):\n    x = aa + 1\n    y = bb + zz\n    return x, y\n"


class ByOld:
    """Fillings by what stands in the gap."""

    def __init__(self, **texts: str) -> None:
        self.texts, self.gaps = texts, list[Gap]()

    def __call__(self, gap: Gap) -> tuple[Sequence[Candidate], int]:
        self.gaps.append(gap)
        return [Candidate(self.texts[gap.old])] if gap.old in self.texts else [], 2


def mended(text: str, fills: ByOld, most: int, path: str = "m.py", **asked: Any) -> Mended:
    return series_of(text.encode(), path, Asked(**{"from_diagnostic": "python"} | asked), most).run(fills)


def test_one_after_the_other_in_the_order_of_the_file() -> None:
    fills = ByOld(aa="a", bb="b", zz="a")
    found = mended(CODE, fills, 8)
    assert [gap.old for gap in fills.gaps] == ["aa", "bb", "zz"]
    assert "x = a + 1\n    y = " in fills.gaps[1].prefix, "what is mended is seen by the next one"
    assert (found.status, found.mended, found.left) == ("accepted", 3, ())
    assert found.after.text == CODE.replace("aa", "a").replace("bb", "b").replace("zz", "a")
    assert found.diff.startswith("--- a/m.py\n+++ b/m.py\n")
    assert found.diff.count("\n+    ") == 2
    assert series_summary(found) == "3 of 3 faults mended (3 candidates, 6 forwards); left: nothing"


def test_at_most_so_many() -> None:
    fills = ByOld(aa="a", bb="b", zz="a")
    found = mended(CODE, fills, 2)
    assert (found.mended, len(fills.gaps)) == (2, 2)
    assert [fault.message for fault in found.left] == ["undefined name 'zz'"]


def test_what_cannot_be_mended_is_passed_over() -> None:
    fills = ByOld(aa="nonesuch", zz="b")
    found = mended(CODE, fills, 8, grow="expr")
    assert [one.accepted for one in found.patches] == [False, False, True, False], "bb again, as its line has changed"
    assert found.after.text == CODE.replace("zz", "b")
    assert [fault.message for fault in found.left] == ["undefined name 'aa'", "undefined name 'bb'"]
    none = mended(CODE, ByOld(aa="nonesuch"), 8)
    assert (none.status, none.after.text) == ("rejected", CODE)
    assert "+    x = nonesuch + 1" in none.diff, "the nearest of the first"
    with pytest.raises(ValueError, match="there is nothing to write"):
        none.write(Path("nowhere.py"))


def test_the_same_fault_in_another_line_is_another_one() -> None:
    code = "x = nam\ny = nam + 1\n"
    fills = ByOld(nam="nam")
    found = mended(code, fills, 8, grow="expr")
    assert [gap.old for gap in fills.gaps].count("nam") == 2
    assert len(found.left) == 2


def test_one_change_may_mend_two() -> None:
    found = mended(CODE, ByOld(bb="b", **{"    x = aa + 1": "    x = zz = 1"}), 8)
    assert found.mended == 2
    assert len(found.patches) == 2, "zz is there now, so it is not taken up"
    assert found.left == ()


def test_a_command_may_fail_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(CODE, encoding="utf-8")
    check = "python -c 'import m; assert m.f(1, 2) == (2, 3)'"
    asked: dict[str, Any] = {"verify": (check,), "root": tmp_path}
    found = mended(CODE, ByOld(aa="a", bb="b", zz="a"), 8, **asked)
    assert (found.mended, found.left) == (3, ())
    found = mended(CODE, ByOld(aa="a", bb="a", zz="a"), 8, **asked)
    assert (found.mended, [fault.source for fault in found.left]) == (3, [check])


def test_a_command_that_succeeds_must_go_on_to(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(CODE, encoding="utf-8")
    check = "grep -q aa m.py"
    found = mended(CODE, ByOld(aa="a", bb="b"), 2, verify=(check,), root=tmp_path, grow="expr")
    assert [one.accepted for one in found.patches] == [False, True]
    assert found.patches[0].trials[-1].judgement.reason == "new fault"


def test_as_plain_data(tmp_path: Path) -> None:
    found = mended(CODE, ByOld(aa="a"), 2)
    plain = series_object(found)
    assert (plain["status"], plain["mended"], plain["file"]) == ("accepted", 1, "m.py")
    assert plain["new_text"] == CODE.replace("aa", "a")
    assert [one["status"] for one in plain["patches"]] == ["accepted", "rejected"]
    assert all("new_text" not in one for one in plain["patches"])
    assert plain["left"][0]["span"]["start"] == {"line": 3, "column": 9}
    assert plain["timings"]["forwards"] == sum(one["timings"]["forwards"] for one in plain["patches"])
    file = tmp_path / "m.py"
    file.write_text(CODE, encoding="utf-8")
    assert found.write(file) is None
    assert file.read_text(encoding="utf-8") == plain["new_text"]


@pytest.mark.parametrize(
    ("text", "most", "asked", "message"),
    [
        (CODE, 0, {}, "max_faults must be at least 1, got 0"),
        (CODE, 2, {"from_diagnostic": None, "lines": "1"}, "needs from-diagnostic python, ruff or mypy"),
        (CODE, 2, {"from_diagnostic": "pytest", "report": "x"}, "needs from-diagnostic python, ruff or mypy"),
        ("x = 1\n", 2, {}, "the fault is not there: python finds nothing in m.py"),
    ],
)
def test_mistakes(text: str, most: int, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mended(text, ByOld(), most, **asked)


def test_graver_ones_first_then_in_the_order_of_the_file() -> None:
    """Whichever of our checks has found them."""
    code = "import nonesuch_a\nprint(nonesuch_a)\nprint(nam)\nimport nonesuch_b\nprint(nonesuch_b, oth)\n"
    fills = ByOld()
    mended(f"import os\n{code}", fills, 8, grow="expr")
    assert [gap.old for gap in fills.gaps if gap.level == "span"] == ["nonesuch_a", "nam", "nonesuch_b", "oth", "os"]


def test_the_same_fault_in_equal_lines_is_tried_in_each() -> None:
    code = "def f():\n    print(nam)\n\n\ndef g(name):\n    print(nam)\n"
    fills = ByOld(nam="name")
    found = mended(code, fills, 8, grow="expr")
    assert [one.accepted for one in found.patches] == [False, True]
    assert found.after.text == "name)".join(code.rsplit("nam)", 1))


def reported(*places: tuple[str, int, int]) -> str:
    """A report of ruff about undefined names: (name, line, column)."""
    return json.dumps(
        [
            {
                "filename": "m.py",
                "code": "F821",
                "message": f"Undefined name `{name}`",
                "location": {"row": line, "column": column},
                "end_location": {"row": line, "column": column + len(name)},
            }
            for name, line, column in places
        ]
    )


def test_only_what_the_report_names_is_mended() -> None:
    asked = {"from_diagnostic": "ruff", "grow": "expr"}
    code = "print(q)\nprint(1)\nprint(q)\n"
    fills = ByOld(q="2")
    found = mended(code, fills, 5, report=reported(("q", 1, 7)), **asked)
    assert (found.after.text, len(fills.gaps), found.left) == (code.replace("q", "2", 1), 1, ())
    last = mended(code, ByOld(q="2"), 5, report=reported(("q", 3, 7), ("q", 3, 7)), **asked)
    assert last.after.text == "2".join(code.rsplit("q", 1)), "said twice, it is one"
    # What is named is followed through changes before it that move it.
    code = "print(q)\nprint(r, q)\nprint(q)\n"
    fills = ByOld(q="2", r="1")
    fills.texts["print(q)"] = "x = 2\nprint(x)"
    report = reported(("q", 1, 7), ("r", 2, 7), ("q", 2, 10))
    found = mended(code, fills, 5, report=report, **asked | {"grow": "stmt"})
    assert found.after.text == "print(2)\nprint(1, 2)\nprint(q)\n"
    fills = ByOld(r="1", **{"print(q)": "x = 2\nprint(x)"})
    found = mended(code, fills, 5, report=reported(("q", 1, 7), ("r", 2, 7)), **asked | {"grow": "stmt"})
    assert found.after.text == "x = 2\nprint(x)\nprint(1, q)\nprint(q)\n"
    assert found.left == ()


def test_of_a_replaced_part_what_was_named_there_is_looked_for_again() -> None:
    code = "print(r, q)\nprint(q)\n"
    fills = ByOld(q="2", **{"print(r, q)": "x = 1\nprint(x, q)"})
    asked = {"from_diagnostic": "ruff", "grow": "stmt", "report": reported(("r", 1, 7), ("q", 1, 10))}
    assert mended(code, fills, 5, **asked).after.text == "x = 1\nprint(x, 2)\nprint(q)\n"


class Tiring:
    """An oracle that knows a few texts and no more."""

    name, partial = "tiring", False

    def __init__(self, left: int) -> None:
        self.left = left

    def check(self, view: View) -> Verdict:
        self.left -= 1
        return Verdict("satisfied") if self.left >= 0 else Verdict("unknown", "no room")


def test_a_verifier_that_stops_working_leaves_what_was_accepted() -> None:
    fills = ByOld(aa="a", bb="b", zz="a")
    found = mended(CODE, fills, 8, oracles=(Tiring(4),))  # before; 1st filling and file; 2nd filling
    assert (found.mended, found.stopped, found.left) == (2, "no room", ())
    assert found.after.text == CODE.replace("aa", "a").replace("bb", "b")
    plain = series_object(found)
    assert (plain["status"], plain["stopped"], plain["new_text"]) == ("accepted", "no room", found.after.text)
    assert series_summary(found).endswith("; left: not known, as no room")
    assert series_object(mended(CODE, ByOld(), 1))["stopped"] is None
    with pytest.raises(VerifierError, match="no room"):
        mended(CODE, fills, 8, oracles=(Tiring(0),))


def test_a_long_list_of_what_is_left_is_cut() -> None:
    left = tuple(Violation(f"m{number}", ByteSpan(0, 1)) for number in range(MOST_LEFT + 3))
    plain = series_object(replace(mended(CODE, ByOld(aa="a"), 1), left=left))
    assert (len(plain["left"]), plain["left_out"]) == (MOST_LEFT, 3)
    assert series_object(mended(CODE, ByOld(aa="a"), 1))["left_out"] == 0


def test_a_report_that_is_too_long_is_refused() -> None:
    long = reported(*(("q", line, 7) for line in range(1, 1002)))
    with pytest.raises(ValueError, match=r"the report has 1001 entries about m.py, more than the 1000"):
        mended("print(q)\n", ByOld(), 2, from_diagnostic="ruff", report=long)
