"""The coherence head of a drafter: chooses a draft's tokens one after the other among what its masks proposed.

Masks of a group are filled in one forward, each blind to what the others become; the head lets a choice depend on the
token before it. After the sampler head of "Your LLM Knows the Future" (arXiv 2507.11851), on few candidates.
Shapes: R rows, D hidden, W width, V vocabulary, C candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from unmask.model.decoder import Decoder

CANDIDATES = 32
# Where the names begin under which an adapter's file has the head's three matrices.
PREFIX = "coherence."
# Values of one row that `candidates` compares at a time.
_STRIPE = 64


class Coherence(nn.Module):
    """A change of a mask's final hidden state, given the embedding of the token that was chosen before it.

    hidden, token: [W, D]; out: [D, W]. Both inputs are scaled to unit mean square, so that no scale is learned.
    """

    def __init__(self, hidden: Tensor, token: Tensor, out: Tensor) -> None:
        super().__init__()
        self.hidden, self.token, self.out = nn.Parameter(hidden), nn.Parameter(token), nn.Parameter(out)

    def forward(self, hidden_RD: Tensor, before_RD: Tensor) -> Tensor:
        """[R, D] in the weights' dtype. hidden: after the final norm; before: embedding of the token before."""
        return self.change(self.own(hidden_RD), before_RD)

    def own(self, hidden_RD: Tensor) -> Tensor:
        """[R, W]: what a mask's own hidden state brings, whatever stands before it."""
        return F.linear(F.rms_norm(hidden_RD.to(self.hidden.dtype), hidden_RD.shape[-1:]), self.hidden)

    def change(self, own_RW: Tensor, before_RD: Tensor) -> Tensor:
        before = F.rms_norm(before_RD.to(self.token.dtype), before_RD.shape[-1:])
        return F.linear(F.silu(own_RW + F.linear(before, self.token)), self.out)


def rescored(
    decoder: Decoder, head: Coherence, hidden_RD: Tensor, before_R: Tensor, ids_RC: Tensor, logits_RC: Tensor
) -> Tensor:
    """[R, C] in the head's dtype: the logits that candidates have after the change. before: int64, token ids."""
    change = head(hidden_RD, decoder.model.embed_tokens.weight[before_R])
    outputs = decoder.lm_head.weight[ids_RC].to(change.dtype)
    return logits_RC.to(change.dtype) + torch.einsum("rd,rcd->rc", change, outputs)


def shapes(width: int, hidden: int) -> dict[str, tuple[int, int]]:
    """Of the matrices, in the order in which `Coherence` takes them."""
    return {"hidden": (width, hidden), "token": (width, hidden), "out": (hidden, width)}


def candidates(logits_RV: Tensor, count: int = CANDIDATES) -> tuple[Tensor, Tensor]:
    """(values, int64 ids) [R, C] of the largest logits, as topk gives them, C = min(count, V).

    Any of the `count` largest lies in one of the `count` stripes with the largest maxima, so only those are sorted:
    topk over a whole vocabulary takes several times as long on a CPU.
    """
    rows, size = logits_RV.shape
    whole = size - size % _STRIPE
    if whole < 4 * count * _STRIPE:
        best = logits_RV.topk(min(count, size), dim=-1)
        return best.values, best.indices
    stripes = logits_RV[:, :whole].reshape(rows, -1, _STRIPE)
    chosen = stripes.amax(dim=-1).topk(count, dim=-1).indices
    values = stripes.gather(1, chosen[..., None].expand(-1, -1, _STRIPE)).reshape(rows, -1)
    ids = (chosen[..., None] * _STRIPE + torch.arange(_STRIPE, device=chosen.device)).reshape(rows, -1)
    if whole < size:
        values = torch.cat((values, logits_RV[:, whole:]), dim=1)
        ids = torch.cat((ids, torch.arange(whole, size, device=ids.device).expand(rows, -1)), dim=1)
    best = values.topk(count, dim=-1)
    return best.values, ids.gather(1, best.indices)
