"""Which states of a language are alike as far as one token can tell: what may follow them is then found once for all
languages of a vocabulary. A string of JSON, or one with so many characters to go, is the same in every schema.
"""

from __future__ import annotations

import secrets
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from unmask.constraints.columns import Columns

Numbers = NDArray[np.uint64]
MOST_CELLS = 1_000_000  # states times classes of bytes; beyond it nothing is compared
# By chance, so that nobody can write a language whose states are taken for others.
_chance = np.random.default_rng(secrets.randbits(128))
WEIGHTS: Numbers = _chance.integers(1, 1 << 63, size=256, dtype=np.uint64)
FINAL, COST, MIX = (np.uint64(int(value) | 1) for value in _chance.integers(1, 1 << 63, size=3, dtype=np.uint64))


def numbered(columns: Columns, size: int) -> dict[int, int]:
    """State -> a number that two states share if after every text of up to `size` bytes both or neither may end their
    rule or go on, with as many tokens then still needed. States of rules that call others have none.

    Each round takes what is known of all states one byte further: sums of what each byte leads to, times the weight of
    the byte, so that how bytes are grouped into classes does not matter.
    """
    grammar = columns.grammar
    bounds = [*grammar.start, len(grammar.edges)]
    ranges = [(a, b) for a, b in pairwise(bounds) if not any(grammar.calls[a:b])]
    states = [state for a, b in ranges for state in range(a, b)]
    if not states or len(states) * len(grammar.members) > MOST_CELLS:
        return {}
    local = np.zeros(len(grammar.edges), dtype=np.int64)
    local[states] = np.arange(len(states))
    edges = [grammar.edges[state] for state in states]
    to = local[np.fromiter(chain.from_iterable(map(dict.values, edges)), dtype=np.int64)]
    groups = np.asarray([WEIGHTS[list(group)].sum() for group in grammar.members], dtype=np.uint64)
    weights = groups[np.fromiter(chain.from_iterable(edges), dtype=np.int64)]
    counts = np.asarray([len(found) for found in edges])
    on = np.flatnonzero(counts)  # `reduceat` cannot do with states that have no edge
    starts = counts[on].cumsum() - counts[on]
    own = np.asarray([columns.cost(state) for state in states], dtype=np.uint64) * COST
    kinds = np.asarray([1 + grammar.final[state] for state in states]) + 2 * (counts > 0)
    own += kinds.astype(np.uint64) * FINAL
    found = own
    for _ in range(size if len(on) else 0):
        ahead = own.copy()
        ahead[on] += np.add.reduceat(found.take(to) * weights, starts)
        found = mixed(ahead)
    return dict(zip(states, found.tolist(), strict=True))


def mixed(values: Numbers) -> Numbers:
    values = (values ^ (values >> np.uint64(32))) * MIX
    return np.asarray(values ^ (values >> np.uint64(29)), dtype=np.uint64)
