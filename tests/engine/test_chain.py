"""Drafts chosen one after the other: against a plain loop over rows, in a batch with others, greedy and sampled."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_runner import Work, deal, dense_hidden, execute, runner
from tests.engine.tiny import MASK, VOCAB
from unmask.decoding import adaptivespec, linearspec, quadspec
from unmask.engine.chain import levels
from unmask.engine.noise import gumbel
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.coherence import CANDIDATES
from unmask.types import Draft, Request, Row, Sampling, Speculation, State, Traits

TRAITS = Traits(MASK, draft_adapter="linked", seed="copy")


@pytest.mark.parametrize(
    ("before", "rows", "groups"),
    [
        ([], [], []),
        ([5, 6], [0, 3], [[0, 1]]),  # ids only
        ([~0, ~1, ~2], [1, 2, 3], [[0], [1], [2]]),  # a chain behind a row that is settled
        ([~0, ~2, 9, ~4], [2, 3, 4, 5], [[0, 2], [1, 3]]),  # two chains at once
    ],
)
def test_levels(before: list[int], rows: list[int], groups: list[list[int]]) -> None:
    assert levels(before, rows) == groups


def expected(run: Runner, work: Work, request: Request) -> list[Row]:
    """One row after the other, in plain steps; only id, probability and runner-up."""
    model, hidden = run.decoder, dense_hidden(run.decoder, work, "linked")
    normed, logits = model.model.norm(hidden), model.logits(hidden)
    head, found = model.coherence["linked"], list[Row]()
    starts = [sum(len(read.rows) for read in work.plan.reads[:i]) for i in range(len(work.plan.reads))]
    temperature, seed = request.sampling.temperature, request.sampling.seed
    for read in work.plan.reads:
        span = work.plan.spans[read.span]
        for j, row in enumerate(read.rows):
            i = len(found)
            scores = logits[i].clone()
            if read.bans_mask:
                scores[MASK] = -math.inf
            mass, position = scores.softmax(dim=-1), span.start + row + read.shift
            noise = gumbel(seed, [position], VOCAB, scores.device)[0] if temperature else torch.zeros(VOCAB)
            places = torch.arange(VOCAB)
            if read.follows and span.adapter == "linked":
                after = read.follows[j]
                token = after if isinstance(after, int) else found[starts[after[0]] + after[1]].id
                change = head(normed[i : i + 1], model.model.embed_tokens.weight[[token]])[0]
                places = scores.topk(CANDIDATES).indices
                scores = (scores + model.lm_head.weight @ change)[places]
            probs = scores.softmax(dim=-1) * mass[places].sum()
            best = int((scores / temperature + noise[places] if temperature else scores).argmax())
            second = int(probs.scatter(0, torch.tensor([best]), -1.0).argmax())
            found.append(Row(int(places[best]), float(probs[best]), int(places[second]), float(probs[second])))
    return found


@st.composite
def plans(draw: st.DrawFn) -> tuple[Request, Work]:
    ids = draw(st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=9).map(tuple))
    sampling = Sampling(temperature=draw(st.sampled_from([0.0, 0.8])), seed=draw(st.integers(0, 9)))
    strategy, settings = draw(st.sampled_from(["linearspec", "quadspec", "adaptivespec"])), Speculation(5, lookup=0)
    request = Request(ids[:-1], 20, strategy, settings, sampling, TRAITS)
    state = State(request, kept=len(ids) - 1, output=ids[-1:])
    if strategy == "linearspec":
        return request, Work(ids[:-1], linearspec.need(state))
    drafted = draw(st.lists(st.integers(0, VOCAB - 1), max_size=4))
    state = replace(state, draft=tuple(Draft(token, 0.5, (token + 1) % VOCAB, 0.3) for token in drafted))
    if strategy == "adaptivespec":
        memory = adaptivespec.start(request).memory
        return request, Work(ids[:-1], adaptivespec.need(replace(state, memory=memory)))
    groups, other = tuple(range(len(drafted) + 1)), (0,) if drafted else ()
    return request, Work(ids[:-1], quadspec.plan_of(state, quadspec.Layout(len(drafted), 4, groups, other, other)))


@given(st.lists(plans(), min_size=1, max_size=3))
def test_rows_equal_a_plain_loop(parts: list[tuple[Request, Work]]) -> None:
    run, works = runner(), [work for _, work in parts]
    pages = deal(works, None)
    execute(run, works, pages)  # the contexts are in the cache now
    jobs = [Job(request, work.plan, len(work.context), own) for (request, work), own in zip(parts, pages, strict=True)]
    for (request, work), rows in zip(parts, run.run(jobs), strict=True):
        for row, wanted in zip(rows, expected(run, work, request), strict=True):
            assert row.id == wanted.id
            if work.plan.reads[0].detail or row.prob:
                assert row.second == wanted.second
                assert row.prob == pytest.approx(wanted.prob)
                assert row.second_prob == pytest.approx(wanted.second_prob)
