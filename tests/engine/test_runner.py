"""Paged, ragged forwards against a dense reference without a cache, and what may never change a row's bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.tiny import VOCAB, decoder, shared
from unmask import visibility
from unmask.config import EngineConfig
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch, Decoder
from unmask.types import Ids, Plan, Read, Request, Rows, Span

SIZE, PAGES = 4, 48
TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5).map(tuple)


@dataclass(frozen=True)
class Work:
    """One request: what its cache holds, and the plan that runs on top of it."""

    context: Ids
    plan: Plan

    @property
    def all_spans(self) -> tuple[Span, ...]:
        """The context as a first causal span that every row of the plan sees."""
        if not self.context:
            return self.plan.spans
        sees = (0, len(self.context))
        later = (
            Span(s.tokens, s.start, s.full, (sees, *((e + 1, n) for e, n in s.sees)), s.adapter, s.masked)
            for s in self.plan.spans
        )
        return (Span(self.context, 0), *later)


@st.composite
def works(draw: st.DrawFn) -> Work:
    context = draw(st.lists(st.integers(0, VOCAB - 1), max_size=14).map(tuple))
    spans = list[Span]()
    for index in range(draw(st.integers(1, 4))):
        tokens = draw(TOKENS)
        earlier = draw(st.sets(st.integers(0, index - 1))) if index else set()
        spans.append(
            Span(
                tokens,
                len(context) + draw(st.integers(0, 6)),
                draw(st.booleans()),
                tuple((e, draw(st.integers(0, len(spans[e].tokens)))) for e in sorted(earlier)),
                draw(st.sampled_from([None, "draft"])),
                tuple(draw(st.booleans()) for _ in tokens),
            )
        )
    reads = list[Read]()
    for _ in range(draw(st.integers(0, 3))):
        span = draw(st.integers(0, len(spans) - 1))
        rows = draw(st.lists(st.integers(0, len(spans[span].tokens) - 1), min_size=1, max_size=6))
        reads.append(Read(span, tuple(rows), top=3, detail=True))
    return Work(context, Plan(tuple(spans), tuple(reads)))


def runner(dtype: torch.dtype = torch.float64, exact: bool = False) -> Runner:
    config = EngineConfig(page_size=SIZE, exactness="exact" if exact else "fast")
    return Runner(shared(dtype, exact), config, PAGES)


def execute(run: Runner, works_: list[Work], pages: list[list[int]]) -> list[Rows]:
    """Write each context, then run all plans in one forward."""
    request = Request((0,), 1)
    filled = [
        Job(request, Plan((Span(work.context, 0),), ()), 0, own)
        for work, own in zip(works_, pages, strict=True)
        if work.context
    ]
    if filled:
        run.run(filled)
    return run.run([Job(request, work.plan, len(work.context), own) for work, own in zip(works_, pages, strict=True)])


def deal(works_: list[Work], seed: int | None) -> list[list[int]]:
    """Pages for each request: adjacent, or (with a seed) scattered over the memory."""
    order = list(range(PAGES)) if seed is None else np.random.default_rng(seed).permutation(PAGES).tolist()
    dealt = list[list[int]]()
    for work in works_:
        count = -(-(len(work.context) + work.plan.rows) // SIZE)
        dealt.append(order[:count])
        order = order[count:]
    return dealt


def dense(model: Decoder, work: Work) -> Tensor:
    """Logits [R, V] of the rows that the plan reads, from one dense forward over context and plan."""
    return model.logits(dense_hidden(model, work))


def dense_hidden(model: Decoder, work: Work, adapter: str = "draft") -> Tensor:
    """The hidden states [R, D] behind those."""
    spans = work.all_spans
    starts = visibility.offsets(spans)
    rows = [(start + i, span, i) for start, span in zip(starts, spans, strict=False) for i in range(len(span.tokens))]
    positions = [span.start + i for _, span, i in rows]
    gated = [row for row, span, _ in rows if span.adapter]
    unknown = [row for row, span, i in rows if span.adapter and span.masked and span.masked[i]]
    batch = Batch(
        torch.tensor([span.tokens[i] for _, span, i in rows]),
        torch.tensor(positions),
        max(positions),
        {adapter: torch.tensor(gated)} if gated else {},
        {adapter: torch.tensor(unknown)} if unknown else {},
    )
    hidden = model(batch, dense_attend(visibility.mask(spans)))
    shift = len(spans) - len(work.plan.spans)
    return hidden[[starts[read.span + shift] + row for read in work.plan.reads for row in read.rows]]


def check_dense(works_: list[Work], seed: int | None, exact: bool) -> None:
    run = runner(exact=exact)
    found = execute(run, works_, deal(works_, seed))
    for work, rows in zip(works_, found, strict=True):
        if not work.plan.reads:
            assert rows == ()
            continue
        logs = dense(run.decoder, work).log_softmax(dim=-1)
        assert [row.id for row in rows] == logs.argmax(dim=-1).tolist()
        top = logs.topk(3, dim=-1)
        assert [[i for i, _ in row.top] for row in rows] == top.indices.tolist()
        np.testing.assert_allclose([[log for _, log in row.top] for row in rows], top.values.numpy(), atol=1e-10)
        np.testing.assert_allclose([row.prob for row in rows], top.values[:, 0].exp().numpy(), atol=1e-10)


@given(st.lists(works(), min_size=1, max_size=3), st.none() | st.integers(0, 99), st.booleans())
@settings(max_examples=120)
def test_rows_equal_a_dense_forward_without_cache(works_: list[Work], seed: int | None, exact: bool) -> None:
    check_dense(works_, seed, exact)


def test_rows_read_out_of_order_are_the_rows_that_were_named() -> None:
    """As many reads as rows, in another order: what a block with slots to place and slots to revise asks for."""
    check_dense(
        [Work((1, 2), Plan((Span((3, 4, 5, 6), 2, True),), (Read(0, (1, 3, 0, 2), top=3, detail=True),)))], None, False
    )


def test_a_long_context_is_read_in_several_tiles() -> None:
    """Exact attention takes keys 512 at a time and 16 rows of two query heads."""
    context = tuple((7 * i * i + 3) % VOCAB for i in range(600))
    plan = Plan((Span(context[:33], 600), Span((5, 6), 605, True, ((0, 5),))), (Read(0, (0, 32)), Read(1, (1,))))
    work = Work(context, plan)
    config = EngineConfig(page_size=64, exactness="exact")
    run = Runner(shared(exact=True), config, 12)
    (rows,) = execute(run, [work], [[3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2]])
    assert [row.id for row in rows] == dense(run.decoder, work).argmax(dim=-1).tolist()


@given(
    st.lists(works(), min_size=2, max_size=4),
    st.integers(0, 99),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=60)
def test_exact_rows_have_the_same_bits_alone_and_among_others(
    works_: list[Work], seed: int, dtype: torch.dtype
) -> None:
    """Other batch mates, other pages, another order: in "exact" not a bit of what is read changes."""
    together = execute(runner(dtype, exact=True), works_, deal(works_, seed))
    for work, rows in zip(works_, together, strict=True):
        assert execute(runner(dtype, exact=True), [work], deal([work], None)) == [rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_rows_have_the_same_bits_one_by_one_and_at_once(dtype: torch.dtype) -> None:
    """A verifier's rows are the rows of AR: causal rows computed together, in chunks, or each alone."""
    assert runner(dtype, exact=True).same_alone()
    ids = tuple((11 * i + 5) % VOCAB for i in range(40))
    found = list[list[object]]()
    for chunk in (40, 7, 1):
        run, rows = runner(dtype, exact=True), list[object]()
        for start in range(0, 40, chunk):
            part = ids[start : start + chunk]
            plan = Plan((Span(part, start),), (Read(0, tuple(range(len(part))), top=3, detail=True),))
            rows += run.run([Job(Request((0,), 1), plan, start, list(range(10, 20)))])[0]
        found.append(rows)
    assert found[0] == found[1] == found[2]


