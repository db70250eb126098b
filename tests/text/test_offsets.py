"""Tokens and bytes of a text: every byte is some token's, whatever characters the tokens cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.vocabularies import BYTES, PIECES
from unmask.text import Tokenizer
from unmask.text.offsets import lexeme, located
from unmask.types import ByteSpan

vocabularies = pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])


@vocabularies
@given(data=st.data())
def test_spans_cover_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    found = located(tokenizer, ids)
    assert found.text == tokenizer.decode(ids)
    size = len(found.text.encode())
    assert len(found.spans) == len(ids)
    covered = {byte for span in found.spans for byte in range(span.start, span.end)}
    assert covered == set(range(size))
    starts = [span.start for span in found.spans]
    assert starts == sorted(starts)
    for i, id in enumerate(ids):
        assert (found.spans[i].start < found.spans[i].end) or not tokenizer.visible_bytes(id).strip(b" ")


@vocabularies
@given(text=st.text(max_size=20), more=st.text(max_size=5))
def test_of_whole_characters_spans_are_the_tokens_own_bytes(tokenizer: Tokenizer, text: str, more: str) -> None:
    ids = tokenizer.encode(text)
    found = located(tokenizer, ids)
    whole = found.text.encode()
    for i, span in enumerate(found.spans):
        alone = tokenizer.visible_bytes(ids[i])
        if i and len(alone.decode("utf-8", "replace").encode()) == len(alone):
            assert whole[span.start : span.end] == alone
        for byte in range(span.start, span.end):
            assert i in found.touching(ByteSpan(byte, byte + 1))
    assert located(tokenizer, ids, final=False).text == found.text, "whole characters are never held back"


def test_a_character_of_two_tokens_is_both_their_own() -> None:
    first, second = "é".encode()
    ids = [*BYTES.encode("a"), *(bytes_id(byte) for byte in (first, second)), *BYTES.encode("b")]
    found = located(BYTES, ids)
    assert found.text == "aéb"
    assert found.spans == (ByteSpan(0, 1), ByteSpan(1, 3), ByteSpan(1, 3), ByteSpan(3, 4))
    assert found.touching(ByteSpan(2, 3)) == (1, 2)
    assert located(BYTES, ids[:2], final=False).text == "a"
    assert located(BYTES, ids[:2]).text == "a\N{REPLACEMENT CHARACTER}"


def bytes_id(byte: int) -> int:
    return next(id for id in range(BYTES.vocab_size) if BYTES.visible_bytes(id) == bytes([byte]))


def test_a_place_belongs_to_the_token_there_or_to_what_ends_the_text() -> None:
    (end,) = BYTES.encode("<|im_end|>", special=True)
    found = located(BYTES, (*BYTES.encode("ab"), end))
    assert [found.at(place) for place in (0, 1, 2, 3)] == [0, 1, 2, None]
    assert located(BYTES, BYTES.encode("ab")).at(2) is None


@pytest.mark.parametrize(
    ("span", "whole"), [((4, 6), (3, 7)), ((3, 7), (3, 7)), ((0, 1), (0, 2)), ((2, 3), (2, 3)), ((5, 5), (5, 5))]
)
def test_a_word_is_taken_whole(span: tuple[int, int], whole: tuple[int, int]) -> None:
    assert lexeme(b"ab foo_", ByteSpan(*span)) == ByteSpan(*whole)
