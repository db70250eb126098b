"""Picks against a plain reference, one row at a time: every sampling parameter, ties, bans, and what is reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.engine.noise import gumbel
from unmask.engine.readout import pick, unpack, wanted
from unmask.types import Ids, Plan, Read, Request, Row, Sampling, Span, Traits

VOCAB, MASK = 13, 12
# Few different values, so that ties are common.
LOGITS = [-3.0, -1.0, -0.5, 0.0, 0.0, 0.25, 1.0, 2.0, 2.0, 7.0]
SAMPLING = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 3, VOCAB, 100]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
    min_p=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    logit_bias=st.sampled_from([(), ((3, 5.0),), ((0, -math.inf), (5, -1.5))]),
    seed=st.integers(-3, 3),
)
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6).map(tuple)


def allowed(logits: Sequence[float], sampling: Sampling) -> list[bool]:
    """top_k (and all that tie with its last), then top_p (the fewest that reach it, ties by id), then min_p."""
    keep = [value > -math.inf for value in logits]
    if 0 < sampling.top_k < VOCAB:
        kth = sorted(logits, reverse=True)[sampling.top_k - 1]
        keep = [value >= kth and kept for value, kept in zip(logits, keep, strict=True)]
    weights = [math.exp(value) if kept else 0.0 for value, kept in zip(logits, keep, strict=True)]
    reached, total = 0.0, sum(weights)
    for i in sorted(range(VOCAB), key=lambda i: -weights[i]):
        if sampling.top_p < 1 and reached >= sampling.top_p - 1e-9:
            keep[i] = False
        reached += weights[i] / total
    best = max(weight for weight, kept in zip(weights, keep, strict=True) if kept)
    return [kept and weight >= sampling.min_p * best * (1 - 1e-9) for weight, kept in zip(weights, keep, strict=True)]


def reference(raw: list[float], request: Request, read: Read, position: int, seen: Ids, given: int) -> Row:
    """One row in plain Python. seen: all ids before `position`."""
    sampling, prompt, logits = request.sampling, len(request.prompt), list(raw)
    for i in set(seen):
        factor = sampling.repetition_penalty
        logits[i] = logits[i] / factor if logits[i] > 0 else logits[i] * factor
    output = seen[prompt:]
    for i in set(output):
        logits[i] -= sampling.presence_penalty + sampling.frequency_penalty * output.count(i)
    for i, bias in sampling.logit_bias:
        logits[i] += bias
    banned = {MASK} if read.bans_mask else set()
    banned |= set(request.stop_ids) if position - prompt < request.min_tokens else set()
    for i in banned:
        logits[i] = -math.inf
    if sampling.temperature == 0:
        chosen = logits.index(max(logits))
    else:
        scaled = [value / sampling.temperature for value in logits]
        noise = gumbel(sampling.seed, [position], VOCAB, torch.device("cpu"))[0].tolist()
        keep = allowed(scaled, sampling)
        chosen = max((i for i in range(VOCAB) if keep[i]), key=lambda i: scaled[i] + noise[i])
    row = Row(chosen)
    probs = np.exp(np.array(logits) - np.logaddexp.reduce(logits))
    if read.detail or given >= 0:
        second = max((i for i in range(VOCAB) if i != chosen), key=lambda i: logits[i])
        entropy = float(-sum(p * math.log(p) for p in probs if p > 0)) if read.entropy else 0.0
        row = Row(chosen, probs[chosen], second, probs[second], entropy, probs[max(given, 0)])
    if read.top is None:
        return row
    logs = np.array(raw) - np.logaddexp.reduce(raw)
    best = sorted(range(VOCAB), key=lambda i: -logs[i])[: read.top]
    return row._replace(logprob=logs[chosen], top=tuple((i, logs[i]) for i in best))


@st.composite
def asked(draw: st.DrawFn) -> tuple[Request, Plan]:
    """A request whose plan is one causal span after some history, read at some rows in one or two ways."""
    prompt, history, tokens = draw(IDS), draw(IDS), draw(IDS)
    sampling = draw(SAMPLING)
    request = Request(
        prompt,
        20,
        sampling=sampling,
        traits=Traits(mask_id=MASK),
        min_tokens=draw(st.integers(0, 12)),
        stop_ids=draw(st.sampled_from([(), (2,), (2, 9)])),
    )
    rows = tuple(draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=4)))
    reads = tuple(
        Read(
            0,
            rows,
            given=tuple(draw(st.integers(-1, VOCAB - 1)) for _ in rows) if draw(st.booleans()) else (),
            detail=draw(st.booleans()),
            entropy=(detailed := draw(st.booleans())),
            top=draw(st.sampled_from([None, None, 0, 3])),
            bans_mask=detailed,
        )
        for _ in range(draw(st.integers(1, 2)))
    )
    kept = prompt + history
    return request, Plan((Span(tokens, len(kept)),), reads, kept if sampling.penalised else ())


def check(found: Row, expected: Row, read: Read, given_id: int) -> None:
    """All that the read asked for; what it did not ask for means nothing."""
    assert found.id == expected.id
    names = ["prob", "second_prob"] if read.detail else []
    names += ["entropy"] if read.detail and read.entropy else []
    names += ["given_prob"] if given_id >= 0 else []
    for name in names:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-5), name
    if read.detail:
        assert found.second == expected.second
    assert found.logprob == (None if read.top is None else pytest.approx(expected.logprob, abs=1e-5))
    # Equal logits may be listed in any order.
    assert len(found.top) == len({i for i, _ in found.top}) == len(expected.top)
    for (_, left), (_, right) in zip(found.top, expected.top, strict=True):
        assert left == pytest.approx(right, abs=1e-5)


@given(st.lists(asked(), min_size=1, max_size=3), st.randoms(), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=250)
def test_rows_equal_the_reference(plans: list[tuple[Request, Plan]], random: Random, dtype: torch.dtype) -> None:
    """Several requests at once, each row by its own request's rules."""
    rows = [row for request, plan in plans for row in wanted(request, plan)]
    raw = [random.choices(LOGITS, k=VOCAB) for _ in rows]
    logits = torch.tensor(raw, dtype=dtype)
    packed = pick(logits, rows, max(row.read.top or 0 for row in rows))
    assert torch.equal(logits, torch.tensor(raw, dtype=dtype)), "the logits were changed in place"
    i = 0
    for request, plan in plans:
        span = plan.spans[0]
        for read in plan.reads:
            for row, given_id in zip(read.rows, read.given or (-1,) * len(read.rows), strict=True):
                seen = plan.history + span.tokens[: row + 1] if request.sampling.penalised else ()
                position = span.start + row + 1
                expected = reference(raw[i], request, read, position, seen, given_id)
                check(unpack(packed[i].tolist(), rows[i]), expected, read, given_id)
                i += 1


