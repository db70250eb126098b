"""How a vocabulary spells text: the byte alphabet of byte-level BPE, or SentencePiece's "▁" and "<0xNN>".

Every token stands for a fixed run of bytes. Joining bytes instead of decoding ids again is what lets text be streamed,
stopped and constrained in time linear in its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers.decoders import Decoder

_SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: visible Latin-1 characters stand for themselves, U+0100... for the rest."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
_LETTER_OF = {byte: letter for letter, byte in _BYTE_OF.items()}


@dataclass(frozen=True, slots=True)
class Spelling:
    """The rules that turn one vocabulary entry into bytes.

    byte_level: entries are written in GPT-2's byte alphabet; else in plain text with "▁" for a space.
    byte_fallback: entries like "<0xE2>" are single bytes.
    artificial_space: encoding put a space before the text, so decoding takes one off again.
    """

    byte_level: bool
    byte_fallback: bool = False
    artificial_space: bool = False

    def to_bytes(self, entry: str) -> bytes:
        """The bytes that a vocabulary entry stands for."""
        if self.byte_level:
            try:
                return bytes(_BYTE_OF[letter] for letter in entry)
            except KeyError:  # an entry outside the alphabet was added as plain text
                return entry.encode()
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(entry)):
            return bytes([int(match[1], 16)])
        return entry.replace(_SPACE, " ").encode()

    def to_entry(self, text: str) -> str:
        """How the vocabulary would write `text` as one entry."""
        if self.byte_level:
            return "".join(_LETTER_OF[byte] for byte in text.encode())
        return text.replace(" ", _SPACE)


def spelling_of(decoder: Decoder | None) -> Spelling:
    """The spelling that undoes `decoder`'s work entry by entry, found by asking it to decode small probes.

    Raises ValueError for decoders that are neither byte-level nor SentencePiece-like (WordPiece, CTC, none).
    """
    if decoder is not None and decoder.decode(["aĠ"]) == "a ":
        return Spelling(byte_level=True)
    if decoder is not None and decoder.decode(["a", "▁b"]) == "a b":
        return Spelling(
            byte_level=False,
            byte_fallback=decoder.decode(["a", "<0x41>"]) == "aA",
            artificial_space=decoder.decode(["▁a"]) == "a",
        )
    name = type(decoder).__name__ if decoder is not None else "none"
    raise ValueError(f"tokenizer decoder {name} is not supported: use byte-level BPE or a SentencePiece vocabulary")
