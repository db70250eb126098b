"""The real SmolLM2 tokenizer and chat template, read from GGUF metadata, against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from unmask.model.gguf import read_metadata
from unmask.text import ChatTemplate, TextStream, Tokenizer, render_chat

TEXTS = [
    "",
    " ",
    "Hello world, it's we'll DON'T",
    "def fib(n):\n    if n < 2:\n        return n\n\treturn fib(n-1) + fib(n - 2)\r\n\n\n",
    "naïve café, e\u0301, 日本語のテキスト, 한국어, עברית, 𐍈𝔘 ½ Ⅷ ٣",
    "1234567890 3.14159 1,000,000 v2.0.1",
    "a  b   c    d\t\te\n \n  \n   x\u00a0y\u3000z  ",
    "😀 👩‍👩‍👧 🇩🇪 👍🏽",
    "\x00\x7f\ufeff\u200b",
    "<|im_start|>user\nhi<|im_end|>\n<empty_output><|endoftext|><|not_special|>",
    "x = 1  # two spaces\n    12\n\n 7",
]


@pytest.fixture(scope="module")
def tokenizer(smollm2_gguf: Path) -> Tokenizer:
    return Tokenizer.from_gguf(read_metadata(smollm2_gguf))


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(smollm2_gguf.parent), gguf_file=smollm2_gguf.name)


def test_ids_equal_transformers(tokenizer: Tokenizer, reference: Any) -> None:
    # Reading GGUF, transformers does not know "smollm" and splits like GPT-2, which differs where a space or another
    # character would join a digit. Those texts are compared after giving it the split of the published tokenizer.
    for text in TEXTS[:4]:
        assert list(tokenizer.encode(text, special=True)) == reference.encode(text, add_special_tokens=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    own = reference.backend_tokenizer.pre_tokenizer
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, own])
    try:
        for text in TEXTS:
            ids = reference.encode(text, add_special_tokens=False)
            assert list(tokenizer.encode(text, special=True)) == ids
            assert tokenizer.decode(ids, skip_special=False) == reference.decode(ids) == text
            assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    finally:
        reference.backend_tokenizer.pre_tokenizer = own


def test_digits_stand_alone_as_in_the_merges(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_text(id) for id in tokenizer.encode("x   12")] == ["x", "   ", "1", "2"]
    joined = [text for id in range(tokenizer.vocab_size) if len(text := tokenizer.token_text(id)) > 1]
    assert not [text for text in joined if any(letter.isascii() and letter.isdigit() for letter in text)]


def test_user_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert not tokenizer.special_ids.intersection(ids)
        assert tokenizer.decode(ids) == text


def test_facts(tokenizer: Tokenizer, reference: Any) -> None:
    assert tokenizer.vocab_size == len(reference) == 49152
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos) == (1, (2,), False)
    assert tokenizer.special_ids == frozenset(range(17))
    assert tokenizer.token_id("<empty_output>") == 16
    assert tokenizer.token_bytes(16) == b"<empty_output>"
    assert tokenizer.special_tokens["eos_token"] == reference.eos_token == "<|im_end|>"


def test_template_equals_transformers(tokenizer: Tokenizer, reference: Any) -> None:
    template = ChatTemplate.of(tokenizer)
    chats: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "Hi <b>&\n"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é😀"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    ]
    for chat in chats:
        for prompt in (False, True):
            expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            text = render_chat(template, chat, add_generation_prompt=prompt)
            assert text == expected
            assert list(tokenizer.encode(text, special=True)) == reference.encode(expected, add_special_tokens=False)


def test_streams_token_by_token(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        stream, shown = TextStream(tokenizer), ""
        for id in ids:
            stream, piece = stream.feed([id])
            shown += piece
            assert text.startswith(shown)
        assert shown + stream.finish()[1] == text
