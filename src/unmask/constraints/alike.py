"""Which states of a language are alike as far as one token can tell: what may follow them is then found once for all
languages of a vocabulary. A string of JSON, or one with so many characters to go, is the same in every schema.
"""

from __future__ import annotations

import secrets
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unmask.constraints.columns import Columns

Numbers = NDArray[np.uint64]
MOST_CELLS = 1_000_000  # states times classes of bytes; beyond it nothing is compared
# By chance, so that nobody can write a language whose states are taken for others.
_chance = np.random.default_rng(secrets.randbits(128))
WEIGHTS: Numbers = _chance.integers(1, 1 << 63, size=256, dtype=np.uint64)
FINAL, COST, MIX = (np.uint64(int(value) | 1) for value in _chance.integers(1, 1 << 63, size=3, dtype=np.uint64))


def numbered(columns: Columns) -> dict[int, int]:
    """State -> a number that two states share if after every text of up to the longest token both or neither may end
    their rule or go on, with as many tokens then still needed. States of rules that call others have none.

    Each round takes what is known of all states one byte further: sums of what each byte leads to, times the weight of
    the byte, so that how bytes are grouped into classes does not matter.
    """
    grammar = columns.grammar
    bounds = [*grammar.start, len(grammar.edges)]
    ranges = [(a, b) for a, b in pairwise(bounds) if not any(grammar.calls[a:b])]
    states = [state for a, b in ranges for state in range(a, b)]
    if not states or len(states) * len(grammar.members) > MOST_CELLS:
        return {}
    local = {state: i for i, state in enumerate(states, start=1)}  # 0: no state
    to = np.zeros((len(grammar.members), len(states) + 1), dtype=np.int64)
    for i, state in enumerate(states, start=1):
        edges = grammar.edges[state]
        to[list(edges), i] = [local[after] for after in edges.values()]
    weights = np.asarray([[WEIGHTS[list(group)].sum()] for group in grammar.members], dtype=np.uint64)
    own = np.zeros(len(states) + 1, dtype=np.uint64)
    own[1:] = [columns.cost(state) for state in states]
    kinds = [0, *(1 + grammar.final[state] + 2 * bool(grammar.edges[state]) for state in states)]
    own = own * COST + FINAL * np.asarray(kinds, dtype=np.uint64)
    found, ahead = own, np.empty(to.shape, dtype=np.uint64)
    for _ in range(int(columns.vocabulary.trie.depth.max())):
        np.multiply(found.take(to, out=ahead, mode="clip"), weights, out=ahead)
        found = mixed(own + ahead.sum(axis=0, dtype=np.uint64))
        found[0] = 0
    return dict(zip(states, found[1:].tolist(), strict=True))


def mixed(values: Numbers) -> Numbers:
    values = (values ^ (values >> np.uint64(32))) * MIX
    return np.asarray(values ^ (values >> np.uint64(29)), dtype=np.uint64)
