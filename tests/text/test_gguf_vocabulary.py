"""Tokenizers built from GGUF metadata: merges, pre-tokenizers, token types, and what is refused."""

from typing import Any

import pytest

from tests.text.vocabularies import BYTES, PIECES, entries, gpt2_fields, sentencepiece_fields
from unmask.text import Tokenizer


def test_byte_level_equals_the_same_core() -> None:
    tokenizer = Tokenizer.from_gguf(gpt2_fields(eos_token_id=264, eot_token_id=263, bos_token_id=263))
    for text in ("the the<|mask|>\n\né 😀 <think>", "<|im_start|>user\nthe<|im_end|>"):
        for special in (False, True):
            assert tokenizer.encode(text, special=special) == BYTES.encode(text, special=special)
    assert tokenizer.eos_ids == (264, 263)
    assert (tokenizer.bos_id, tokenizer.add_bos) == (263, False)
    assert tokenizer.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}


def test_scores_decide_merges_and_a_space_goes_first() -> None:
    assert entries(PIECES, "abb") == ["▁a", "bb"]
    assert entries(PIECES, " abb") == ["▁", "▁a", "bb"], "▁a has a better score than ▁▁"
    assert entries(PIECES, "") == []
    assert entries(PIECES, "aé") == ["▁a", "<0xC3>", "<0xA9>"]
    assert (PIECES.add_bos, PIECES.bos_id, PIECES.eos_ids) == (True, 1, (2,))
    bare = Tokenizer.from_gguf(sentencepiece_fields() | {"tokenizer.ggml.add_space_prefix": False})
    assert entries(bare, "abb") == ["abb"]
    assert bare.decode(bare.encode(" abb")) == " abb"


SPLITS = {
    "gpt-2": ["Don", "'t", " x", "  ", " 1234", "/", "HTTPServer", "\n\n"],
    "smollm": ["Don", "'t", " x", "   ", "1", "2", "3", "4", "/", "HTTPServer", "\n\n"],
    "llama-bpe": ["Don", "'t", " x", "  ", " ", "123", "4", "/HTTPServer", "\n\n"],
    "qwen2": ["Don", "'t", " x", "  ", " ", "1", "2", "3", "4", "/HTTPServer", "\n\n"],
    "tekken": ["Don", "'t", " x", "  ", " ", "1", "2", "3", "4", "/HTTPServer", "\n\n"],
}


@pytest.mark.parametrize("pre", SPLITS)
def test_pre_tokenizers_split_as_their_models_were_trained(pre: str) -> None:
    tokenizer = Tokenizer.from_gguf(gpt2_fields(pre))
    assert tokenizer.core.pre_tokenizer is not None
    split = tokenizer.core.pre_tokenizer.pre_tokenize_str("Don't x   1234/HTTPServer\n\n")
    assert [tokenizer.core.decoder.decode([piece]) for piece, _ in split] == SPLITS[pre]


def test_tekken_cuts_at_case_and_qwen_normalises() -> None:
    tekken, qwen = (Tokenizer.from_gguf(gpt2_fields(pre)) for pre in ("tekken", "qwen2"))
    assert tekken.core.pre_tokenizer is not None
    assert [piece for piece, _ in tekken.core.pre_tokenizer.pre_tokenize_str("oneTwo://x")] == [
        "one",
        "Two",
        "://",
        "x",
    ]
    assert qwen.encode("e\u0301") == qwen.encode("é") != tekken.encode("e\u0301")


@pytest.mark.parametrize("pre", ["llama-bpe", "tekken"])
def test_rank_vocabularies_take_whole_words_and_begin_with_bos(pre: str) -> None:
    merges = [merge for merge in gpt2_fields()["tokenizer.ggml.merges"] if merge != "th e"]  # type: ignore[attr-defined]
    tokenizer = Tokenizer.from_gguf(gpt2_fields(pre, merges=merges))
    assert entries(tokenizer, "the") == ["the"]
    assert tokenizer.add_bos
    assert not Tokenizer.from_gguf(gpt2_fields(pre, add_bos_token=False)).add_bos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "viking"}, r"tokenizer.ggml.pre 'viking' is not supported: use one of gpt-2, smollm, .*tekken$"),
        ({"pre": None}, "tokenizer.ggml.pre None is not supported"),
        ({"model": "rwkv"}, "tokenizer.ggml.model 'rwkv' is not supported: use 'gpt2' or 'llama'$"),
        ({"tokens": ["a", "a"]}, "has 1 entries twice"),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_gguf(gpt2_fields() | {f"tokenizer.ggml.{key}": value for key, value in change.items()})


def test_without_a_vocabulary_is_refused() -> None:
    fields = gpt2_fields()
    del fields["tokenizer.ggml.merges"]
    with pytest.raises(ValueError, match=r"no tokenizer\.ggml\.merges"):
        Tokenizer.from_gguf(fields)
