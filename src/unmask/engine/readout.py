"""Logits of the rows that were asked for -> picks and their numbers, on the device, in one small tensor.

The vocabulary-sized logits live for one chunk of rows only. Greedy rows without extras cost an argmax and no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from unmask.engine.largest import best, next_best
from unmask.engine.noise import gumbel
from unmask.types import Ids, IdSet, Plan, Read, Request, Row, Sampling

# id, prob, second, second_prob, entropy, given_prob, logprob; then the top ids and their log-probabilities.
COLUMNS = 7
# Rows that are picked from at a time: what is computed of their logits stays in a processor's cache, and is little.
PICK_ROWS = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """One row to read. position: absolute position of the token that is chosen. context: (ids, of them prompt) seen.

    adapter: of its span. before: what stands before the chosen token, where the plan says so: an id, or ~(which row of
    all that the plan reads has it as its pick). allowed: the ids that may be picked, None for all.
    """

    request: Request
    read: Read
    position: int
    given: int
    context: tuple[Ids, Ids] | None
    adapter: str | None = None
    before: int | None = None
    allowed: IdSet | None = None

    @property
    def banned(self) -> Ids:
        """Ids that may not be picked here."""
        request = self.request
        mask = (request.traits.mask_id,) if self.read.bans_mask and request.traits.mask_id is not None else ()
        early = self.position - len(request.prompt) < request.min_tokens
        return (*mask, *request.stop_ids) if early else mask

    @property
    def plain(self) -> bool:
        """Whether the pick is the bare argmax and nothing else is wanted."""
        sampling, read = self.request.sampling, self.read
        alters = sampling.temperature > 0 or sampling.penalised or sampling.logit_bias or self.banned
        asks = read.detail or read.top is not None or self.given >= 0
        return not (alters or asks or self.allowed is not None)


def wanted(request: Request, plan: Plan) -> list[Wanted]:
    """The rows that a plan reads, in order."""
    found = list[Wanted]()
    starts = list(accumulate((len(read.rows) for read in plan.reads), initial=0))
    for read in plan.reads:
        span = plan.spans[read.span]
        given = read.given or (-1,) * len(read.rows)
        follows = read.follows or (None,) * len(read.rows)
        allowed = read.allowed or (None,) * len(read.rows)
        for row, known, after, ids in zip(read.rows, given, follows, allowed, strict=True):
            context = seen_ids(request, plan, read.span, row) if request.sampling.penalised else None
            before = ~(starts[after[0]] + after[1]) if isinstance(after, tuple) else after
            place = span.start + row + read.shift
            found.append(Wanted(request, read, place, known, context, span.adapter, before, ids))
    return found


def seen_ids(request: Request, plan: Plan, span: int, row: int) -> tuple[Ids, Ids]:
    """(prompt ids, output ids) that a row sees: what penalties count."""
    before = len(request.context)
    prompt, output = list[int](plan.history[:before]), list[int](plan.history[before:])
    own = plan.spans[span]
    parts = [(plan.spans[earlier], rows) for earlier, rows in own.sees]
    parts.append((own, len(own.tokens) if own.full else row + 1))
    for part, rows in parts:
        for i, token in enumerate(part.tokens[:rows]):
            if not (part.masked and part.masked[i]):
                (prompt if request.given(part.start + i) else output).append(token)
    return tuple(prompt), tuple(output)


def wide(dtype: torch.dtype) -> torch.dtype:
    """In which picks are computed: float32, or float64 where the model is."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pick(logits_RV: Tensor, rows: Sequence[Wanted], most: int) -> Tensor:
    """[R, COLUMNS + 2 * most] in the logits' dtype (float32 at least), `most` the largest top asked; see `unpack`."""
    packed = logits_RV.new_zeros(len(rows), COLUMNS + 2 * most, dtype=wide(logits_RV.dtype))
    if all(row.plain for row in rows):
        packed[:, 0] = best(logits_RV)
        return packed
    raw = logits_RV.to(packed.dtype)
    adjusted = adjust(raw, rows)
    picked = best(adjusted)
    sampled = dict[Sampling, list[int]]()
    for i, row in enumerate(rows):
        if row.request.sampling.temperature > 0:
            sampled.setdefault(row.request.sampling, []).append(i)
    for sampling, indices in sampled.items():
        noise = gumbel(sampling.seed, [rows[i].position for i in indices], raw.shape[1], raw.device)
        picked[indices] = (truncate(adjusted[indices] / sampling.temperature, sampling) + noise).argmax(dim=-1)
    packed[:, 0] = picked
    detailed = [i for i, row in enumerate(rows) if row.read.detail or row.given >= 0]
    if detailed:
        packed[detailed, 1:6] = details(some(adjusted, detailed), picked[detailed], [rows[i] for i in detailed])
    logged = [i for i, row in enumerate(rows) if row.read.top is not None]
    if logged:
        # The model's own log-probabilities: before bans, penalties, bias, temperature.
        logs = some(raw, logged).log_softmax(dim=-1)
        packed[logged, 6] = logs.gather(1, picked[logged][:, None])[:, 0]
        if most:
            top = logs.topk(min(most, logs.shape[1]), dim=-1)
            packed[logged, COLUMNS : COLUMNS + top.indices.shape[1]] = top.indices.to(packed.dtype)
            packed[logged, COLUMNS + most : COLUMNS + most + top.indices.shape[1]] = top.values
    return packed


