"""Row-gated low-rank adapters: they add scale * B A x to a projection, on the rows that name them and on no other.

Rows without the adapter are not touched at all, so the causal rows of a base model stay that model, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from unmask.model.checkpoint import AdapterWeights
    from unmask.model.decoder import Decoder


class LowRank(nn.Module):
    """LoRA (arXiv 2106.09685). a: [r, in], b: [out, r]; scale: alpha / r."""

    def __init__(self, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x_TD: Tensor) -> Tensor:
        return (x_TD @ self.a.T) @ self.b.T * self.scale


def attach(decoder: Decoder, name: str, weights: AdapterWeights) -> None:
    """Make the adapter `name` available to rows that ask for it; ValueError where a target does not exist."""
    projections, dtype = decoder.projections(), decoder.model.embed_tokens.weight.dtype
    device = decoder.model.embed_tokens.weight.device
    for target, (a, b) in weights.matrices.items():
        if target not in projections:
            raise ValueError(f"adapter {name!r} targets {target!r}, which this model does not have")
        projections[target].adapters[name] = LowRank(a.to(device, dtype), b.to(device, dtype), weights.scale)
    if weights.mask_embedding is not None:
        decoder.mask_embeddings[name] = weights.mask_embedding.to(device, torch.float32)


def detach(decoder: Decoder, name: str) -> None:
    """Forget the adapter `name`."""
    for projection in decoder.projections().values():
        projection.adapters.pop(name, None)
    decoder.mask_embeddings.pop(name, None)
