"""Recorded forwards: the same rows as the plain ones, whatever is played into a recording afterwards.

There is no GPU here: a forward is recorded as the list of tensor operations that it was, which is what a CUDA graph is
too. What Python decided while it was recorded, such as a size or a mask, is then as fixed as it would be there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from tests.engine.test_runner import PAGES, SIZE, Work, deal, runner, works
from tests.engine.tiny import ADAPTERS, MASK, decoder, engine
from unmask.config import EngineConfig
from unmask.engine import graphs
from unmask.engine.graphs import Forward, Graphs, shape_of
from unmask.engine.runner import Follower, Part, Runner, trials
from unmask.types import Request, Span, Speculation, Traits


def traced(forward: Forward) -> Forward:
    return make_fx(forward)()


def paged_reference(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    edges: Tensor,
    cu_seq_k: None,
    rows: int,
    keys: int,
    *,
    seqused_k: Tensor,
    block_table: Tensor,
    enable_gqa: bool,
) -> Tensor:
    """`varlen_attn` over pages, by its documentation, in operations that a CPU has. Every request has as many rows."""
    requests = len(edges) - 1
    held = block_table.long()
    k, v = (part[held].flatten(1, 2)[:, :keys].transpose(1, 2) for part in (k_pages, v_pages))
    seen = torch.arange(k.shape[2])[None, None, None] < seqused_k[:, None, None, None]
    out = F.scaled_dot_product_attention(
        q.unflatten(0, (requests, rows)).transpose(1, 2), k, v, attn_mask=seen, enable_gqa=enable_gqa
    )
    return out.transpose(1, 2).flatten(0, 1)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "varlen_attn", paged_reference)


def parts_of(several: Sequence[Work], pages: Sequence[Sequence[int]]) -> list[Part]:
    return [Part(work.plan.spans, len(work.context), tuple(own)) for work, own in zip(several, pages, strict=True)]


def fill(run: Runner, several: Sequence[Work], pages: Sequence[Sequence[int]]) -> None:
    for work, own in zip(several, pages, strict=True):
        if work.context:
            run.plain([Part((Span(work.context, 0),), 0, tuple(own))])


@pytest.mark.parametrize("kind", ["paged", "gathered"])
@settings(max_examples=6, deadline=None)
@given(batches=st.lists(st.lists(works(), min_size=1, max_size=3), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_played_forwards_are_the_plain_ones(kind: Any, batches: list[list[Work]], seed: int) -> None:
    run, recorded = runner(), list[Forward]()

    def record(forward: Forward) -> Forward:
        recorded.append(traced(forward))
        return recorded[-1]

    with torch.inference_mode():
        made = Graphs(run.decoder, run.cache, SIZE, record, kind)
        for several in batches:
            pages = deal(several, seed)
            fill(run, several, pages)
            parts = parts_of(several, pages)
            expected, kept = run.plain(parts), (run.cache.keys.clone(), run.cache.values.clone())
            found = made.hidden(parts)
            if found is not None:
                torch.testing.assert_close(found, expected)
                for before, after in zip(kept, (run.cache.keys, run.cache.values), strict=True):
                    torch.testing.assert_close(after[:, : PAGES * SIZE], before[:, : PAGES * SIZE])
    assert len(recorded) == len(made.made), "one recording for each shape"


def rows(*lengths: int, kept: int = 0, full: bool = False) -> list[Part]:
    return [Part((Span((1,) * n, kept, full),), kept, tuple(range(9 * i, 9 * i + 9))) for i, n in enumerate(lengths)]


def test_which_shapes_there_are() -> None:
    assert shape_of(rows(1, 1, 1, kept=5), "paged") == ("paged", 4, 1, 256, ())
    assert shape_of(rows(4, 4, full=True), "paged") == ("paged", 2, 4, 256, ())
    assert shape_of(rows(4, 1, full=True), "gathered") == ("gathered", 2, 4, 256, ())
    assert shape_of(rows(3, 1), "paged") == ("gathered", 2, 4, 256, ()), "causal rows do not see all"
    assert shape_of(rows(1, kept=300), "paged") == ("paged", 1, 1, 512, ())
    assert shape_of(rows(257), "paged") is None, "large enough to keep a GPU busy"
    assert shape_of(rows(60, 1, 1, 1, 1), "paged") is None, "mostly filling"


def test_a_mixed_batch_of_requests_is_answered_alike() -> None:
    """The engine's own forwards, prompts and drafts among them."""
    traits = Traits(mask_id=MASK, trained=True, draft_adapter=ADAPTERS[0], denoise_adapter=ADAPTERS[0], block_size=4)
    asked = [
        Request((1, 2, 3), 12, traits=traits),
        Request((5, 6), 9, "linearspec", Speculation(3), traits=traits),
        Request((4,) * 11, 8, "fastdiffuser", traits=traits),
    ]

    def answers(record: Callable[[Forward], Forward] | None) -> list[tuple[int, ...]]:
        one = engine(pages=64, page_size=4)
        if record is not None:
            one.runner.graph(lambda: record)  # type: ignore[attr-defined]
        numbers, found = [one.submit(request) for request in asked], dict[int, tuple[int, ...]]()
        while one.busy:
            for update in one.step():
                found[update.id] = update.state.output
        made = one.runner.graphs  # type: ignore[attr-defined]
        assert (made is not None and len(made.made) > 3) == (record is not None)
        return [found[number] for number in numbers]

    assert answers(traced) == answers(None)


