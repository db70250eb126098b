"""Drafts chosen one after the other: each masked slot among its candidates, by the token that stands before it.

The masks of a group share one forward, and so far no row knew what its neighbours become. What stands before the first
of them is known, or it is the verifier's pick in the very same forward. Needs a drafter with a coherence head.
Shapes: R rows, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.engine.noise import gumbel
from unmask.engine.readout import COLUMNS, Wanted, adjust, truncate, wide
from unmask.model.coherence import Coherence, candidates
from unmask.model.decoder import Decoder
from unmask.types import Sampling


def linked(decoder: Decoder, row: Wanted) -> Coherence | None:
    """The head that chooses for this row, if one does."""
    return None if row.before is None else decoder.coherence.get(row.adapter or "")


def levels(before: Sequence[int], rows: Sequence[int]) -> list[list[int]]:
    """Places in `rows`, grouped so that what a row follows is settled in an earlier group.

    before: per row in `rows`, ~(the row it follows), or a token id. A row that is not in `rows` is settled.
    """
    place = {row: i for i, row in enumerate(rows)}
    depth, groups = list[int](), list[list[int]]()
    for follows in before:
        earlier = place.get(~follows) if follows < 0 else None
        depth.append(0 if earlier is None else depth[earlier] + 1)
    for i, level in enumerate(depth):
        while len(groups) <= level:
            groups.append([])
        groups[level].append(i)
    return groups


class Shortlist(NamedTuple):
    """Of some rows: logits, ids and noise of their candidates [R, C], and the log of the whole mass [R]."""

    logits: Tensor
    ids: Tensor
    noise: Tensor
    mass: Tensor


def shortlist(logits_RV: Tensor, rows: Sequence[Wanted]) -> Shortlist:
    """The rows' candidates after bans, bias and penalties."""
    adjusted = adjust(logits_RV.to(wide(logits_RV.dtype)), rows)
    values, ids = candidates(adjusted)
    noise = torch.zeros_like(values)
    for i, row in enumerate(rows):
        if row.request.sampling.temperature > 0:
            every = gumbel(row.request.sampling.seed, [row.position], adjusted.shape[1], adjusted.device)
            noise[i] = every[0, ids[i]].to(noise.dtype)
    return Shortlist(values, ids, noise, adjusted.logsumexp(dim=-1))


def joined(parts: Sequence[Shortlist]) -> Shortlist:
    return Shortlist(*(torch.cat(each) for each in zip(*parts, strict=True)))


def settle(
    head: Coherence,
    decoder: Decoder,
    normed_RD: Tensor,
    short: Shortlist,
    rows: Sequence[Wanted],
    places: Sequence[int],
    picks: Tensor,
) -> Tensor:
    """[R, COLUMNS] as `readout.pick` packs them: id, probability, runner-up and its probability.

    places: where the rows stand in `picks`, int64 ids of all rows that are read; entries of `places` are written.
    A row's `before` counts from the same start.
    """
    before, where = [row.before or 0 for row in rows], torch.tensor(places, device=picks.device)
    own, outputs = head.own(normed_RD), decoder.lm_head.weight[short.ids].to(head.out.dtype)
    scores, chosen = short.logits.clone(), torch.zeros_like(where)
    for level in levels(before, places):
        index = torch.tensor(level, device=picks.device)
        follows = torch.tensor([before[i] for i in level], device=picks.device)
        known = torch.where(follows < 0, picks[torch.where(follows < 0, ~follows, 0)], follows)
        change = head.change(own[index], decoder.model.embed_tokens.weight[known])
        drawn = torch.bmm(outputs[index], change[..., None])[..., 0] + short.logits[index]
        scores[index] = drawn
        for sampling, few in by_sampling([rows[i] for i in level]).items():
            if sampling.temperature > 0:
                drawn[few] = truncate(drawn[few] / sampling.temperature, sampling) + short.noise[index[few]]
        chosen[index] = best = drawn.argmax(dim=-1)
        picks[where[index]] = short.ids[index, best]
    share = (short.logits.logsumexp(dim=-1) - short.mass).exp()[:, None]
    probs = scores.softmax(dim=-1) * share
    second = probs.scatter(1, chosen[:, None], -1.0).max(dim=-1)
    numbers = (
        picks[where].to(scores.dtype),
        probs.gather(1, chosen[:, None])[:, 0],
        short.ids.gather(1, second.indices[:, None])[:, 0].to(scores.dtype),
        second.values,
    )
    packed = scores.new_zeros(len(rows), COLUMNS)
    packed[:, : len(numbers)] = torch.stack(numbers, dim=1).nan_to_num(nan=0.0)
    return packed


def by_sampling(rows: Sequence[Wanted]) -> dict[Sampling, list[int]]:
    found = dict[Sampling, list[int]]()
    for i, row in enumerate(rows):
        found.setdefault(row.request.sampling, []).append(i)
    return found
