"""Where each token of a text lies in it, in bytes: oracles speak of bytes, what is masked again are tokens.

A token may be a part of a character, or nothing that shows. Stored ids are used, since tokenising a text again need not
give the ids that wrote it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat, takewhile

from unmask.text.tokenizer import Tokenizer
from unmask.types import ByteSpan, Ids


@dataclass(frozen=True, slots=True)
class Located:
    """A text and the bytes of it that each of its tokens has a part in: none of a special token, the same character of
    two tokens that make one. They ascend, and each begins where one before it ends, or in its last character."""

    text: str
    spans: tuple[ByteSpan, ...]

    def touching(self, span: ByteSpan) -> Ids:
        """Tokens with a part in some bytes."""
        return tuple(i for i, own in enumerate(self.spans) if own.start < span.end and span.start < own.end)

    def at(self, place: int) -> int | None:
        """The token that begins at a place or holds it, or the first that shows nothing, if the text ends there; None
        where nothing does."""
        found = next((i for i, own in enumerate(self.spans) if own.start < own.end and place < own.end), None)
        if found is not None:
            return found
        return next((i for i, own in enumerate(self.spans) if own.start >= place), None)


def located(tokenizer: Tokenizer, ids: Iterable[int], *, final: bool = True) -> Located:
    """The text of `ids` as `Tokenizer.decode` gives it. final: False leaves out the beginning of a character whose end
    has not come yet."""
    chunks = [tokenizer.visible_bytes(id) for id in ids]
    first = next((i for i, chunk in enumerate(chunks) if chunk), None)
    if first is not None and tokenizer.spelling.artificial_space:
        chunks[first] = chunks[first].removeprefix(b" ")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces, places, size, pending = list[str](), list[ByteSpan](), 0, 0  # places: of the character of each byte
    data = b"".join(chunks)
    for i in range(len(data) + final):
        piece = decoder.decode(data[i : i + 1], final=i == len(data))
        pending += i < len(data)
        if piece:
            # Of several characters the last is this byte's own: those before it are what was no character.
            end, held, own = size + len(piece.encode()), len(decoder.getstate()[0]), len(piece) > 1 and i < len(data)
            wrong = end - len(piece[-1].encode()) if own else end
            places += [ByteSpan(size, wrong)] * (pending - held - own) + [ByteSpan(wrong, end)] * own
            pieces.append(piece)
            size, pending = end, held
    places += [ByteSpan(size, size)] * (pending + 1)  # what is left out, and the end of the text
    starts = accumulate(map(len, chunks), initial=0)
    return Located("".join(pieces), tuple(map(part_of, repeat(places), starts, chunks)))


def part_of(places: Sequence[ByteSpan], start: int, chunk: bytes) -> ByteSpan:
    first = places[start].start
    return ByteSpan(first, places[start + len(chunk) - 1].end) if chunk else ByteSpan(first, first)


def lexeme(data: bytes, span: ByteSpan) -> ByteSpan:
    """A span drawn out to the ends of the words that it cuts: half a name cannot be mended alone."""
    if span.start >= span.end:
        return span
    before = takewhile(is_word, reversed(data[: span.start])) if is_word(data[span.start]) else ()
    after = takewhile(is_word, data[span.end :]) if is_word(data[span.end - 1]) else ()
    return ByteSpan(span.start - sum(1 for _ in before), span.end + sum(1 for _ in after))


def is_word(byte: int) -> bool:
    return byte >= 0x80 or byte == 0x5F or chr(byte).isalnum()