def one(logits: Sequence[float] | Tensor, request: Request | None = None, **fields: Any) -> Row:
    request = request or Request((0,), 4, traits=Traits(mask_id=MASK))
    rows = wanted(request, Plan((Span((0,), 0),), (Read(0, (0,), **fields),)))
    packed = pick(torch.as_tensor(logits)[None], rows, rows[0].read.top or 0)
    return unpack(packed[0].tolist(), rows[0])


def test_ties_go_to_the_smallest_id() -> None:
    assert one([0.0, 3.0, 1.0, 3.0]).id == 1
    row = one([0.0, 3.0, 1.0, 3.0, *[0.0] * 9], detail=True)
    assert (row.id, row.second) == (1, 3)


def test_masked_rows_are_not_counted_by_penalties() -> None:
    """The mask id in a prompt is a token that was said; in a masked row it is nothing. Blocks see all of themselves."""
    request = Request((MASK,), 9, sampling=Sampling(frequency_penalty=1.0), traits=Traits(mask_id=MASK))
    block = Span((4, MASK, 4), 1, full=True, masked=(False, True, False))
    row = wanted(request, Plan((block,), (Read(0, (1,), shift=0),), (MASK,)))[0]
    assert row.context == ((MASK,), (4, 4))
    assert row.position == 2


def test_penalties_count_the_rows_that_a_span_sees() -> None:
    request = Request((1,), 9, sampling=Sampling(presence_penalty=1.0))
    spans = (Span((2, 3, 4), 1), Span((5, 6), 3, sees=((0, 2),)))
    rows = wanted(request, Plan(spans, (Read(1, (0, 1)),), (1,)))
    assert [row.context for row in rows] == [((1,), (2, 3, 5)), ((1,), (2, 3, 5, 6))]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(logit_bias=tuple((i, -math.inf) for i in range(VOCAB))),
        Sampling(logit_bias=((4, math.inf),)),
        Sampling(logit_bias=((4, math.inf),), temperature=1.0, top_p=0.5, top_k=3, min_p=0.2),
    ],
)
def test_numbers_stay_finite_under_infinite_bias(sampling: Sampling) -> None:
    """A strategy does arithmetic with them: one request's bias must not raise in the middle of everybody's step."""
    row = one(
        [0.5] * VOCAB, Request((0,), 4, sampling=sampling, traits=Traits(mask_id=MASK)), detail=True, entropy=True
    )
    assert all(math.isfinite(value) for value in row[1:6])
    if sampling.logit_bias[0][1] > 0:
        assert row.id == 4


@given(st.integers(0, 20), st.integers(1, 80))
def test_a_draft_and_its_verifier_draw_the_same(seed: int, position: int) -> None:
    """Reads with and without shift that choose the token of one position pick alike from equal logits."""
    logits = torch.linspace(0, 1, VOCAB)[torch.randperm(VOCAB, generator=torch.Generator().manual_seed(seed))]
    request = Request((0,), 99, sampling=Sampling(temperature=1.0, seed=seed))
    verify = wanted(request, Plan((Span((0,), position - 1),), (Read(0, (0,), shift=1),)))
    draft = wanted(request, Plan((Span((0, 0), position - 1, full=True),), (Read(0, (1,), shift=0),)))
    assert pick(logits[None], verify, 0)[0, 0] == pick(logits[None], draft, 0)[0, 0]