@given(st.lists(works(), min_size=1, max_size=3), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=60)
def test_an_adapter_changes_no_row_that_does_not_name_it(works_: list[Work], exact: bool, dtype: torch.dtype) -> None:
    """Bit for bit, in the same batch: rows of plans without the adapter, beside plans with it."""
    plain = [
        Work(
            work.context, Plan(tuple(Span(s.tokens, s.start, s.full, s.sees) for s in work.plan.spans), work.plan.reads)
        )
        for work in works_
    ]
    config = EngineConfig(page_size=SIZE, exactness="exact" if exact else "fast")
    bare = Runner(decoder(dtype, adapters=()), config, PAGES)
    mixed = [*plain, *works_]
    with_adapter = execute(runner(dtype, exact), mixed, deal(mixed, None))[: len(plain)]
    without = execute(bare, mixed, deal(mixed, None))[: len(plain)]
    assert with_adapter == without


def test_an_adapter_changes_the_rows_that_name_it() -> None:
    spans = [Span((1, 2, 3), 0, True, (), name) for name in (None, "draft")]
    plans = [Work((), Plan((span,), (Read(0, (0, 1, 2), top=3),))) for span in spans]
    plain, adapted = execute(runner(), plans, deal(plans, None))
    assert all(left != right for left, right in zip(plain, adapted, strict=True))


def test_measuring_gives_a_time_for_every_count() -> None:
    table = runner().measure((1, 4, 9), list(range(3)), repeats=1)
    assert [count for count, _ in table] == [1, 4, 9]
    assert all(seconds > 0 for _, seconds in table)


def test_own_time_leaves_out_what_others_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that others hold for a while shows on the wall and not in the time of the thread."""
    run, plain = runner(), Runner.run

    def held(self: Runner, jobs: Sequence[Job]) -> list[Rows]:
        time.sleep(0.05)
        return plain(self, jobs)

    monkeypatch.setattr(Runner, "run", held)
    ((_, wall),) = run.measure((1,), [0], repeats=1)
    ((_, own),) = run.measure((1,), [0], repeats=1, own=True)
    assert wall >= 0.05 > own > 0
