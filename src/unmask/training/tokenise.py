"""Documents to token ids with a mark on every token that may carry loss, in batches, and kept on disk.

A tokenised document is uint32 [n]: id * 2 + (1 where loss is allowed). Text is supervised whole but for its bos, a
prompt with a completion in the completion, a chat in the assistant's answers up to and including their end token; what
comes after the last answer is cut off. A document without anything to learn has no tokens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as Core

from unmask.text import ChatTemplate, Tokenizer, render_chat
from unmask.training.data import Document, Listing

Tokens = NDArray[np.uint32]
_FORMAT = "1"  # of the files below; part of their name


@dataclass(frozen=True, slots=True)
class _Rendered:
    """text with the character ranges that carry loss (None: all); special: special tokens are read from it."""

    where: str
    text: str
    spans: tuple[tuple[int, int], ...] | None
    special: bool


class Encoder:
    """A tokenizer for training: on its own copies of the core, so that nothing is shared with an engine.

    eos: ends a text and fills blocks; None where the tokenizer has none.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None = None) -> None:
        source = tokenizer.core.to_str()
        self.tokenizer = tokenizer
        self.template = template or ChatTemplate.of(tokenizer)
        self.bos = tokenizer.bos_id if tokenizer.add_bos else None
        self.eos = next(iter(tokenizer.eos_ids), None)
        self._plain, self._special = Core.from_str(source), Core.from_str(source)
        self._plain.encode_special_tokens, self._special.encode_special_tokens = True, False
        parts = (source, str(self.bos), str(self.eos), self.template.source, repr(dict(self.template.variables)))
        self.fingerprint = hashlib.sha256("\0".join((_FORMAT, *parts)).encode()).hexdigest()[:32]

    def encode(self, documents: Sequence[Document]) -> list[Tokens]:
        """Tokens of each document. Raises ValueError, with the place, for a chat that the template refuses."""
        rendered = [self._rendered(document) for document in documents]
        plain = iter(self._plain.encode_batch([r.text for r in rendered if not r.special], add_special_tokens=False))
        chats = iter(self._special.encode_batch([r.text for r in rendered if r.special], add_special_tokens=False))
        return [self._marked(r, next(chats if r.special else plain)) for r in rendered]

    def _rendered(self, document: Document) -> _Rendered:
        where = document.where
        try:
            if document.messages:
                text, spans = chat_spans(self.template, document.messages)
                return _Rendered(where, text, spans, special=True)
            text = document.text + (document.completion or "")
            text.encode()  # a lone surrogate, which JSON can spell, is no text
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        whole = document.completion is None
        return _Rendered(where, text, None if whole else ((len(document.text), len(text)),), special=False)

    def _marked(self, rendered: _Rendered, encoding: Encoding) -> Tokens:
        ids = np.array(encoding.ids, dtype=np.uint32)
        if not rendered.special and (spelled := self.tokenizer.special_ids.intersection(encoding.ids)):
            tokens = [self.tokenizer.added_ids[id] for id in sorted(spelled)]
            raise ValueError(f"{rendered.where}: the text spells special tokens that cannot be kept apart: {tokens}")
        supervised = np.ones(len(ids), dtype=bool)
        if rendered.spans is not None:
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            supervised[:] = False
            for start, end in rendered.spans:
                inside = (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
                ends = inside & np.isin(ids, self.tokenizer.eos_ids)
                if rendered.special and ends.any():  # what the template writes after the end is not the model's
                    inside[int(np.flatnonzero(ends)[-1]) + 1 :] = False
                supervised |= inside
            # nothing follows the last answer, and a document without one teaches nothing
            last = int(np.flatnonzero(supervised)[-1]) + 1 if supervised.any() else 0
            ids, supervised = ids[:last], supervised[:last]
        if not rendered.special and len(ids):
            before = [] if self.bos is None else [self.bos]
            after = [] if self.eos is None else [self.eos]
            ids = np.concatenate([np.array(before, np.uint32), ids, np.array(after, np.uint32)])
            supervised = np.concatenate([np.zeros(len(before), bool), supervised, np.ones(len(after), bool)])
        return (ids * 2 + supervised).astype(np.uint32)


def chat_spans(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]]
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The chat's text and the character range of every answer, found by rendering what comes before and up to it.

    An answer starts where the prompt with the assistant's header ends, so nothing that the template adds is trained.
    Answers that the template shows differently once the chat goes on (it may drop their reasoning) get no loss.
    Raises ValueError where no answer is left.
    """
    text = render_chat(template, messages, add_generation_prompt=False)
    spans = []
    for number, message in enumerate(messages):
        if message.get("role") == "assistant":
            before = render_chat(template, messages[:number], add_generation_prompt=True)
            upto = render_chat(template, messages[: number + 1], add_generation_prompt=False)
            if text.startswith(upto) and upto.startswith(before) and len(upto) > len(before):
                spans.append((len(before), len(upto)))
    if not spans:
        raise ValueError("the chat has no answer that the template renders as a continuation of its prompt")
    return text, tuple(spans)


@dataclass(frozen=True, slots=True)
class Shelf:
    """All tokenised documents of a listing, on top of two memory maps. Document n: tokens[ends[n - 1] : ends[n]]."""

    tokens: NDArray[np.uint32]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, number: int) -> Tokens:
        start = int(self.ends[number - 1]) if number else 0
        return np.array(self.tokens[start : int(self.ends[number])])


def shelve(
    listing: Listing,
    encoder: Encoder,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    batch: int = 64,
) -> Shelf:
    """Tokenise a listing into `folder`, or open what an earlier call has left there for the same documents and tokens.

    progress: called with (documents done, documents in all). Of several processes one works and the others wait.
    Raises what reading and encoding raise; OSError where the folder cannot be written.
    """
    key = hashlib.sha256(f"{listing.fingerprint()} {encoder.fingerprint}".encode()).hexdigest()[:24]
    kept = folder / key
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock"):
        if not kept.exists():
            with TemporaryDirectory(prefix="tmp-", dir=folder, ignore_cleanup_errors=True) as temporary:
                work = Path(temporary) / "shelf"
                work.mkdir()
                _write(listing, encoder, work, progress, batch)
                os.replace(work, kept)
    return Shelf(np.load(kept / "tokens.npy", mmap_mode="r"), np.load(kept / "ends.npy"))


def _write(listing: Listing, encoder: Encoder, folder: Path, progress: Callable[[int, int], None], batch: int) -> None:
    ends, total = np.zeros(len(listing), dtype=np.int64), 0
    raw = folder / "raw"
    with raw.open("wb") as file:
        for start in range(0, len(listing), batch):
            numbers = range(start, min(start + batch, len(listing)))
            for number, tokens in zip(numbers, encoder.encode([listing.read(n) for n in numbers]), strict=True):
                file.write(tokens.tobytes())
                total += len(tokens)
                ends[number] = total
            progress(numbers.stop, len(listing))
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", mode="w+", dtype=np.uint32, shape=(total,))
    if total:
        tokens[:] = np.memmap(raw, dtype=np.uint32, mode="r", shape=(total,))
    tokens.flush()
    raw.unlink()
    np.save(folder / "ends.npy", ends)
