"""What a cheaper arithmetic costs in quality: perplexity on some texts, and how often the likeliest token changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from unmask.evaluation.likelihood import causal, checked, log, memory
from unmask.lm import LM
from unmask.types import Ids, Row


class Loss(NamedTuple):
    """perplexity: of the model; reference: of the one it is compared with, on the same tokens. agreement: share of
    places at which both find the same token likeliest, given the same tokens before."""

    perplexity: float
    reference: float
    agreement: float
    tokens: int


def loss(lm: LM, reference: LM, texts: Sequence[str], most: int = 512) -> Loss:
    """Compare two loadings of one model (quantised or not, exact or fast). most: tokens of each text that are read.

    ValueError where no text has two tokens.
    """
    total = expected = same = count = 0.0
    for text in texts:
        ids = lm.encode(text)[:most]
        for mine, theirs in zip(rows_of(lm, ids), rows_of(reference, ids), strict=True):
            total += log(mine)
            expected += log(theirs)
            same += mine.id == theirs.id
            count += 1
    if not count:
        raise ValueError("the texts hold no token that another one follows")
    return Loss(math.exp(-total / count), math.exp(-expected / count), same / count, int(count))


def rows_of(lm: LM, ids: Ids) -> list[Row]:
    """The row before each token but the first, with that token's probability."""
    if len(ids) < 2:
        return []
    ids = checked(lm, ids[:1], ids[1:])
    with memory(lm, len(ids)) as pages:
        return list(causal(lm, ids, 0, len(ids) - 1, 0, pages))
