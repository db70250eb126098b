"""The reference of all attention paths: explicit scores under a dense boolean mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unmask.training.layout import Bools


def attend_dense(q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, mask: Bools) -> Tensor:
    """Softmax attention of q [T, H, K] over k, v [S, G, K], where mask [T, S] is True; [T, H, K]."""
    share = q_THK.shape[1] // k_SGK.shape[1]
    k, v = k_SGK.repeat_interleave(share, dim=1), v_SGK.repeat_interleave(share, dim=1)
    scores = torch.einsum("qhk,shk->hqs", q_THK, k) / math.sqrt(q_THK.shape[2])
    hidden = torch.from_numpy(~mask).to(scores.device)
    return torch.einsum("hqs,shk->qhk", scores.masked_fill(hidden, -math.inf).softmax(dim=-1), v)
