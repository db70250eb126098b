"""Tokenizers read from checkpoint folders: which file says what, and folders that cannot be used."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Core
from tokenizers import processors

from tests.text.vocabularies import BYTES, byte_level_core
from unmask.text import Tokenizer


def write(folder: Path, core: Core | None = None, **files: object) -> Path:
    (core or byte_level_core()).save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_folder_gives_roles_stops_and_template(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer_config={
            "eos_token": {"content": "<|im_end|>"},
            "pad_token": "[PAD]",
            "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}],
        },
        special_tokens_map={"bos_token": "<|im_start|>", "eos_token": "<|mask|>"},
        generation_config={"eos_token_id": [262, 264]},
    )
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = Tokenizer.from_file(path)
        assert tokenizer.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
        assert tokenizer.eos_ids == (262, 264)
        assert (tokenizer.bos_id, tokenizer.add_bos, tokenizer.chat_template) == (263, False, "d")
    (tmp_path / "chat_template.jinja").write_text("from its own file")
    assert Tokenizer.from_file(tmp_path).chat_template == "from its own file"


def test_folder_with_nothing_but_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(write(tmp_path))
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos, tokenizer.chat_template) == (None, (), False, None)


def test_bos_is_expected_where_the_post_processor_or_the_config_says_so(tmp_path: Path) -> None:
    core = byte_level_core()
    core.post_processor = processors.TemplateProcessing(single="<|mask|> $A", special_tokens=[("<|mask|>", 262)])
    write(tmp_path, core, tokenizer_config={"bos_token": "<|mask|>"})
    assert Tokenizer.from_file(tmp_path).add_bos
    assert 262 not in Tokenizer.from_file(tmp_path).encode("the"), "encode itself adds nothing"
    write(tmp_path, core, tokenizer_config={"bos_token": "<|mask|>", "add_bos_token": False})
    assert not Tokenizer.from_file(tmp_path).add_bos


def test_nothing_is_cut_or_padded(tmp_path: Path) -> None:
    core = byte_level_core()
    core.enable_truncation(2)
    core.enable_padding(length=9)
    tokenizer = Tokenizer.from_file(write(tmp_path, core))
    assert len(tokenizer.encode("abcde")) == 5


def test_tokens_that_only_the_config_declares_become_special(tmp_path: Path) -> None:
    core = byte_level_core()
    new = core.get_vocab_size()
    declared = {str(new): {"content": "<|new|>", "special": True}}
    write(tmp_path, core, tokenizer_config={"added_tokens_decoder": declared, "mask_token": "the"})
    tokenizer = Tokenizer.from_file(tmp_path)
    assert tokenizer.encode("<|new|>the", special=True) == (new, BYTES.token_id("the"))
    assert tokenizer.special_ids >= {new, BYTES.token_id("the")}
    write(tmp_path, core, tokenizer_config={"added_tokens_decoder": {"7": {"special": True}}})
    with pytest.raises(ValueError, match=r"declares token 7 without its text$"):
        Tokenizer.from_file(tmp_path)
    write(tmp_path, core, tokenizer_config={"added_tokens_decoder": {"7": {"content": "<|new|>"}}})
    with pytest.raises(ValueError, match=rf"gives token '<\|new\|>' id 7, but it has {new}"):
        Tokenizer.from_file(tmp_path)


def test_unreadable_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no tokenizer.json at [^\n]+$"):
        Tokenizer.from_file(tmp_path)
    write(tmp_path, tokenizer_config=[])
    with pytest.raises(ValueError, match=r"must hold a JSON object, got list$"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"^[^\n]+ is not JSON: [^\n]+$"):
        Tokenizer.from_file(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer.json that can be read: "):
        Tokenizer.from_file(tmp_path)


def test_folder_equals_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    reference = PreTrainedTokenizerFast.from_pretrained(str(write(tmp_path, tokenizer_config=config)))
    tokenizer = Tokenizer.from_file(tmp_path)
    for text in ("the é😀  the\n\n", "<|im_start|>user the<|im_end|>", "<think> 1 2"):
        ids = reference.encode(text, add_special_tokens=False)
        assert list(tokenizer.encode(text, special=True)) == ids
        assert tokenizer.decode(ids, skip_special=False) == reference.decode(ids)
    assert (tokenizer.bos_id, list(tokenizer.eos_ids)) == (reference.bos_token_id, [reference.eos_token_id])
