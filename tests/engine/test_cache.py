"""The cache after every step: kept rows are those of a fresh prefill of the same ids, and no later step moves them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.test_promises import requests
from tests.engine.tiny import MASK, engine, shared
from unmask import visibility
from unmask.decoding import context_spans
from unmask.engine.engine import Engine
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Live
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch
from unmask.types import Diffusion, Request, State, Traits

Cache = list[tuple[Tensor, Tensor]]


def kept(mine: Engine, live: Live) -> Cache:
    """Keys and values per layer of the rows that the request keeps, in order."""
    assert isinstance(mine.runner, Runner)
    cache, size = mine.runner.cache, mine.pages.size
    slots = torch.tensor([page * size + i for page in live.pages for i in range(size)][: live.written])
    return [(keys[slots].clone(), values[slots].clone()) for keys, values in zip(cache.keys, cache.values, strict=True)]


def prefilled(state: State, rows: int) -> Cache:
    """The same from one dense forward of the ids, in which no adapter acts."""
    spans = context_spans(state.request, state.ids, 0, rows)
    found: Cache = []
    attend = dense_attend(visibility.mask(spans))

    def spy(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.append((k, v))
        return attend(layer, q, k, v)

    shared()(Batch(torch.tensor(state.ids[:rows]), torch.arange(rows), rows), spy)
    return found


def watch(mine: Engine) -> None:
    """Run to the end, looking at the whole cache after each step."""
    before = dict[int, Cache]()
    while mine.busy:
        preemptions = mine.scheduler.preemptions
        mine.step()
        mine.check()
        now = dict[int, Cache]()
        for live in mine.scheduler.live:
            if not live.written:
                continue
            now[live.id] = kept(mine, live)
            for (keys, values), (k, v) in zip(now[live.id], prefilled(live.state, live.written), strict=True):
                torch.testing.assert_close(keys, k, rtol=0, atol=1e-10)
                torch.testing.assert_close(values, v, rtol=0, atol=1e-10)
            if mine.scheduler.preemptions == preemptions:
                for old, new in zip(before.get(live.id, []), now[live.id], strict=False):
                    for left, right in zip(old, new, strict=True):
                        assert torch.equal(left, right[: len(left)]), "a kept row has changed"
        before = now
    assert mine.pages.in_use == 0


@given(st.lists(requests(), min_size=1, max_size=3), st.booleans(), st.integers(2, 12), st.sampled_from([50, 100]))
@settings(max_examples=60)
def test_kept_rows_are_a_fresh_prefill_and_stay_as_they_are(
    asked: list[Request], reuse: bool, chunk: int, pages: int
) -> None:
    mine = engine(pages, prefix_reuse=reuse, prefill_chunk=chunk)
    for request in [*asked, replace(asked[0], strategy="ar", settings=None)]:
        mine.submit(request)
    watch(mine)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_blocks_of_a_block_causal_checkpoint_are_kept_as_full_rows(size: int) -> None:
    traits = Traits(MASK, block_size=size, context="block")
    prompt = tuple(range(10, 23))
    mine = engine(100, prefill_chunk=5)
    mine.submit(Request(prompt, 20, "fastdiffuser", Diffusion(size, confidence_threshold=0.1), traits=traits))
    watch(mine)


@given(st.integers(1, 20), st.integers(0, 3))
@settings(max_examples=20)
def test_a_reused_prefix_is_what_the_request_would_have_written(common: int, more: int) -> None:
    """The second request starts on pages of the first, of which it gets all full ones and no other."""
    mine = engine(100, page_size=4)
    prompt = tuple((5 * i) % MASK for i in range(common))
    mine.generate(Request(prompt, 1))
    assert mine.pages.in_use == 0
    mine.submit(Request((*prompt, *range(50, 51 + more)), 3))
    mine.scheduler.admit()
    (live,) = mine.scheduler.live
    assert live.written == live.state.kept == common // 4 * 4
    watch(mine)


def test_draft_rows_never_enter_the_prefix_cache() -> None:
    """Known pages hold ids that were kept, whole pages of them."""
    mine = engine(100, page_size=2)
    request = Request((1, 2, 3), 30, "fastdiffuser", Diffusion(8, confidence_threshold=None), traits=Traits(MASK))
    mine.submit(request)
    state = State(request)
    while mine.busy:
        for update in mine.step():
            state = update.state
    ids = state.ids[: state.kept // 2 * 2]
    assert sorted(tokens for _, tokens, _ in mine.pages.known) == sorted(ids[i : i + 2] for i in range(0, len(ids), 2))