def test_what_is_not_the_same_is_not_used(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner()
    run.graph(lambda: lambda forward: forward)
    assert kind_of(run) == "paged"

    def absent(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(graphs, "varlen_attn", absent)
    with caplog.at_level(logging.WARNING, "unmask.engine"):
        run.graph(lambda: lambda forward: forward)
    assert kind_of(run) == "gathered"
    assert caplog.messages == ["no paged graphs: no such kernel"]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "unmask.engine"):
        run.graph(lambda: lambda forward: lambda: forward() + 1)
    assert kind_of(run) is None
    assert len(caplog.messages) == 2
    run.graph(lambda: lambda forward: lambda: forward() * float("nan"))
    assert kind_of(run) is None


def test_what_could_not_be_tried_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    run = runner()
    monkeypatch.setattr(graphs, "MOST_ROWS", 0)  # no forward is small enough to be recorded
    run.graph(lambda: lambda forward: forward)
    assert kind_of(run) is None


def kind_of(run: Runner) -> str | None:
    return None if run.graphs is None else run.graphs.kind


@pytest.mark.parametrize("page_size", [1, 4, 16, 64])
@pytest.mark.parametrize("pages", [1, 2, 15, 16, 100])
def test_trials_are_of_every_kind_and_fit(page_size: int, pages: int) -> None:
    several = trials(page_size, pages, [None, "draft"])
    if not several:
        assert pages * page_size < 100
        return
    shapes = [shape for parts in several if (shape := shape_of(parts, "paged"))]
    assert {(shape.kind, shape.requests, bool(shape.adapters)) for shape in shapes} == {
        (kind, requests, adapted) for kind in ("paged", "gathered") for requests in (1, 2) for adapted in (False, True)
    }
    assert max(shapes.count(shape) for shape in shapes) >= 2, "each is played again"
    for parts in several:
        own = [page for part in parts for page in part.pages]
        assert len(own) == len(set(own))
        assert max(own) < pages
        assert all(part.kept + sum(len(s.tokens) for s in part.spans) <= len(part.pages) * page_size for part in parts)


def test_one_recording_that_fails_later_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    run, short = runner(), list[str]()

    def record(forward: Forward) -> Forward:
        if short:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return forward

    run.graph(lambda: record)
    assert run.graphs is not None
    short.append("of memory")
    parts = rows(1, 1, 1, 1, 1, 1, 1, 1, kept=5)
    with caplog.at_level(logging.WARNING, "unmask.engine"), torch.inference_mode():
        for _ in range(2):
            assert torch.equal(run.hidden(parts), run.plain(parts))
    assert len(caplog.messages) == 1, "it is tried once"
    assert "is not recorded: CUDA out of memory" in caplog.text


def test_the_shapes_that_are_not_played_any_more_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    run = runner()
    made = Graphs(run.decoder, run.cache, SIZE, lambda forward: forward, "gathered")
    with torch.inference_mode():
        for n in (1, 2, 1, 3):
            assert made.hidden(rows(n, kept=5)) is not None
    assert [shape.rows for shape in made.made] == [1, 4]


def test_no_place_behind_the_last_position_is_recorded() -> None:
    run = runner()
    made = Graphs(run.decoder, run.cache, SIZE, lambda forward: forward, "gathered")
    last = run.decoder.config.max_position
    with torch.inference_mode():
        for start, there in ((last - 2, True), (last - 1, False)):
            part = Part((Span((1, 2), start),), 3, tuple(range(9)))
            assert (made.hidden([part]) is not None) == there


def test_another_process_of_a_shared_model_records_nothing() -> None:
    run = Follower(decoder(), EngineConfig(page_size=SIZE), PAGES)
    run.graph(lambda: lambda forward: forward)
    assert run.graphs is None
