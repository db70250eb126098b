"""The engine against brute force: languages, what may come next, and what it takes to end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.reference import sources, spellings, texts, vocabularies
from unmask.constraints.columns import Columns
from unmask.constraints.expr import Alt, Bytes, ConstraintError, Ref, Repeat, Seq, Source, utf8
from unmask.constraints.grammar import FAR, compile_source
from unmask.constraints.masks import Masks
from unmask.constraints.vocabulary import Vocabulary

LONGEST = 6


def engine(source: Source, vocabulary: Vocabulary) -> Masks | None:
    try:
        return Masks(Columns(compile_source(source), vocabulary))
    except ConstraintError as error:
        assert "empty" in str(error)  # noqa: PT017  (the only reason to refuse something this small)
        return None


@settings(max_examples=100, deadline=None)
@given(sources, vocabularies)
def test_texts_and_beginnings_are_those_of_the_language(source: Source, vocabulary: Vocabulary) -> None:
    known, masks = texts(source, LONGEST), engine(source, vocabulary)
    if masks is None:
        assert not known
        return
    columns = masks.columns
    stack = [(b"", columns.first)]
    found = set[bytes]()
    while stack:
        text, column = stack.pop()
        if column.accepting:
            found.add(text)
        ending = columns.ending(column)
        assert ending is not None
        after = columns.walk(column, ending)
        assert after is not None
        assert after.accepting
        if len(text) + len(ending) <= LONGEST:
            assert text + ending in known
            if vocabulary.longest == 1:
                assert not any(other.startswith(text) and len(other) < len(text + ending) for other in known), (
                    "shortest"
                )
        if len(text) < LONGEST:
            for byte in b"ab\xc3\xa9":
                onward = columns.step(column, byte)
                if onward is None:
                    assert not any(other.startswith(text + bytes((byte,))) for other in known)
                else:
                    stack.append((text + bytes((byte,)), onward))
    assert found == known


@settings(max_examples=100, deadline=None)
@given(sources, vocabularies, st.data())
def test_allowed_tokens(source: Source, vocabulary: Vocabulary, data: st.DataObject) -> None:
    """Exactly the tokens that the language lets follow, and none that cannot be ended in what is promised."""
    masks = engine(source, vocabulary)
    if masks is None:
        return
    columns, column = masks.columns, masks.columns.first
    for _ in range(5):
        costs = masks.costs(column)
        for id, word in enumerate(vocabulary.tokens):
            after = columns.walk(column, word) if word else None
            assert (after is None) == (costs[id] >= FAR)
            if after is not None:
                assert after.cost == costs[id]
                ending = columns.ending(after)
                assert ending is not None
                least = spellings(vocabulary, ending)
                assert least is not None
                assert least <= after.cost
        if column.cost > 0:
            assert costs.min() < column.cost, "some token leads towards the end"
        ids = [id for id in range(vocabulary.size) if costs[id] < FAR]
        for budget in (1, column.cost, column.cost + 2, 1000):
            bits = masks.allowed(column, budget)
            assert [id for id in range(vocabulary.size) if bits[id >> 3] >> (id & 7) & 1] == [
                id for id in ids if costs[id] < budget
            ]
        if not ids:
            break
        onward = columns.walk(column, vocabulary.tokens[data.draw(st.sampled_from(ids))])
        assert onward is not None
        column = onward


@given(st.integers(0, 0x10FFFF), st.integers(0, 3000))
def test_utf8_of_a_range(low: int, width: int) -> None:
    high = min(low + width, 0x10FFFF)
    if low <= 0xDFFF and high >= 0xD800:
        return
    sequences = utf8(low, high)

    def reads(data: bytes) -> int:
        return sum(
            len(data) == len(part) and all(a <= byte <= b for byte, (a, b) in zip(data, part, strict=True))
            for part in sequences
        )

    assert all(reads(chr(point).encode()) == 1 for point in {low, high, (low + high) // 2})
    outside = [point for point in (low - 1, high + 1) if 0 <= point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF]
    assert not any(reads(chr(point).encode()) for point in outside)


LETTER = Vocabulary((b"a", b"b", b"ab", b"bb"))


@pytest.mark.parametrize(
    "rules",
    [
        {"S": Alt((Seq((Ref("S"), Bytes(b"b"))), Bytes(b"a")))},
        {"S": Alt((Seq((Ref("A"), Bytes(b"b"))), Bytes(b"a"))), "A": Alt((Seq((Ref("S"), Bytes(b"a"))), Bytes(b"b")))},
        {"S": Alt((Seq((Ref("S"), Ref("S"))), Bytes(b"a"), Bytes(b"")))},
        {"S": Seq((Repeat(Ref("S"), 0, 1), Ref("A"))), "A": Alt((Ref("S"), Bytes(b"ab")))},
        {"S": Alt((Ref("S"), Bytes(b"b")))},
    ],
)
def test_left_recursion(rules: dict) -> None:
    source = Source(rules, "S")
    columns = Columns(compile_source(source), LETTER)
    known = texts(source, 7)
    for number in range(2**7):
        for size in range(8):
            text = bytes(b"ab"[number >> i & 1] for i in range(size))
            column = columns.walk(columns.first, text)
            assert (column is not None and column.accepting) == (text in known)
