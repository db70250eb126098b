"""A tokenizer as constraints see it: the bytes of every token that may be part of a text, and a trie over them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
LONGEST_CUT = 32
MOST_LONG = 1_000  # nodes of a trie on the way to its longest spellings, see `Trie.long`
MOST_KEPT = 200  # of what languages share, up to a few hundred kilobytes each


class Kept:
    """What was used last, of whatever is told apart by its key. May be used by several threads."""

    def __init__(self) -> None:
        self._found, self._lock = OrderedDict[Hashable, object](), Lock()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: Hashable) -> object:
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, value: object) -> None:
        with self._lock:
            self._found[key] = value
            self._found.move_to_end(key)
            if len(self._found) > MOST_KEPT:
                self._found.popitem(last=False)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """tokens: bytes by id; b"" for ids that no text may hold (special tokens, the mask, ids without a token).

    artificial_space: decoding takes one space off the beginning of a text, so texts begin with one.
    """

    tokens: tuple[bytes, ...]
    artificial_space: bool = False

    @cached_property
    def kept(self) -> Kept:
        """What languages have found out about it and share, see `masks.Masks.shared`."""
        return Kept()

    @property
    def size(self) -> int:
        return len(self.tokens)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Smallest id of each spelling."""
        found = dict[bytes, int]()
        for id, data in enumerate(self.tokens):
            if data:
                found.setdefault(data, id)
        return found

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest spelling that texts are cut by: longer ones are runs of spaces."""
        return min(max(map(len, self.ids), default=0), LONGEST_CUT)

    @cached_property
    def writable(self) -> frozenset[int]:
        """Bytes that are tokens by themselves: texts of these can always be written."""
        return frozenset(data[0] for data in self.ids if len(data) == 1)

    @cached_property
    def trie(self) -> Trie:
        return Trie.of(self.ids, self.tokens)

    def split(self, text: bytes) -> tuple[int, ...] | None:
        """The fewest tokens that spell `text`, whatever the tokenizer would do; None where none do."""
        child, ends, longest, size = self.trie.child, self.trie.ends, self.longest, len(text)
        fewest: list[int] = [0] * (size + 1)
        first: list[tuple[int, int]] = [(0, -1)] * size  # (bytes of the first token, its id)
        for i in range(size - 1, -1, -1):
            best, node = 1 << 30, 0
            for k in range(1, min(longest, size - i) + 1):
                node = child.get(node * 256 + text[i + k - 1], -1)
                if node < 0:
                    break
                if fewest[i + k] + 1 < best and ends[node] >= 0:
                    best, first[i] = fewest[i + k] + 1, (k, ends[node])
            fewest[i] = best
        if size and fewest[0] >= 1 << 30:
            return None
        found, place = list[int](), 0
        while place < size:
            width, token = first[place]
            found.append(token)
            place += width
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Trie:
    """Prefixes of spellings, breadth first, so that children of one node are neighbours. Node 0 is the empty one.

    byte: of the edge into a node. depth: its length. first, count: its children. node_of: node of each token id, -1 for
    none.
    """

    byte: Ints
    depth: Ints
    first: Ints
    count: Ints
    node_of: Ints

    @classmethod
    def of(cls, ids: dict[bytes, int], tokens: Sequence[bytes]) -> Trie:
        words = sorted(ids)
        bytes_, depths, first, count = [0], [0], [0], [0]
        place = dict[bytes, int]()
        # Per level: (node, range of words below it). Words are sorted, so those below a node are neighbours.
        level = [(0, 0, len(words))]
        depth = 0
        while level:
            below = list[tuple[int, int, int]]()
            for node, low, high in level:
                if low < high and len(words[low]) == depth:
                    place[words[low]] = node
                    low += 1
                first[node] = len(bytes_)
                while low < high:
                    letter, end = words[low][depth], low + 1
                    while end < high and words[end][depth] == letter:
                        end += 1
                    below.append((len(bytes_), low, end))
                    bytes_.append(letter)
                    depths.append(depth + 1)
                    first.append(0)
                    count.append(0)
                    count[node] += 1
                    low = end
            level, depth = below, depth + 1
        node_of = [place[data] if data else -1 for data in tokens]
        return cls(*(np.asarray(part, dtype=np.int32) for part in (bytes_, depths, first, count, node_of)))

    @cached_property
    def child(self) -> dict[int, int]:
        """Node and byte, as node * 256 + byte -> the node below."""
        nodes = np.arange(len(self.byte), dtype=np.int64).repeat(self.count)
        places = (self.first.repeat(self.count), self.count.cumsum().repeat(self.count), self.count.repeat(self.count))
        below = places[0] + np.arange(len(nodes)) - places[1] + places[2]
        return dict(zip((nodes * 256 + self.byte[below]).tolist(), below.tolist(), strict=True))

    @cached_property
    def long(self) -> tuple[int, dict[int, tuple[tuple[int, int], ...]]]:
        """(bytes, nodes on the way to all that is longer: (byte, node) below each), so that these nodes are few."""
        # Children stand in the order of their parents, behind the root.
        deepest, parent = self.depth.copy(), np.concatenate(([0], np.arange(len(self.depth)).repeat(self.count)))
        for depth in range(int(deepest.max()), 0, -1):
            level = np.flatnonzero(self.depth == depth)
            np.maximum.at(deepest, parent[level], deepest[level])
        size = int(np.sort(deepest)[-MOST_LONG - 1]) if len(deepest) > MOST_LONG else 0
        below = dict[int, tuple[tuple[int, int], ...]]()
        for node in np.flatnonzero(deepest > size)[1:].tolist():
            above = int(parent[node])
            below[above] = (*below.get(above, ()), (int(self.byte[node]), node))
        return size, below

    @cached_property
    def short(self) -> NDArray[np.bool_]:
        """Per token id, whether it has no more bytes than `long` says."""
        return np.asarray(self.depth[self.node_of] <= self.long[0])

    @cached_property
    def token_at(self) -> Ints:
        """Smallest token id that ends at each node, -1 for none."""
        found = np.full(len(self.byte), -1, dtype=np.int32)
        ids = np.nonzero(self.node_of >= 0)[0][::-1]
        found[self.node_of[ids]] = ids
        return found

    @cached_property
    def ends(self) -> list[int]:
        """`token_at`, for looking up one by one."""
        return [int(token) for token in self.token_at]

    @cached_property
    def doubles(self) -> tuple[Ints, Ints]:
        """(ids, ids spelled the same and smaller): tokens that `token_at` leaves out."""
        ids = np.nonzero(self.node_of >= 0)[0].astype(np.int32)
        smallest = self.token_at[self.node_of[ids]]
        others = ids != smallest
        return ids[others], smallest[others]
