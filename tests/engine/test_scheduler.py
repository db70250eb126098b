"""The scheduler, scripted: who is admitted, who runs, who must give way, and that nobody waits for ever. No tensors."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from tests.engine.scripted import Scripted, drain, request, scripted, step, truth
from unmask.types import Diffusion, Ids, Request, Sampling, Speculation


def ran(runner: Scripted) -> list[list[int]]:
    """Seeds of the requests in each forward."""
    return [[job.request.sampling.seed for job in jobs] for jobs in runner.forwards]


def seeded(*seeds: int, **fields: Any) -> list[Request]:
    return [request(sampling=Sampling(seed=seed), **fields) for seed in seeds]


def test_waiting_requests_are_admitted_in_order_up_to_max_live() -> None:
    engine, runner = scripted(pages=200, max_live=2)
    for one in seeded(1, 2, 3, max_tokens=2):
        engine.submit(one)
    drain(engine)
    assert ran(runner) == [[1, 2], [1, 2], [3], [3]]


def test_one_forward_stays_within_its_row_budget() -> None:
    engine, runner = scripted(pages=200, max_rows=10)
    for one in seeded(1, 2, 3, 4, length=4):
        engine.submit(one)
    drain(engine)
    assert max(sum(job.plan.rows for job in jobs) for jobs in runner.forwards) <= 10
    assert ran(runner)[:2] == [[1, 2], [3, 4, 1, 2]]


def test_a_plan_larger_than_the_budget_runs_alone() -> None:
    engine, runner = scripted(pages=200, max_rows=4)
    engine.submit(request(length=9, sampling=Sampling(seed=1)))
    engine.submit(request(length=3, sampling=Sampling(seed=2)))
    drain(engine)
    assert ran(runner)[0] == [1]


def test_rows_are_shared_fairly_not_turns() -> None:
    """Where rows are short, sixteen requests of one row each get as many rows as one with blocks of sixteen."""
    engine, runner = scripted(pages=2000, max_rows=16)
    block = request(
        length=1, max_tokens=400, strategy="fastdiffuser", settings=Diffusion(16, confidence_threshold=None)
    )
    engine.submit(replace(block, sampling=Sampling(seed=100)))
    for one in seeded(*range(16), length=1, max_tokens=300):
        engine.submit(one)
    for _ in range(200):
        engine.step()
    rows = {True: 0, False: 0}
    for jobs in runner.forwards:
        for job in jobs:
            rows[job.request.strategy == "ar"] += job.plan.rows
    assert rows[True] / 16 == pytest.approx(rows[False], rel=0.1)


def test_newcomers_do_not_starve_a_large_plan() -> None:
    """An endless stream of small requests, each with the least rows charged, and one that needs the whole forward."""
    engine, runner = scripted(pages=400, max_rows=16)
    block = Diffusion(16, confidence_threshold=None)
    engine.submit(request(length=1, max_tokens=64, strategy="fastdiffuser", settings=block, sampling=Sampling(seed=-1)))
    outputs = dict[int, Ids]()
    for seed in range(200):
        engine.submit(request(length=1, max_tokens=8, sampling=Sampling(seed=seed)))
        step(engine, outputs)
    turns = [i for i, seeds in enumerate(ran(runner)) if -1 in seeds]
    # Eight others are decoded at a time, one row each: the seventeen rows of the block come up every seventeen steps.
    assert max(later - earlier for earlier, later in pairwise([*turns, 200])) <= 18


def crowd(count: int, length: int, max_tokens: int) -> list[Request]:
    return [request(length, max_tokens, sampling=Sampling(seed=seed)) for seed in range(count)]


def test_preempted_requests_resume_and_no_id_changes() -> None:
    engine, _ = scripted(pages=27, prefill_chunk=8)
    asked = crowd(9, length=5, max_tokens=20)
    numbers = [engine.submit(one) for one in asked]
    outputs = drain(engine)
    assert engine.scheduler.preemptions > 0
    assert [outputs[number] for number in numbers] == [truth(one) for one in asked]


def test_the_oldest_is_never_preempted() -> None:
    """So the oldest always comes to its end, and then the next one does, though it is charged most and loses least."""
    engine, _ = scripted(pages=40, prefill_chunk=8)
    block = Diffusion(8, confidence_threshold=None)
    first = engine.submit(request(1, 40, strategy="fastdiffuser", settings=block, sampling=Sampling(seed=100)))
    for one in crowd(7, length=20, max_tokens=24):
        engine.submit(one)
    oldest, written = engine.requests[first], 0
    outputs = dict[int, Ids]()
    while first in engine.requests:
        step(engine, outputs)
        assert oldest.written >= written, "the oldest lost its rows"
        written = oldest.written
    assert engine.scheduler.preemptions > 0
    drain(engine, outputs)


def test_a_request_is_admitted_when_all_its_ids_fit() -> None:
    """Else a preempted one writes its first rows again and again, and loses them each time."""
    engine, runner = scripted(pages=40, prefill_chunk=4)
    asked = crowd(8, length=40, max_tokens=24)
    for one in asked:
        engine.submit(one)
    drain(engine)
    needed = sum(len(one.prompt) + one.max_tokens for one in asked)
    assert sum(job.plan.rows for jobs in runner.forwards for job in jobs) < 1.5 * needed


@pytest.mark.parametrize("strategy", ["ar", "linearspec", "quadspec", "adaptivespec", "fastdiffuser"])
def test_shared_pages_are_never_written_when_a_request_resumes(strategy: str) -> None:
    """Twins: one is preempted with fewer rows kept than its twin has labelled, and resumes on the twin's pages."""
    engine, _ = scripted(pages=120, size=2, prefill_chunk=4)
    settings_ = {"fastdiffuser": Diffusion(8, confidence_threshold=0.85)}.get(strategy, Speculation(6))
    twin = request(length=9, max_tokens=40, strategy=strategy, settings=settings_)
    numbers = [engine.submit(twin) for _ in range(2)]
    outputs = dict[int, Ids]()
    for turn in range(60):
        later = engine.requests.get(numbers[1])
        if later in engine.scheduler.live and turn % 4 == 3:
            engine.scheduler.preempt(later)
            engine.scheduler.waiting.clear()  # held back for a step, so that its twin is ahead of it
            step(engine, outputs)
            engine.scheduler.add(later)
        step(engine, outputs)
    drain(engine, outputs)
    assert [outputs[number] for number in numbers] == [truth(twin)] * 2


