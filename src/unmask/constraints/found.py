"""The tokens from some place inside a rule, as they are kept, and how those of one state are had from those of another.

States that are alike for all tokens but the longest, such as those of a string that may have so many characters more,
share what was found for the others: few tokens are long, and only these are read anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.constraints.columns import Column, Columns
from unmask.constraints.grammar import FAR
from unmask.constraints.vocabulary import Ints, Trie

NO_BITS = np.empty(0, dtype=np.uint8)
# Nodes of a trie that can be read: (node, as `Table.inside`, as `Table.ended`).
Long = tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """ids, costs: tokens that end inside the rule, and the tokens then needed to its end; ids None: of every token.
    ends: tokens that end exactly with the rule. open: trie nodes below which tokens go on after it has ended. most: at
    least the largest of the costs but FAR. packed: of every token, which may come at all, eight to a byte.
    """

    ids: Ints | None
    costs: Ints
    ends: Ints
    open: Ints
    most: int
    packed: NDArray[np.uint8]


def long_nodes(columns: Columns, begin: Column) -> Long:
    """Nodes of more bytes than `Trie.long` says that can be read from `begin`."""
    size, below = columns.vocabulary.trie.long
    found, inside = list[tuple[int, int, bool]](), dict[Column, int]()
    stack = [(0, 0, begin)]
    while stack:
        node, depth, column = stack.pop()
        for byte, child in below.get(node, ()):
            after = columns.step(column, byte)
            if after is None:
                continue
            stack.append((child, depth + 1, after))
            if depth >= size:
                if after not in inside:
                    inside[after] = columns.inside(after)
                found.append((child, inside[after], after.accepting))
    return tuple(found)


def lengthened(like: Found, long: Long, trie: Trie) -> Found:
    """What is found from a state that is alike up to the bytes of `Trie.long`, with these nodes beyond it."""
    size, short = trie.long[0], trie.short
    nodes, inside, kinds = (np.asarray([at[i] for at in long], dtype=np.int32) for i in range(3))
    tokens, ended = trie.token_at.take(nodes), kinds.astype(np.bool_)
    alive = (tokens >= 0) & (inside < FAR)
    ends = np.concatenate((like.ends[short[like.ends]], tokens[ended & (tokens >= 0)]))
    further = nodes[ended & (trie.count[nodes] > 0)]
    open_ = np.concatenate((like.open[trie.depth[like.open] <= size], further))
    most = max(like.most, int(inside[alive].max(initial=-1)))
    if like.ids is not None:
        kept = short[like.ids]
        ids = np.concatenate((like.ids[kept], tokens[alive]))
        return Found(ids, np.concatenate((like.costs[kept], inside[alive])), ends, open_, most, NO_BITS)
    every = np.where(short, like.costs, FAR)
    every[tokens[alive]] = inside[alive]
    return Found(None, every, ends, open_, most, np.packbits(every < FAR, bitorder="little"))
