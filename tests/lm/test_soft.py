"""What declared soft constraints find fault with, and where: plain texts, no model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.constraints.oracles import ConstraintOracle, Length
from unmask.lm.soft import FIELDS, constraint_of, is_oracle
from unmask.types import ByteSpan, Oracle, View

FENCED = "Look:\n\n```python\ndef f(:\n    pass\n```\n\nand\n\n~~~\nx = 1\n~~~\n"


def oracle(spec: dict[str, Any]) -> Oracle:
    found = constraint_of(spec)
    assert is_oracle(found)
    return found


def blamed(spec: dict[str, Any], view: View) -> list[str]:
    said = oracle(spec).check(view)
    assert (said.status == "violated") == bool(said.violations)
    data = view.text.encode()
    return [data[fault.span.start : fault.span.end].decode() for fault in said.violations]


@pytest.mark.parametrize(
    ("spec", "text", "found"),
    [
        ({"type": "contains", "text": "é"}, "an é", []),
        ({"type": "contains", "text": "é"}, "an e", [""]),
        ({"type": "not_contains", "texts": ["TODO", "é"]}, "é TODO é", ["é", "TODO", "é"]),
        ({"type": "not_contains", "texts": ["cat"], "words": True}, "a cat, concatenated", ["cat"]),
        ({"type": "length", "max_characters": 3}, "éééé", ["é"]),
        ({"type": "length", "max_words": 2}, "one two three four", ["three four"]),
        ({"type": "length", "max_lines": 1}, "one\ntwo\n", ["two\n"]),
        ({"type": "length", "max_lines": 2}, "one\ntwo\n", []),
        ({"type": "length", "min_characters": 4}, "abc", [""]),
        ({"type": "python_syntax"}, "x = (1", ["("]),
        ({"type": "python_names"}, "print(xy)\n", ["xy"]),
        ({"type": "python_imports"}, "import no_such_module_at_all\n", ["no_such_module_at_all"]),
        ({"type": "calls", "must_not": ["eval"]}, "eval('1')\n", ["eval('1')"]),
        ({"type": "python_syntax", "where": "code_blocks"}, FENCED, [":"]),
        ({"type": "python_syntax", "where": "code_blocks"}, "no code", [""]),
        ({"type": "python_syntax", "where": "code_blocks"}, FENCED.replace("(:", "():"), []),
    ],
)
def test_faults_are_where_they_are(spec: dict[str, Any], text: str, found: list[str]) -> None:
    assert blamed(spec, View.of(text)) == found


def test_what_stands_around_the_written_part_is_not_its_fault() -> None:
    text = "TODO: write\nwritten TO" + "DO after TODO"
    view = View(text, ByteSpan(20, 22), complete=False, sent=8)
    assert view.written == ByteSpan(12, 22)
    assert blamed({"type": "not_contains", "texts": ["TODO"]}, view) == ["TODO"], "the one that it begins"
    assert blamed({"type": "contains", "text": "TODO"}, view) == [], "it may still come"
    assert blamed({"type": "length", "max_characters": 8}, view) == ["TO"]


def test_code_that_is_being_written_is_judged_as_far_as_it_goes() -> None:
    spec = {"type": "python_syntax", "where": "code_blocks"}
    start = len("```python\n")
    for code, found in (("def f(x", []), ("def f(:\n    pass", [":"]), ("x = 1\n```\n", [])):
        text = "```python\n" + code
        size = len(text.encode())
        view = View(text, ByteSpan(0, size), complete=False)
        assert blamed(spec, view) == found
        assert all(fault.span.start >= start for fault in oracle(spec).check(view).violations)


@given(st.text(max_size=30), st.data())
def test_functions_over_characters_blame_their_own_bytes(text: str, data: st.DataObject) -> None:
    fine = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    said = ConstraintOracle(lambda _: fine).check(View.of(text))
    wrong = {
        byte
        for i, good in enumerate(fine)
        if not good
        for byte in range(len(text[:i].encode()), len(text[: i + 1].encode()))
    }
    assert {byte for fault in said.violations for byte in range(fault.span.start, fault.span.end)} == wrong
    assert (said.status == "satisfied") == all(fine)


@given(st.text(max_size=40), st.integers(1, 12))
def test_a_text_cut_where_it_is_too_long_is_not(text: str, most: int) -> None:
    for limit in (Length(max_characters=most), Length(max_words=most), Length(max_lines=most)):
        said = limit.check(View.of(text))
        if said.violations:
            start, stop = said.violations[0].span
            assert 0 < start < stop == len(text.encode())
            assert limit.check(View.of(text.encode()[:start].decode())).status == "satisfied"


def test_every_type_can_be_asked_for() -> None:
    needs: dict[str, Any] = {"contains": {"text": "a"}, "not_contains": {"texts": ["a"]}, "length": {"max_lines": 1}}
    needs |= {"calls": {"must": ["f"]}, "oracle": {"name": "x"}}
    for kind in FIELDS:
        assert constraint_of({"type": kind, **needs.get(kind, {})})
