"""Turns growing token ids into text that is safe to show, and finds stop strings on the way.

Safe means: no half characters, nothing that might still turn out to begin a stop string. Pure and linear in the output:
a `TextStream` is a value, feeding it gives the next one.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, replace

from unmask.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class StopHit:
    """A stop string was completed. text: which one. ids: how many of the fed ids it took, to cut them there."""

    text: str
    ids: int


@dataclass(frozen=True, slots=True)
class TextStream:
    """Where a stream of text stands.

    stops: stop strings; the match that ends first wins, of those the one that starts first. The text is cut before it.
    min_ids: a match must end in an id whose index is at least this. skip_special, continues: as `Tokenizer.decode`.
    skip: so many characters at the start are the prompt's own, written again (`text.healing`): not shown, not searched.
    hit: the stop string that ended the text, if one did; ids fed after it are ignored.
    The other fields are the state: ids fed, bytes of an unfinished character, text held back, whether text has begun.
    Raises ValueError for an empty stop string.
    """

    tokenizer: Tokenizer
    stops: tuple[str, ...] = ()
    min_ids: int = 0
    skip_special: bool = True
    continues: bool = False
    skip: int = 0
    hit: StopHit | None = None
    fed: int = 0
    unfinished: bytes = b""
    held: str = ""
    begun: bool = False

    def __post_init__(self) -> None:
        if "" in self.stops:
            raise ValueError("a stop string must not be empty")

    def feed(self, ids: Iterable[int]) -> tuple[TextStream, str]:
        """The stream after `ids`, any number of them, and the text that became safe."""
        stream, pieces = self, []
        for id in ids:
            if stream.hit:
                break
            stream, piece = stream._take(self.tokenizer.visible_bytes(id, self.skip_special), count=1)
            pieces.append(piece)
        return stream, "".join(pieces)

    def finish(self) -> tuple[TextStream, str]:
        """No more ids come: the stream and the text that was held back. A cut-off character becomes U+FFFD."""
        return (self, "") if self.hit else self._take(b"", final=True)

    def _take(self, data: bytes, count: int = 0, final: bool = False) -> tuple[TextStream, str]:
        """The bytes of one token: the text they complete is searched, then all but a possible beginning is let go."""
        fed, begun = self.fed + count, self.begun or bool(data)
        if not self.begun and self.tokenizer.spelling.artificial_space and not self.continues:
            data = data.removeprefix(b" ")
        text, used = codecs.utf_8_decode(self.unfinished + data, "replace", final)
        unfinished, skip = (self.unfinished + data)[used:], max(self.skip - len(text), 0)
        window = self.held + text[self.skip :]
        if fed > self.min_ids and (match := _first_match(window, self.stops, len(self.held))):
            start, stop = match
            hit = StopHit(stop, fed)
            return replace(self, hit=hit, fed=fed, skip=0, unfinished=b"", held="", begun=True), window[:start]
        cut = len(window) if final else len(window) - _undecided(window, self.stops)
        stream = replace(self, fed=fed, skip=skip, unfinished=unfinished, held=window[cut:], begun=begun)
        return stream, window[:cut]


def _first_match(text: str, stops: tuple[str, ...], seen: int) -> tuple[int, str] | None:
    """Start and text of the stop string that ends first, of those that end after the `seen` leading characters."""
    found = []
    for stop in stops:
        start = text.find(stop, max(0, seen + 1 - len(stop)))
        if start >= 0:
            found.append((start + len(stop), start, stop))
    return min(found)[1:] if found else None


def _undecided(text: str, stops: tuple[str, ...]) -> int:
    """How many last characters of `text` may be the beginning of a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        end = text[-size:]
        if any(len(stop) > size and stop.startswith(end) for stop in stops):
            return size
    return 0