@pytest.mark.parametrize("when", ["waiting", "prefilling", "decoding", "drafted", "preempted", "rebuilding", "done"])
def test_cancel_in_every_phase(when: str) -> None:
    engine, _ = scripted(pages=64, prefill_chunk=4, prefix_reuse=False)
    other = request(length=5, max_tokens=12, sampling=Sampling(seed=1))
    one = request(length=10, max_tokens=12, strategy="linearspec", settings=Speculation(4))
    kept, number = engine.submit(other), engine.submit(one)
    outputs, live = dict[int, Ids](), engine.requests[number]

    def reached() -> bool:
        return {
            "waiting": True,
            "prefilling": 0 < live.state.kept < 10,
            "decoding": bool(live.state.output) and not live.state.block,
            "drafted": bool(live.state.block),
            "preempted": live in engine.scheduler.waiting,
            "rebuilding": live.rebuilding and live.written > 0,
            "done": number not in engine.requests,
        }[when]

    preempt = when in ("preempted", "rebuilding")
    while not (reached() and not preempt):
        step(engine, outputs)
        if preempt and live.state.output:
            engine.scheduler.preempt(live)
            preempt = False
    engine.cancel(number)
    engine.cancel(number)
    engine.check()
    assert not live.pages
    assert number not in engine.requests
    rest = drain(engine, outputs)
    assert rest[kept] == truth(other)
    assert rest.get(number, ()) == truth(one)[: len(rest.get(number, ()))]
    assert engine.pages.in_use == 0


def test_cancel_of_an_unknown_number_is_no_error() -> None:
    scripted()[0].cancel(17)


def test_the_engine_rests_once_whenever_nobody_is_left() -> None:
    engine, _ = scripted(pages=200)
    rested = list[int]()
    engine.rest = lambda: rested.append(len(engine.requests))
    first = [engine.submit(one) for one in seeded(1, 2, max_tokens=3)]
    engine.cancel(first[0])
    assert rested == []
    drain(engine)
    assert rested == [0]
    last = engine.submit(request())
    engine.cancel(last)
    engine.cancel(last)
    assert rested == [0, 0]
