"""AR negative log-likelihood alone: what a source model is asked for, whose diffusion side means nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unmask.model.decoder import Decoder
from unmask.training.attention import make_kernel
from unmask.training.forward import clean_first
from unmask.training.layout import lay_out
from unmask.training.measure import judge
from unmask.training.sample import Sample


def ar_nll(decoder: Decoder, samples: Sequence[Sample], mask_id: int, batch: int = 4, chunk: int = 256) -> float:
    """Nats per token over the samples' AR targets: `measure`'s "ar_nll", without noisy rows.

    mask_id: never predicted, so that a model with a mask token is compared with one that has none.
    batch: samples of a forward; chunk: rows whose logits exist at a time.
    """
    nll, targets = 0.0, 0
    for first in range(0, len(samples), batch):
        some = samples[first : first + batch]
        doubled = lay_out(some, [[] for _ in some], mask_id)
        if doubled.clean == 0:
            continue
        kernel = make_kernel(None, doubled, decoder.model.embed_tokens.weight.device)
        hidden = clean_first(decoder, doubled, kernel, None).clean
        rows = torch.from_numpy(doubled.ar).to(hidden.device)
        with torch.no_grad():
            found = judge(decoder, hidden[rows], doubled.ids[doubled.ar + 1], mask_id, chunk)
        nll, targets = nll + float(found.nll.sum()), targets + len(found.nll)
    return nll / max(targets, 1)
