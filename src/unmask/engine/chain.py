"""Drafts chosen one after the other: each masked slot among its candidates, by the token that stands before it.

The masks of a group share one forward, and so far no row knew what its neighbours become. What stands before the first
of them is known, or it is the verifier's pick in the very same forward. Needs a drafter with a coherence head.
Shapes: R rows, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.engine.noise import gumbel
from unmask.engine.readout import COLUMNS, PICK_ROWS, Wanted, adjust, truncate, wide
from unmask.model.coherence import Coherence, candidates, rescored
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


def shortlist(logits_RV: Tensor, rows: Sequence[Wanted]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logits, ids, noise [R, C], log of the whole mass [R]) of the rows' candidates after bans, bias and penalties."""
    adjusted = adjust(logits_RV.to(wide(logits_RV.dtype)), rows)
    values, ids = candidates(adjusted)
    noise = torch.zeros_like(values)
    for i, row in enumerate(rows):
        if row.request.sampling.temperature > 0:
            every = gumbel(row.request.sampling.seed, [row.position], adjusted.shape[1], adjusted.device)
            noise[i] = every[0, ids[i]].to(noise.dtype)
    return values, ids, noise, adjusted.logsumexp(dim=-1)


def settle(
    head: Coherence,
    decoder: Decoder,
    normed_RD: Tensor,
    rows: Sequence[Wanted],
    places: Sequence[int],
    picks: Tensor,
    at_a_time: int,
) -> Tensor:
    """[R, COLUMNS] as `readout.pick` packs them: id, probability, runner-up and its probability.

    places: where the rows stand in `picks`, int64 ids of all rows that are read; entries of `places` are written.
    A row's `before` counts from the same start.
    """
    parts = list[tuple[Tensor, ...]]()
    for first in range(0, len(rows), at_a_time):
        logits, some = decoder.lm_head(normed_RD[first : first + at_a_time]), rows[first : first + at_a_time]
        parts += [shortlist(logits[i : i + PICK_ROWS], some[i : i + PICK_ROWS]) for i in range(0, len(some), PICK_ROWS)]
    values, ids, noise, total = (torch.cat(each) for each in zip(*parts, strict=True))
    packed = values.new_zeros(len(rows), COLUMNS)
    before = [row.before or 0 for row in rows]
    for level in levels(before, places):
        follows = torch.tensor([before[i] for i in level], device=picks.device)
        known = torch.where(follows < 0, picks[torch.where(follows < 0, ~follows, 0)], follows)
        index = torch.tensor(level, device=picks.device)
        scores = rescored(decoder, head, normed_RD[index], known, ids[index], values[index]).to(values.dtype)
        drawn = scores.clone()
        for sampling, few in by_sampling([rows[i] for i in level]).items():
            if sampling.temperature > 0:
                drawn[few] = truncate(scores[few] / sampling.temperature, sampling) + noise[index[few]]
        chosen = drawn.argmax(dim=-1, keepdim=True)
        share = (values[index].logsumexp(dim=-1) - total[index]).exp()[:, None]
        probs = scores.softmax(dim=-1) * share
        second = probs.scatter(1, chosen, -1.0).max(dim=-1)
        picked = ids[index].gather(1, chosen)[:, 0]
        picks[torch.tensor([places[i] for i in level], device=picks.device)] = picked
        numbers = (
            picked.to(values.dtype),
            probs.gather(1, chosen)[:, 0],
            ids[index].gather(1, second.indices[:, None])[:, 0].to(values.dtype),
            second.values,
        )
        packed[index, : len(numbers)] = torch.stack(numbers, dim=1).nan_to_num(nan=0.0)
    return packed


def by_sampling(rows: Sequence[Wanted]) -> dict[Sampling, list[int]]:
    found = dict[Sampling, list[int]]()
    for i, row in enumerate(rows):
        found.setdefault(row.request.sampling, []).append(i)
    return found
