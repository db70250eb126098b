"""Selectors: the bytes they give are the very text that was meant, whatever letters, line ends and marks are around."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.patching import select
from unmask.patching.source import BOM, Source, holds, touches
from unmask.patching.tree import LEVELS, definitions, grown, parsed, span_of
from unmask.types import ByteSpan

LETTERS = st.text(alphabet="aé漢😀\t\x0c\u2028\x85 #'", max_size=8)
TEXTS = st.lists(st.tuples(LETTERS, st.sampled_from(["\n", "\r\n", "\r"])), min_size=1, max_size=6)
NAMES = st.sampled_from(["a", "é", "xyz", "λ", "名"])


def made(rows: list[tuple[str, str]], last: str, marked: bool) -> Source:
    text = "".join(row + end for row, end in rows) + last
    return Source.of(BOM * marked + text.encode())


@given(TEXTS, LETTERS, st.booleans(), st.data())
def test_lines_and_columns(rows: list[tuple[str, str]], last: str, marked: bool, data: st.DataObject) -> None:
    source = made(rows, last, marked)
    # An independent way to lines: only CR, LF and CRLF end one.
    text = source.data.decode().removeprefix("\ufeff")
    expected = re.split(r"\r\n|\r|\n", text)
    expected = expected[:-1] if len(expected) > 1 and not expected[-1] else expected
    assert [source.data[row.start : row.end].decode() for row in source.rows] == expected
    first = data.draw(st.integers(1, len(expected)))
    second = data.draw(st.integers(first, len(expected)))
    span = select.lines(source, f"{first}-{second}")
    assert plain(source.data[span.start : span.end]) == "\n".join(expected[first - 1 : second])
    columns = [data.draw(st.integers(1, len(expected[line - 1]) + 1)) for line in (first, second)]
    if (first, columns[0]) <= (second, columns[1]):
        span = select.ranged(source, f"{first}:{columns[0]}-{second}:{columns[1]}")
        whole = "\n".join(expected)
        starts = [sum(len(row) + 1 for row in expected[: line - 1]) for line in (first, second)]
        begin, end = starts[0] + columns[0] - 1, starts[1] + columns[1] - 1
        assert plain(source.data[span.start : span.end]) == whole[begin:end]
        before, after = source.seen(span)
        assert (before + whole[begin:end] + after).rstrip("\n") == whole.rstrip("\n")
        assert "\ufeff" not in before


def plain(data: bytes) -> str:
    return re.sub(r"\r\n|\r", "\n", data.decode())


@given(TEXTS, LETTERS, st.booleans(), st.data())
def test_a_part_put_back_changes_nothing(
    rows: list[tuple[str, str]], last: str, marked: bool, data: st.DataObject
) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    source = made([(row, end) for row, _ in rows], last, marked)
    span = select.lines(source, str(data.draw(st.integers(1, len(source.rows)))))
    assert source.spliced(span, source.inside(span)) == source
    assert source.newline == end
    other = source.spliced(span, "one\ntwo")
    assert other.data == source.data[: span.start] + f"one{end}two".encode() + source.data[span.end :]


@given(st.booleans(), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["    ", "\t"]), NAMES, NAMES, st.booleans())
def test_symbols(marked: bool, end: str, tab: str, outer: str, inner: str, decorated: bool) -> None:
    sign = [f"{tab}@wrap({{'é': 1}}['é'],", f"{tab}      2)  # @"] if decorated else []
    header = f"def {inner}(self, x: int = {{1: 2}}[1], *, y='漢:') -> 'a:b'"
    body = [f"{tab * 2}if x:  # : é", f"{tab * 3}return '名', y"]
    rows = [f"class {outer}:", f"{tab}é = '漢'", "", *sign, f"{tab}{header}: # :", *body, "", "last = 1", ""]
    source = Source.of(BOM * marked + end.join(rows).encode())

    def found(what: str) -> str:
        span = select.symbol(source, f"{outer}.{inner}{what}")
        return source.inside(span)

    assert found(":signature") == header
    assert found(":body") == "\n".join(body).lstrip()
    assert found("") == "\n".join([*sign, f"{tab}{header}: # :", *body]).lstrip()
    whole = source.inside(select.symbol(source, outer))
    assert whole == "\n".join(rows[: rows.index("last = 1") - 1])


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("f:signature", "async def f[T: int](a: T)"),
        ("f:body", "return a"),
        ("C:signature", "class C(dict[str, int], metaclass=type)"),
        ("C:body", "x: int = 1; y = 2"),
        ("g:signature", "def g(a=lambda: 1) -> (lambda: 2)"),
        ("h", "@(\n  f)\n@ g\ndef h(): pass"),
        ("deep.inner", "def inner():\n      pass"),
    ],
)
def test_odd_headers(wanted: str, text: str) -> None:
    code = (
        "async def f[T: int](a: T): return a\n"
        "class C(dict[str, int], metaclass=type): x: int = 1; y = 2\n"
        "def g(a=lambda: 1) -> (lambda: 2): pass\n"
        "@(\n  f)\n@ g\ndef h(): pass\n"
        "def deep():\n  try:\n    def inner():\n      pass\n  except: pass\n"
    )
    if parsed(Source(code.encode())) is None:  # type parameters came with Python 3.12
        code, text = code.replace("[T: int]", ""), text.replace("[T: int]", "")
    source = Source.of(code.encode())
    assert source.inside(select.symbol(source, wanted)) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: select.lines(s, "0-1"), "lines 0-1: the file has lines 1 to 4"),
        (lambda s: select.lines(s, "2-9"), "the file has lines 1 to 4"),
        (lambda s: select.lines(s, "a"), "lines must be like 12 or 12-15, got 'a'"),
        (lambda s: select.ranged(s, "1:1-9:1"), "range 1:1-9:1: line 9: the file has lines 1 to 4"),
        (lambda s: select.ranged(s, "1:1-1:99"), "line 1 has columns 1 to 9, not 99"),
        (lambda s: select.ranged(s, "1:4-1:2"), "ends before it begins"),
        (lambda s: select.ranged(s, "1-2"), "range must be like 12:5-12:20"),
        (lambda s: select.symbol(s, "g"), "symbol g is not defined in the file; defined: f"),
        (lambda s: select.symbol(s, "f"), r"symbol f is defined 2 times \(lines 1, 3\)"),
        (lambda s: select.symbol(s, "f:all"), "symbol must be like"),
        (lambda s: select.marker(s, "def"), "must stand in the file once, and stands there 2 times"),
        (lambda s: select.marker(s, ""), "marker must not be empty"),
    ],
)
def test_mistakes(call: Callable[[Source], ByteSpan], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Source.of(b"def f():\n  pass\ndef f():\n  pass\n"))


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"a\0", "not a text file"), (b"\xff", "not UTF-8"), (b"x" * (1 << 21), "more than the 1048576")],
)
def test_what_is_no_text(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source.of(data)


CODE = """import os

