"""Tokenizers on small vocabularies: spelling, special tokens, single tokens, threads."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers

from tests.text.vocabularies import BYTES, MERGES, PIECES, SPECIAL, byte_level_core, entries, entry_id
from unmask.text import Tokenizer


@given(st.lists(st.integers(0, BYTES.vocab_size + 3)), st.booleans())
def test_byte_level_decode_is_the_librarys(ids: list[int], skip: bool) -> None:
    assert BYTES.decode(ids, skip_special=skip) == BYTES.core.decode(ids, skip_special_tokens=skip)


@given(st.text(alphabet="ab s<>/é😀", max_size=20))
def test_sentencepiece_decode_is_the_librarys(text: str) -> None:
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == PIECES.core.decode(list(ids)) == text
    assert PIECES.decode(ids, continues=True) == (" " + text if text else "")


def test_broken_bytes_of_sentencepiece_spare_their_neighbours() -> None:
    euro_and_half = [entry_id(PIECES, f"<0x{byte:02X}>") for byte in b"\xe2\x82\xac\xe2"]
    assert PIECES.decode(euro_and_half) == "€\ufffd"


# SentencePiece writes a space as "▁", so it cannot keep a "▁" of the text.
@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=30))
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    spelled = b"".join(tokenizer.token_bytes(id) for id in ids).decode()
    assert spelled == (" " + text if text and tokenizer is PIECES else text)


def test_special_tokens_are_read_only_when_asked() -> None:
    text = "the <|mask|> é<|im_end|>"
    plain, parsed = BYTES.encode(text), BYTES.encode(text, special=True)
    assert not BYTES.special_ids.intersection(plain)
    assert BYTES.decode(plain) == text
    assert [BYTES.token_text(id) for id in parsed] == ["the", " ", "<|mask|>", " ", "é", "<|im_end|>"]
    assert BYTES.decode(parsed) == "the  é"
    assert BYTES.decode(parsed, skip_special=False) == text
    assert entries(BYTES, "<think>") == ["<think>"], "added but not special: always one token"


def test_control_tokens_of_sentencepiece_cannot_be_merged_from_text() -> None:
    assert entries(PIECES, "<s>") == ["▁", "<", "s>"]
    assert entries(PIECES, "<s>ab", special=True) == ["<s>", "▁a", "b"]


def test_text_a_vocabulary_cannot_keep_apart_from_a_special_token_is_refused() -> None:
    core = Core(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("▁", -2.0), ("a", -3.0)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens(["<unk>", "<s>"])
    tokenizer = Tokenizer(core)
    assert tokenizer.decode(tokenizer.encode("a a")) == "a a"
    with pytest.raises(ValueError, match=r"keep apart from text: \['<s>'\]$"):
        tokenizer.encode("a<s>")


class Hesitant:
    """A core that pauses after its switch is set, so that another thread could set it back."""

    def __init__(self, core: Core) -> None:
        self.__dict__["core"] = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["core"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__dict__["core"], name, value)
        time.sleep(0.001)


def test_switching_special_tokens_is_safe_between_threads() -> None:
    tokenizer = Tokenizer(cast(Core, Hesitant(byte_level_core())))
    flags = [n % 2 == 0 for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda special: tokenizer.encode("<|mask|>", special=special), flags))
    assert results == [BYTES.encode("<|mask|>", special=special) for special in flags]


def test_lone_surrogates_are_refused_in_one_line() -> None:
    for call in (BYTES.encode, BYTES.token_id):
        with pytest.raises(ValueError, match=r"^text has a lone surrogate U\+D83D at index 2: [^\n]+$"):
            call("ab\ud83d")


def test_single_tokens() -> None:
    the, mask = BYTES.token_id(" the"), BYTES.token_id("<|mask|>")
    assert the is not None
    assert mask is not None
    assert (BYTES.token_bytes(the), BYTES.token_text(the)) == (b" the", " the")
    assert (BYTES.token_bytes(mask), mask in BYTES.special_ids) == (b"<|mask|>", True)
    half = entry_id(BYTES, "ðŁ")
    assert (BYTES.token_bytes(half), BYTES.token_text(half)) == (b"\xf0\x9f", "\ufffd")
    assert BYTES.token_id("no such token") is None
    assert BYTES.token_bytes(BYTES.vocab_size + 5) == b"", "models pad their vocabulary"
    with pytest.raises(ValueError, match="at least 0, got -1"):
        BYTES.token_bytes(-1)
    assert PIECES.token_bytes(entry_id(PIECES, "<0xE2>")) == b"\xe2"
    assert PIECES.token_id(" a") == entry_id(PIECES, "▁a")
    assert BYTES.vocab_size == 256 + len(MERGES) + len(SPECIAL) + 1


def test_unsupported_decoders_are_refused() -> None:
    core = byte_level_core()
    core.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="decoder WordPiece is not supported"):
        Tokenizer(core)
