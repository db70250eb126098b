"""Reads what a checkpoint folder says about its tokens: tokenizer.json and the small files beside it.

Settings are spread over five files with different precedence; here they become plain values, and nothing is executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Core

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class Folder:
    """The parsed files. `config`: tokenizer_config.json over special_tokens_map.json. `jinja`: chat_template.jinja."""

    core: Core
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    jinja: str | None = None


def read_folder(path: str | Path) -> Folder:
    """Reads `path`, a checkpoint folder or its tokenizer.json.

    Raises ValueError when tokenizer.json is missing or one of the files cannot be read.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"no tokenizer.json at {str(path)!r}: give a folder that holds one, or the file itself")
    try:
        core = Core.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{str(file)!r} is not a tokenizer.json that can be read: {error}") from error
    config = _read_json(file.with_name("special_tokens_map.json"))
    config |= _read_json(file.with_name("tokenizer_config.json"))
    jinja = file.with_name("chat_template.jinja")
    _add_declared_tokens(core, config)
    return Folder(
        core,
        config,
        _read_json(file.with_name("generation_config.json")),
        jinja.read_text(encoding="utf-8") if jinja.is_file() else None,
    )


def special_tokens(folder: Folder) -> dict[str, str]:
    """Text of the tokens with a role ("bos_token", "eos_token", ...), where the vocabulary has them."""
    named = {role: _text(value) for role, value in folder.config.items() if role.endswith("_token")}
    return {role: text for role, text in named.items() if text and folder.core.token_to_id(text) is not None}


def eos_ids(folder: Folder) -> tuple[int, ...]:
    """Ids that end a generation: those of generation_config.json, then the tokenizer's own."""
    listed = folder.generation.get("eos_token_id")
    ids = listed if isinstance(listed, list) else [listed]
    own = special_tokens(folder).get("eos_token")
    return tuple(dict.fromkeys(id for id in [*ids, own and folder.core.token_to_id(own)] if isinstance(id, int)))


def add_bos(folder: Folder) -> bool:
    """Whether a text starts with the bos token: as tokenizer_config.json says, else as the post-processor does."""
    declared = folder.config.get("add_bos_token")
    if isinstance(declared, bool):
        return declared
    bos = special_tokens(folder).get("bos_token")
    return bos is not None and folder.core.encode("a").ids[:1] == [folder.core.token_to_id(bos)]


def chat_template(folder: Folder) -> str | None:
    """The Jinja source: chat_template.jinja, else the (default) template of tokenizer_config.json."""
    template = folder.jinja or folder.config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _add_declared_tokens(core: Core, config: dict[str, Any]) -> None:
    """Makes added tokens of those that only the config declares. A role alone never makes the vocabulary grow."""
    known = {token.content for token in core.get_added_tokens_decoder().values()}
    declared: dict[str, dict[str, Any]] = config.get("added_tokens_decoder") or {}
    for id, token in sorted((int(id), token) for id, token in declared.items()):
        text = _text(token)
        if text is None:
            raise ValueError(f"tokenizer_config.json declares token {id} without its text")
        if text not in known:
            core.add_tokens([AddedToken(text, **{flag: bool(token.get(flag)) for flag in _FLAGS})])
            known.add(text)
        if core.token_to_id(text) != id:
            raise ValueError(f"tokenizer_config.json gives token {text!r} id {id}, but it has {core.token_to_id(text)}")
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    roles = [value for role, value in config.items() if role.endswith("_token")]
    texts = map(_text, [*roles, *(extra.values() if isinstance(extra, dict) else extra)])
    named = [text for text in texts if text and text not in known and core.token_to_id(text) is not None]
    core.add_special_tokens(named)


def _text(value: object) -> str | None:
    """A token is given as its text or as an object that holds it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}")
    return content