@cached
def total(rows, scale=1):
    '''Sum.'''
    result = 0
    for row in rows:  # each: one
        if row.value > scale:
            result += row.value * scale
        else:
            continue
    return result
"""


def test_levels_of_an_expression() -> None:
    source = Source.of(CODE.replace("\n", "\r\n").encode())
    start = source.data.index(b"value * scale")
    levels = grown(source, ByteSpan(start, start + 5), "def")
    shown = [(level, source.inside(span)) for level, span in levels]
    assert shown[:3] == [
        ("span", "value"),
        ("expr", "row.value"),
        ("stmt", "            result += row.value * scale"),
    ]
    assert [level for level, _ in shown] == ["span", "expr", "stmt", "def"]  # the block is that one statement
    assert shown[-1][1] == CODE.partition("\n\n")[2].rstrip("\n")
    header = source.data.index(b"rows:")
    levels = grown(source, ByteSpan(header, header + 4), "block")
    assert [(level, source.inside(span)) for level, span in levels][1][1] == "    for row in rows:"
    assert source.inside(levels[-1][1]).startswith("    '''Sum.'''\n    result = 0")


@given(st.integers(0, len(CODE)), st.integers(0, 12), st.sampled_from([None, *LEVELS]), st.booleans())
def test_parts_only_grow(start: int, length: int, most: str | None, broken: bool) -> None:
    source = Source.of(CODE.replace("for row", "for for row" if broken else "for row").encode())
    span = ByteSpan(start, min(start + length, len(source.data)))
    levels = grown(source, span, most)
    assert levels[0] == ("span", span)
    for (_, inner), (level, outer) in pairwise(levels):
        assert holds(outer, inner)
        assert outer != inner
        assert LEVELS.index(level) <= LEVELS.index(str(most))


def test_a_file_that_does_not_parse_grows_by_its_lines() -> None:
    source = Source.of(b"def a():\n    x = (\n    y = 2\n\ndef b():\n    return 1\n")
    levels = grown(source, ByteSpan(13, 14), "def")
    assert [(level, source.inside(span)) for level, span in levels] == [
        ("span", "x"),
        ("stmt", "    x = ("),
        ("block", "    x = (\n    y = 2"),
        ("def", "def a():\n    x = (\n    y = 2"),
    ]
    with pytest.raises(ValueError, match="grow must be one of expr, stmt, block, def"):
        grown(source, ByteSpan(0, 1), "file")


def test_definitions_are_those_of_ast() -> None:
    source = Source.of(CODE.encode())
    tree = parsed(source)
    assert tree is not None
    ((name, node),) = definitions(tree)
    span = span_of(source, node)
    assert (name, source.inside(span).splitlines()[0]) == ("total", "@cached")
    whole = ast.get_source_segment(CODE, node)
    assert whole is not None
    assert source.inside(span).endswith(whole)


@given(*[st.integers(0, 4)] * 4)
def test_touching_is_sharing_a_byte(a: int, b: int, c: int, d: int) -> None:
    one, other = ByteSpan(min(a, b), max(a, b)), ByteSpan(min(c, d), max(c, d))
    if one.start < one.end and other.start < other.end:
        assert touches(one, other) == bool(set(range(*one)) & set(range(*other)))
    assert touches(one, other) == touches(other, one)
    assert touches(one, one)
