"""Tokenised documents to packed samples, with a cursor: stop anywhere, restore, and go on as if never stopped.

The order depends on the data, the seed and the length alone, never on how many processes share the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.text import ChatTemplate, Tokenizer
from unmask.training.data import Document, Listing, Streamed, has_held_out, mixed, open_data, order
from unmask.training.sample import Sample
from unmask.training.tokenise import Encoder, Shelf, Tokens, shelve

_BATCH = 32  # documents tokenised together
_BUFFER = 1000  # documents of a stream that are shuffled together


@dataclass(frozen=True, slots=True)
class Data:
    """What to train on.

    sources: see `data.open_data`. held_out: sources for measurements; without any, `held_out_share` of the documents
    (of listings, not of streams) is set apart, or of folders with a heldout.jsonl (the starter corpus) that is taken.
    epochs: passes over the data; None: for ever. fill: every document is filled with its end token, which carries loss,
    up to a multiple of so many tokens from the start of its last answer (1: not at all; take the block size).
    lookahead: so many documents wait at a time: long ones take turns, and one that fits can fill a sample's end.
    smallest: a text is not cut into a piece of fewer tokens at the end of a sample; the rest stays empty.
    """

    sources: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    held_out_share: float = 0.0
    epochs: int | None = None
    fill: int = 1
    lookahead: int = 64
    smallest: int = 16

    def __post_init__(self) -> None:
        for name in ("fill", "lookahead", "smallest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1 or none, got {self.epochs}")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"held_out_share must be at least 0 and below 1, got {self.held_out_share}")


@dataclass(frozen=True, slots=True)
class Source:
    """read: (epoch, start) -> tokenised documents in the order of the epoch, from the start-th on.

    fingerprint: another one means other tokens or another order.
    """

    fingerprint: str
    read: Callable[[int, int], Iterator[Tokens]]


def from_listing(
    listing: Listing, encoder: Encoder, seed: int, numbers: NDArray[np.int64], shelf: Shelf | None = None
) -> Source:
    """The documents `numbers` of a listing; shelf: where they lie tokenised already."""

    def read(epoch: int, start: int) -> Iterator[Tokens]:
        remaining = (int(number) for number in order(numbers, seed, epoch)[start:])
        while batch := list(islice(remaining, 1 if shelf else _BATCH)):
            yield from ([shelf.read(n) for n in batch] if shelf else encoder.encode([listing.read(n) for n in batch]))

    key = f"{listing.fingerprint()} {encoder.fingerprint} {seed} {len(numbers)} {mixed(*numbers[:64].tolist()):x}"
    return Source(key, read)


def from_stream(stream: Streamed, encoder: Encoder, seed: int, buffer: int = _BUFFER) -> Source:
    """A stream, shuffled through a buffer. To start in the middle of an epoch, it is read again up to there."""

    def read(epoch: int, start: int) -> Iterator[Tokens]:
        remaining = islice(_shuffled(stream.open(), mixed(seed, epoch), buffer), start, None)
        while batch := list(islice(remaining, _BATCH)):
            yield from encoder.encode(batch)

    return Source(f"{stream.fingerprint()} {encoder.fingerprint} {seed} {buffer}", read)


def _shuffled(documents: Iterator[Document], seed: int, size: int) -> Iterator[Document]:
    waiting: list[Document] = []
    for turn, document in enumerate(documents):
        waiting.append(document)
        if len(waiting) >= size:
            chosen = mixed(seed, turn) % len(waiting)
            waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
            yield waiting.pop()
    yield from (waiting[n] for n in order(np.arange(len(waiting), dtype=np.int64), seed, 0))


class _Waiting(NamedTuple):
    """A document that is read and not yet packed whole. number: within the epoch; offset: tokens already packed."""

    number: int
    offset: int
    tokens: Tokens

    @property
    def length(self) -> int:
        return len(self.tokens) - self.offset


class PackedStream:
    """Samples of `length` tokens, in the one order; the trainer's `Stream`.

    A sample begins with the document that has waited longest; then comes whatever of the `lookahead` waiting documents
    fits, or is text that may be cut; what is left of a cut one waits again. Positions restart with every piece. The end
    of an epoch is the end of a sample.
    eos: id to fill with, needed where data.fill is above 1.
    """

    def __init__(self, source: Source, data: Data, length: int, eos: int | None) -> None:
        if length < 2:
            raise ValueError(f"length must be at least 2, got {length}")
        if data.fill > 1 and eos is None:
            raise ValueError("fill needs an end token, and this tokenizer has none: use fill = 1")
        self.source, self.data, self.length, self.eos = source, data, length, eos
        self._fingerprint = f"{source.fingerprint} {length} {data.fill} {data.lookahead} {data.smallest} {eos}"
        self._begin(index=0, first=0, epoch=0, read=0)

    def _begin(self, index: int, first: int, epoch: int, read: int) -> None:
        """index: of the next sample; first: of the first one of the epoch; read: documents of it taken so far."""
        self._index, self._first, self._epoch, self._read = index, first, epoch, read
        self._waiting: list[_Waiting] = []
        self._documents: Iterator[Tokens] | None = None

    def next_samples(self, n: int) -> list[Sample]:
        """The next n samples; fewer, or none, at the end of the last epoch.

        Raises ValueError and OSError for documents that cannot be read or encoded, and for an epoch without a token.
        """
        return list(islice(self._samples(), n))

    def state(self) -> dict[str, Any]:
        """The cursor: the next sample's number, the epoch, documents read, and those of them that wait."""
        return {
            "index": self._index,
            "first": self._first,
            "epoch": self._epoch,
            "read": self._read,
            "waiting": [[item.number, item.offset] for item in self._waiting],
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises ValueError where data, tokenizer, seed or packing are not the same."""
        if state.get("fingerprint") != self._fingerprint:
            raise ValueError(
                "the run to resume had other data: its files, tokenizer, seed, length or packing have changed"
            )
        self._begin(*(int(state[key]) for key in ("index", "first", "epoch", "read")))
        offsets = {int(number): int(offset) for number, offset in state["waiting"]}
        if offsets:
            first = min(offsets)
            again = enumerate(islice(self.source.read(self._epoch, first), self._read - first), first)
            found = {number: _Waiting(number, offsets[number], t) for number, t in again if number in offsets}
            self._waiting = [found[number] for number in offsets]

    def _samples(self) -> Iterator[Sample]:
        while self.data.epochs is None or self._epoch < self.data.epochs:
            self._refill()
            if self._waiting:
                yield self._pack()
            elif self._read == 0:
                raise ValueError("the data has no documents: the corpus is empty")
            elif self._first == self._index:
                raise ValueError(f"none of the {self._read} documents has anything to learn from")
            else:
                self._begin(self._index, self._index, self._epoch + 1, 0)

    def _refill(self) -> None:
        if self._documents is None:
            self._documents = self.source.read(self._epoch, self._read)
        while len(self._waiting) < self.data.lookahead:
            tokens = next(self._documents, None)
            if tokens is None:
                return
            if len(tokens):
                self._waiting.append(_Waiting(self._read, 0, tokens))
            self._read += 1

    def _pack(self) -> Sample:
        ids = np.zeros(self.length, dtype=np.int64)
        document = np.full(self.length, -1, dtype=np.int32)
        position = np.zeros(self.length, dtype=np.int64)
        supervised = np.zeros(self.length, dtype=np.bool_)
        used = pieces = 0
        while used < self.length and (piece := self._next_piece(self.length - used)) is not None:
            here = slice(used, used + len(piece))
            ids[here], supervised[here] = piece >> 1, (piece & 1).astype(bool)
            document[here], position[here] = pieces, np.arange(len(piece))
            used, pieces = used + len(piece), pieces + 1
            self._refill()
        self._index += 1
        return Sample(self._index - 1, ids, document, position, supervised)

    def _next_piece(self, room: int) -> Tokens | None:
        """The tokens of the first waiting document that may go into the room, as many as fit; None: none may."""
        for place, item in enumerate(self._waiting):
            fits = item.length <= room
            if fits or (room >= min(self.data.smallest, self.length) and self._may_be_cut(item)):
                piece = item.tokens[item.offset : item.offset + room]
                del self._waiting[place]
                if fits:
                    return self._filled(piece, room)
                # to the back: neighbouring samples should not be neighbouring parts of one long text
                self._waiting.append(item._replace(offset=item.offset + room))
                return piece
        return None

    def _may_be_cut(self, item: _Waiting) -> bool:
        """Text is cut anywhere; a chat or a completion only where no sample could hold it."""
        return len(item.tokens) > self.length or bool((item.tokens[1:] & 1).all())

    def _filled(self, piece: Tokens, room: int) -> Tokens:
        if self.data.fill == 1 or self.eos is None:
            return piece
        prompt = np.flatnonzero((piece & 1) == 0)
        # blocks are counted from the start of the last answer; of text, from its start, a bos included
        start = int(prompt[-1]) + 1 if prompt.size and prompt[-1] else 0
        missing = min(-(len(piece) - start) % self.data.fill, room - len(piece))
        return np.concatenate([piece, np.full(missing, self.eos << 1 | 1, dtype=np.uint32)])


def open_stream(
    data: Data,
    tokenizer: Tokenizer,
    length: int,
    seed: int,
    *,
    template: ChatTemplate | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PackedStream:
    """The training samples. cache: a folder in which local data is kept tokenised (None: tokenise as it is needed).

    progress: called with (documents, all documents) while the cache is made. Raises what `data.open_data` raises.
    """
    encoder, opened = Encoder(tokenizer, template), open_data(data.sources)
    if isinstance(opened, Streamed):
        return PackedStream(from_stream(opened, encoder, seed), data, length, encoder.eos)
    shelf = shelve(opened, encoder, cache, progress) if cache else None
    numbers = _share(len(opened), data.held_out_share)[0]
    if not len(numbers):
        raise ValueError(f"held_out_share {data.held_out_share} leaves none of {len(opened)} documents to train on")
    return PackedStream(from_listing(opened, encoder, seed, numbers, shelf), data, length, encoder.eos)


def held_out(
    data: Data, tokenizer: Tokenizer, length: int, count: int, *, template: ChatTemplate | None = None
) -> list[Sample]:
    """At most `count` samples that are not trained on, always the same ones; none where nothing is held out."""
    encoder, one = Encoder(tokenizer, template), Data(data.sources, epochs=1, fill=data.fill, lookahead=data.lookahead)
    if data.held_out or not data.held_out_share:
        sources = data.held_out or tuple(filter(has_held_out, data.sources))
        if not sources:
            return []
        opened = open_data(sources, held_out=True)
        if isinstance(opened, Streamed):
            return PackedStream(from_stream(opened, encoder, 0), one, length, encoder.eos).next_samples(count)
        numbers = np.arange(len(opened), dtype=np.int64)
    else:
        opened = open_data(data.sources)
        if isinstance(opened, Streamed):
            raise ValueError("held_out_share cannot be taken from a stream: name held_out data")
        numbers = _share(len(opened), data.held_out_share)[1]
        if not len(numbers):
            raise ValueError(f"held_out_share {data.held_out_share} sets none of {len(opened)} documents apart")
    return PackedStream(from_listing(opened, encoder, 0, numbers), one, length, encoder.eos).next_samples(count)


def _share(count: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Document numbers to train on and to hold out: the same split whatever the seed."""
    shuffled = order(np.arange(count, dtype=np.int64), 0, 0)
    apart = round(count * share)
    return np.sort(shuffled[apart:]), np.sort(shuffled[:apart])
