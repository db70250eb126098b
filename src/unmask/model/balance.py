"""Shares the range of rows and weights before both are rounded to 8 bits: rows are divided by a factor per channel,
the weights that read them multiplied by it (SmoothQuant, arXiv 2211.10438 equation 4, alpha = 1/2).

A few channels after a norm are many times larger than the rest, and would leave those only a few of the 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch, Decoder

# Some of what models read: prose, code, a chat, numbers, a table.
TEXT = """The committee met on Tuesday to discuss the new budget. "We have three options," said Dr. Alvarez, who has led
the group since 1998: cut costs, raise fees, or wait. In the end, nobody agreed; the vote was 7 to 6.

def mean(values):
    # The average of a list of numbers.
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else None

User: How do I boil an egg?
Assistant: 1. Bring water to a boil. 2. Lower the egg in gently. 3. Wait 7-8 minutes, then cool it in ice water.

| name | price | 2021 |
|------|-------|------|
| tea  | $3.50 | 12%  |
"""
# What read the outputs of a norm: the factors go into the norm's weight, and cost nothing when the model runs.
HEAD = "lm_head"
READERS = ("q_proj", "gate_proj", HEAD)


@torch.no_grad()
def peaks(decoder: Decoder, ids: Sequence[int]) -> dict[str, Tensor]:
    """float32 [D] per projection in `READERS`: the largest magnitude of each channel of its rows over some tokens."""
    found, hooks = dict[str, Tensor](), []

    def watch(name: str, rows_TD: Tensor) -> None:
        found[name] = rows_TD.float().abs().amax(dim=0)

    for name, projection in decoder.projections().items():
        if name.endswith(READERS) and name != HEAD:
            hooks.append(projection.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs[0])))
    count, device = len(ids), decoder.model.embed_tokens.weight.device
    batch = Batch(torch.tensor(ids, device=device), torch.arange(count, device=device), count - 1)
    hidden_TD = decoder(batch, dense_attend(np.tril(np.ones((count, count), dtype=np.bool_))))
    watch(HEAD, decoder.model.norm(hidden_TD))  # what the head reads; its logits are nobody's business, and large
    for hook in hooks:
        hook.remove()
    return found


def factors(rows_D: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """float32 [D] for rows of such peaks and the matrices [O, D] that read them: powers of two, which round nothing."""
    heavy = torch.stack([weight.detach().abs().amax(dim=0) for weight in weights]).float().amax(dim=0)
    log = 0.5 * (rows_D.clamp(min=1e-4).log2() - heavy.clamp(min=1e-4).log2())
    return (log - log.mean()).round().exp2()


def balances(decoder: Decoder, ids: Sequence[int]) -> Mapping[str, Tensor]:
    """Factors per projection in `READERS`; those that read the same rows share them."""
    places, found = decoder.projections(), dict[str, Tensor]()
    for name, peak in peaks(decoder, ids).items():
        owner, _, leaf = name.rpartition(".")
        group = {"q_proj": ("q_proj", "k_proj", "v_proj"), "gate_proj": ("gate_proj", "up_proj")}.get(leaf, (leaf,))
        found[name] = factors(peak, [places[f"{owner}.{part}".lstrip(".")].weight for part in group])
    return found
