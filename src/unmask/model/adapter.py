"""Row-gated low-rank adapters: they add scale * B A x to a projection, on the rows that name them and on no other.

Rows without the adapter are not touched at all, so the causal rows of a base model stay that model, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unmask.model.coherence import Coherence

if TYPE_CHECKING:
    from unmask.model.checkpoint import AdapterWeights
    from unmask.model.decoder import Decoder


class LowRank(nn.Module):
    """LoRA (arXiv 2106.09685). a: [r, in], b: [out, r]; scale: alpha / r.

    While it is trained its weights are float32, and it computes in the dtype of the rows.
    """

    def __init__(self, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x_TD: Tensor) -> Tensor:
        return (x_TD @ self.a.to(x_TD.dtype).T * self.scale) @ self.b.to(x_TD.dtype).T


def outside(gates: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Per adapter: bool [T, 1], true on the rows on which it does not act."""
    return {name: acts.new_ones(rows, 1, dtype=torch.bool).index_fill_(0, acts, False) for name, acts in gates.items()}


def attach(decoder: Decoder, name: str, weights: AdapterWeights) -> None:
    """Make the adapter `name` available to rows that ask for it, in place of another of that name.

    Raises ValueError, and changes nothing, where a target does not exist or has another shape, and for a decoder whose
    weights are packed already.
    """
    if decoder.packed:
        raise ValueError(f"adapter {name!r} has to be attached before the model's weights are packed")
    projections, embedding = decoder.projections(), decoder.model.embed_tokens.weight
    for target, (a, b) in weights.matrices.items():
        if target not in projections:
            raise ValueError(f"adapter {name!r} targets {target!r}, which this model does not have")
        outputs, inputs = projections[target].weight.shape
        if a.shape[1:] != (inputs,) or b.shape != (outputs, len(a)):
            raise ValueError(
                f"adapter {name!r}: {target!r} [{outputs}, {inputs}] and the adapter's matrices"
                f" {list(a.shape)} and {list(b.shape)} do not fit"
            )
    detach(decoder, name)
    for target, (a, b) in weights.matrices.items():
        low_rank = LowRank(
            a.to(embedding.device, embedding.dtype), b.to(embedding.device, embedding.dtype), weights.scale
        )
        projections[target].adapters[name] = low_rank
    if weights.mask_embedding is not None:
        decoder.mask_embeddings[name] = weights.mask_embedding.to(embedding.device, torch.float32)
    if weights.coherence is not None:
        decoder.coherence[name] = Coherence(*(part.to(embedding.device, embedding.dtype) for part in weights.coherence))


def detach(decoder: Decoder, name: str) -> None:
    """Forget the adapter `name`."""
    for projection in decoder.projections().values():
        projection.adapters.pop(name, None)
    decoder.mask_embeddings.pop(name, None)
    decoder.coherence.pop(name, None)
