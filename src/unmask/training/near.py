"""Near-identical texts, found by their word sequences: shingles, one-permutation MinHash, and a few buckets per text.

Small and deterministic (no random state): the same texts in the same order give the same verdicts on every machine.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_BINS, _ROWS = 128, 4  # 32 bands of 4 bins: texts that share half of their shingles meet in a bucket 9 times in 10
_EMPTY = np.uint64(2**64 - 1)


@lru_cache(maxsize=1 << 20)
def _word_hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def shingles(text: str, words: int) -> Hashes:
    """Sorted unique uint64 hashes of all sequences of so many words; case, spaces and punctuation do not count.

    A shorter text gives one hash of all it has; a text without words gives none.
    """
    return np.unique(_windows(_WORD.findall(text.lower()), words))


def _windows(found: list[str], words: int) -> Hashes:
    """One hash per sequence of words, in their order."""
    hashed = np.array([_word_hash(word) for word in found], dtype=np.uint64)
    if not hashed.size:
        return hashed
    length = min(words, hashed.size)
    windows = hashed.size - length + 1
    total = np.zeros(windows, dtype=np.uint64)
    for n in range(length):
        total = total * np.uint64(0x9E3779B97F4A7C15) + hashed[n : n + windows] + np.uint64(1)
    return _mixed(total)


def _mixed(x: Hashes) -> Hashes:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sketch(hashes: Hashes) -> Hashes:
    """[128]: the least hash of each of 128 bins; an empty bin borrows from the next filled one (arXiv 1406.4784)."""
    least = np.full(_BINS, _EMPTY, dtype=np.uint64)
    if not hashes.size:
        return least
    np.minimum.at(least, (hashes >> np.uint64(57)).astype(np.int64), hashes)
    filled = np.flatnonzero(least != _EMPTY)
    bins = np.arange(_BINS)
    donor = filled[np.searchsorted(filled, bins) % filled.size]
    distance = ((donor - bins) % _BINS).astype(np.uint64)
    return least[donor] + distance  # the distance keeps two borrowed bins from counting as agreement by chance


class Known:
    """The texts seen so far. likeness: estimated share of common shingles from which two texts count as the same."""

    def __init__(self, likeness: float = 0.7, words: int = 5) -> None:
        self.likeness, self.words = likeness, words
        self._sketches: list[Hashes] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = {}

    def add(self, text: str) -> int | None:
        """Remember a text and return None; where it is like one seen before, return that one's number instead."""
        mine = sketch(shingles(text, self.words))
        keys = [(band, mine[band : band + _ROWS].tobytes()) for band in range(0, _BINS, _ROWS)]
        for other in dict.fromkeys(number for key in keys for number in self._buckets.get(key, ())):
            if float(np.mean(self._sketches[other] == mine)) >= self.likeness:
                return other
        for key in keys:
            self._buckets.setdefault(key, []).append(len(self._sketches))
        self._sketches.append(mine)
        return None


class Forbidden:
    """Texts that must not appear in training data, not even in part.

    A text contains one of them where they share a telling sequence of 10 words: longer than idioms, shorter than any
    task. Telling: with 6 different words of 2 letters or more, which "0, 1, 2, 3, ..." and nested loops have not.
    """

    def __init__(self, texts: Iterable[str], words: int = 10, telling: int = 6) -> None:
        self.words = words
        hashes: list[Hashes] = [np.zeros(0, dtype=np.uint64)]
        for found in (_WORD.findall(text.lower()) for text in texts):
            spans = [found[n : n + words] for n in range(max(1, len(found) - words + 1))]
            keep = [len({word for word in span if len(word) > 1 and word.isalpha()}) >= telling for span in spans]
            hashes.append(_windows(found, words)[np.array(keep, dtype=bool)[: len(found)]])
        self._hashes = np.unique(np.concatenate(hashes))

    def found_in(self, text: str) -> bool:
        return bool(np.isin(shingles(text, self.words), self._hashes, assume_unique=True).any())
