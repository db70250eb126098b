"""Text to token ids and back, for any checkpoint that is byte-level BPE or SentencePiece.

A thin layer over the `tokenizers` library: special tokens are never read from plain text unless asked for, and every
token has known bytes, which streaming, log-probs and constraints build on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

from tokenizers import Tokenizer as Core

from unmask.text import folder, gguf
from unmask.text.spelling import Spelling, spelling_of


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """One checkpoint's tokens.

    core: the `tokenizers` object; owned from now on (padding and truncation are switched off).
    special_tokens: text of tokens by role, e.g. {"bos_token": "<s>"}; chat templates see them as variables.
    eos_ids: ids that end a generation. add_bos: whether the model expects the bos token before a plain prompt;
        `encode` never adds it. chat_template: Jinja source, None where the checkpoint has none.
    Raises ValueError when the core's decoder is neither byte-level nor SentencePiece-like.
    """

    core: Core = field(repr=False)
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()
    add_bos: bool = False
    chat_template: str | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.core.no_padding()
        self.core.no_truncation()
        _ = self.spelling  # refuse an unsupported decoder now, not at the first token

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Reads a checkpoint folder, or its tokenizer.json together with the files beside it.

        Raises ValueError when tokenizer.json is missing or a file cannot be read.
        """
        files = folder.read_folder(path)
        return cls(
            files.core,
            folder.special_tokens(files),
            eos_ids=folder.eos_ids(files),
            add_bos=folder.add_bos(files),
            chat_template=folder.chat_template(files),
        )

    @classmethod
    def from_gguf(cls, fields: Mapping[str, object]) -> Tokenizer:
        """Builds the tokenizer from a GGUF file's decoded metadata ("tokenizer.ggml.tokens" -> list of str, ...).

        Raises ValueError when the vocabulary or its pre-tokenizer is not supported.
        """
        return cls(
            gguf.build_core(fields),
            gguf.special_tokens(fields),
            eos_ids=gguf.eos_ids(fields),
            add_bos=gguf.add_bos(fields),
            chat_template=gguf.chat_template(fields),
        )

    @cached_property
    def spelling(self) -> Spelling:
        """How vocabulary entries stand for bytes."""
        return spelling_of(self.core.decoder)

    @cached_property
    def added_ids(self) -> Mapping[int, str]:
        """Tokens outside the model's merges, by id: their text stands for itself."""
        return {id: token.content for id, token in self.core.get_added_tokens_decoder().items()}

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens: control, not text."""
        return frozenset(id for id, token in self.core.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def vocab_size(self) -> int:
        """1 + the largest id. A model's logits may be wider (padded); ids beyond stand for nothing."""
        return 1 + max(self.core.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def bos_id(self) -> int | None:
        """Id of the token that begins a text, if there is one."""
        bos = self.special_tokens.get("bos_token")
        return None if bos is None else self.core.token_to_id(bos)

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of `text`, with nothing added around them.

        special: read special tokens from the text (rendered chat templates); by default text that looks like one stays
            text. Added tokens that are not special (some models' "<think>") are always read.
        Raises ValueError for text that is not valid Unicode, or that the vocabulary cannot keep apart from a special
            token it spells.
        """
        _check_unicode(text)
        with self._lock:  # the switch lives in the shared core
            self.core.encode_special_tokens = not special
            ids = tuple(self.core.encode(text, add_special_tokens=False).ids)
        if not special:
            spelled = [self.added_ids[id] for id in self.special_ids.intersection(ids) if self.added_ids[id] in text]
            if spelled:
                raise ValueError(
                    f"text spells special tokens that this vocabulary cannot keep apart from text: {spelled}"
                )
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids without a token become nothing.

        skip_special: leave special tokens out. continues: the text goes on after other text, so the artificial space
            that SentencePiece puts before a text is real here and kept.
        """
        data = b"".join(self.visible_bytes(id, skip_special) for id in ids)
        if self.spelling.artificial_space and not continues:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def visible_bytes(self, id: int, skip_special: bool = True) -> bytes:
        """`token_bytes`, or nothing for a special token that is to be skipped."""
        return b"" if skip_special and id in self.special_ids else self.token_bytes(id)

    def token_bytes(self, id: int) -> bytes:
        """The raw bytes of one token, perhaps a part of a character; b"" for an id without a token.

        Special tokens give their text. Raises ValueError for a negative id.
        """
        if id < 0:
            raise ValueError(f"token id must be at least 0, got {id}")
        if id in self.added_ids:
            return self.added_ids[id].encode()
        entry: str | None = self.core.id_to_token(id)
        return b"" if entry is None else self.spelling.to_bytes(entry)

    def token_text(self, id: int) -> str:
        """One token as text for people: part of a character shows as U+FFFD. Raises ValueError for a negative id."""
        return self.token_bytes(id).decode("utf-8", "replace")

    def token_id(self, text: str) -> int | None:
        """Id of the token that stands for exactly `text` (" the", "<|im_end|>"), None if no single token does.

        Raises ValueError for text that is not valid Unicode.
        """
        _check_unicode(text)
        added = next((id for id, content in self.added_ids.items() if content == text), None)
        return added if added is not None else self.core.token_to_id(self.spelling.to_entry(text))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"U+{ord(text[error.start]):04X} at index {error.start}"
        raise ValueError(f"text has a lone surrogate {where}: it must be valid Unicode") from None