def some(values_RV: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows in ascending order; all of them are not copied."""
    return values_RV if len(rows) == len(values_RV) else values_RV[rows]


def adjust(raw_RV: Tensor, rows: Sequence[Wanted]) -> Tensor:
    """Logits after penalties, bias, bans and what is not allowed; `raw_RV` itself where no row has any."""
    bounded = [i for i, row in enumerate(rows) if row.allowed is not None]
    if not bounded and not any(row.banned or row.context or row.request.sampling.logit_bias for row in rows):
        return raw_RV
    adjusted = raw_RV.clone()
    for i, row in enumerate(rows):
        sampling = row.request.sampling
        if row.context:
            penalise(adjusted[i], row.context, sampling)
        if sampling.logit_bias:
            ids, biases = zip(*sampling.logit_bias, strict=True)
            adjusted[i, list(ids)] += torch.tensor(biases, dtype=adjusted.dtype, device=adjusted.device)
    bans = [(i, token) for i, row in enumerate(rows) for token in row.banned]
    if bans:
        places = torch.tensor(bans, device=adjusted.device)
        adjusted[places[:, 0], places[:, 1]] = -math.inf
    if bounded:
        inside = torch.from_numpy(members([rows[i].allowed or b"" for i in bounded], raw_RV.shape[1]))
        adjusted[bounded] = adjusted[bounded].masked_fill(~inside.to(adjusted.device), -math.inf)
    return adjusted


def members(sets: Sequence[IdSet], vocab_size: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """bool [R, V]: which ids are in which set. Ids that no token stands for are in none."""
    packed = np.zeros((len(sets), -(-vocab_size // 8)), dtype=np.uint8)
    for row, ids in zip(packed, sets, strict=True):
        row[: len(ids)] = np.frombuffer(ids[: len(row)], dtype=np.uint8)
    return np.unpackbits(packed, axis=1, count=vocab_size, bitorder="little").view(np.bool_)


def penalise(logits_V: Tensor, context: tuple[Ids, Ids], sampling: Sampling) -> None:
    """In place. Repetition over prompt and output; presence and frequency over output."""
    prompt, output = context
    if sampling.repetition_penalty != 1.0 and (prompt or output):
        ids = torch.tensor(sorted(set(prompt + output)), device=logits_V.device)
        seen = logits_V[ids]
        logits_V[ids] = torch.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
    if output and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = torch.bincount(torch.tensor(output, device=logits_V.device), minlength=len(logits_V)).to(logits_V)
        logits_V -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)


def truncate(logits_RV: Tensor, sampling: Sampling) -> Tensor:
    """-inf outside top_k, then top_p (the fewest tokens that reach it), then min_p, each of what is left."""
    if 0 < sampling.top_k < logits_RV.shape[1]:
        kth = logits_RV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < kth, -math.inf)
    if sampling.top_p < 1:
        ordered, order = logits_RV.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(dim=-1)
        beyond = probs.cumsum(dim=-1) - probs >= sampling.top_p
        logits_RV = logits_RV.masked_fill(beyond.scatter(1, order, beyond), -math.inf)
    if sampling.min_p > 0:
        floor = logits_RV.amax(dim=-1, keepdim=True) + math.log(sampling.min_p)
        logits_RV = logits_RV.masked_fill(logits_RV < floor, -math.inf)
    return logits_RV


def details(adjusted_RV: Tensor, picked_R: Tensor, rows: Sequence[Wanted]) -> Tensor:
    """[R, 5]: probability of the pick, the best other id and its probability, entropy, probability of the given id.

    Of the distribution without temperature or noise, in which masked ids have no share.
    """
    # Not logsumexp: its sum over a long row is split by how many rows there are, and "exact" must not depend on that.
    logs_RV = adjusted_RV.log_softmax(dim=-1)
    prob = logs_RV.gather(1, picked_R[:, None])[:, 0].exp()
    second, second_log = next_best(logs_RV, picked_R)
    entropy = torch.zeros_like(prob)
    if any(row.read.entropy for row in rows):
        entropy = -(logs_RV.exp() * logs_RV.clamp(min=torch.finfo(logs_RV.dtype).min)).sum(dim=-1)
    given = torch.tensor([max(row.given, 0) for row in rows], device=adjusted_RV.device)
    known = logs_RV.gather(1, given[:, None])[:, 0].exp()
    numbers = torch.stack((prob, second.to(prob), second_log.exp(), entropy, known), dim=1)
    # An infinite bias, or a ban of every id, leaves no distribution; strategies still do arithmetic with the numbers.
    return numbers.nan_to_num(nan=0.0)


def unpack(values: Sequence[float], row: Wanted) -> Row:
    """One row of `pick`'s result, on the host, as the strategies read it."""
    top, width = row.read.top, (len(values) - COLUMNS) // 2
    if top is None:
        return Row(int(values[0]), values[1], int(values[2]), values[3], values[4], values[5])
    ids, logs = values[COLUMNS : COLUMNS + top], values[COLUMNS + width : COLUMNS + width + top]
    ranked = tuple((int(i), log) for i, log in zip(ids, logs, strict=True))
    return Row(int(values[0]), values[1], int(values[2]), values[3], values[4], values[5], values[6], ranked)
