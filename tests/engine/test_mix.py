"""Any mix of requests on few pages, scripted: every survivor ends with its own ids, and no page stays in use."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.scripted import MASK, TRAITS, VOCAB, drain, request, scripted, step, truth
from unmask.decoding import ar
from unmask.types import Diffusion, Ids, Request, Sampling, Speculation, Traits

STRATEGIES = ["ar", "linearspec", "quadspec", "adaptivespec", "fastdiffuser"]


@dataclass(frozen=True)
class Event:
    """What happens before a step: a request arrives, somebody is cancelled, or the runner is set to fail."""

    arrives: Request | None = None
    cancels: int | None = None
    fails: bool = False


@st.composite
def requests(draw: st.DrawFn) -> Request:
    strategy = draw(st.sampled_from(STRATEGIES))
    block = draw(st.integers(1, 4))
    speculation = st.builds(
        Speculation,
        draft_block_size=st.just(block),
        draft_threshold=st.sampled_from([0.0, 0.75]),
        costs=st.sampled_from([(), ((1, 1.0), (100, 1.0001)), ((1, 1.0), (2, 2.0))]),
    )
    diffusion = st.builds(
        Diffusion,
        block_size=st.just(block),
        confidence_threshold=st.sampled_from([None, 0.75, 0.95]),
        seed_first=st.booleans(),
    )
    max_tokens = draw(st.sampled_from([30, 24, 17, 9, 1]))
    return request(
        draw(st.sampled_from([20, 13, 6, 1])),
        max_tokens,
        strategy=strategy,
        settings=draw(diffusion if strategy == "fastdiffuser" else speculation),
        # Few seeds, so that prompts and whole requests are often the same and share pages.
        sampling=Sampling(seed=draw(st.integers(0, 3))),
        stop_ids=tuple(draw(st.lists(st.integers(0, VOCAB - 2), max_size=2))),
        min_tokens=draw(st.integers(0, max_tokens)),
        prefill_chunk=draw(st.integers(2, 9)),
    )


EVENTS = st.lists(
    st.builds(Event, arrives=requests())
    | st.builds(Event, arrives=requests())
    | st.builds(Event, cancels=st.integers(0, 7))
    | st.builds(Event)
    | st.builds(Event, fails=st.just(True)),
    max_size=16,
)


@given(
    st.lists(requests(), min_size=3, max_size=8),
    EVENTS,
    st.integers(38, 45),
    st.sampled_from([8, 2, 1]),
    st.sampled_from([512, 16, 4]),
    st.booleans(),
)
@settings(max_examples=200)
def test_every_survivor_ends_with_its_own_ids(
    first: list[Request], events: list[Event], pages: int, live: int, max_rows: int, reuse: bool
) -> None:
    engine, runner = scripted(pages, max_live=live, max_rows=max_rows, prefix_reuse=reuse)
    asked, outputs, dropped = dict[int, Request](), dict[int, Ids](), set[int]()
    for event in [*(Event(arrives=one) for one in first), *events]:
        if event.arrives:
            asked[engine.submit(event.arrives)] = event.arrives
        if event.cancels is not None and asked:
            number = event.cancels % len(asked)
            dropped |= {number} & set(engine.requests)
            engine.cancel(number)
        if event.fails and engine.busy:
            runner.fails = frozenset([len(runner.forwards) + 1])
            before = set(engine.requests)
            with pytest.raises(MemoryError):
                step(engine, outputs)
            dropped |= before - set(engine.requests)
            engine.check()
        step(engine, outputs)
    drain(engine, outputs)
    assert engine.pages.in_use == 0
    for number, one in asked.items():
        if number in dropped:
            assert outputs.get(number, ()) == truth(one)[: len(outputs.get(number, ()))]
        else:
            assert outputs[number] == truth(one)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("setup", ["default", "many alternatives"])
def test_whatever_is_admitted_fits(strategy: str, setup: str) -> None:
    """With exactly the pages that submitting asks for, a request comes to its end."""
    speculation = Speculation(12, alternatives=11, costs=((1, 1.0), (1000, 1.001)))
    own = None if setup == "default" else Diffusion(12) if strategy == "fastdiffuser" else speculation
    one = request(5, 40, strategy=strategy, settings=own, prefill_chunk=2)
    for pages in range(1, 2000):
        engine, _ = scripted(pages, size=1)
        try:
            engine.submit(one)
        except ValueError:
            continue
        break
    assert list(drain(engine).values()) == [truth(one)]


def test_what_can_never_run_is_dropped_with_an_error() -> None:
    engine, _ = scripted(40, prefill_chunk=8)
    number = engine.submit(request(5, 8))
    taken = list[int]()
    assert engine.pages.extend(taken, 40 * 4)  # as if the plan were larger than all the memory
    with pytest.raises(RuntimeError, match=f"request {number} needs more"):
        engine.step()
    engine.pages.release(taken)
    assert not engine.busy
    engine.check()


@pytest.mark.parametrize(
    "bad",
    [
        {"stop_ids": (VOCAB,)},
        {"stop_ids": (-1,)},
        {"sampling": Sampling(logit_bias=((VOCAB, 1.0),))},
        {"traits": Traits(mask_id=VOCAB)},
        {"traits": Traits(), "strategy": "linearspec"},
        {"traits": Traits(mask_id=MASK, draft_adapter="absent")},
        {"prompt": (VOCAB,)},
        {"max_tokens": 10_000},
        {"strategy": "beam"},
    ],
)
def test_what_would_break_a_batch_is_refused_before_it_costs_anything(bad: dict) -> None:
    engine, _ = scripted()
    with pytest.raises(ValueError, match=r".") as error:
        engine.submit(Request(**({"prompt": (1,), "max_tokens": 4, "traits": TRAITS} | bad)))
    assert "\n" not in str(error.value)
    assert not engine.busy


def test_generate_leaves_nothing_behind_when_another_request_fails() -> None:
    engine, runner = scripted(60, max_live=1, prefill_chunk=8)
    engine.submit(request(3, 4, sampling=Sampling(seed=1)))
    runner.fails = frozenset([2])
    with pytest.raises(MemoryError):
        engine.generate(request(3, 4))
    assert not engine.busy
    assert engine.pages.in_use == 0
    assert engine.generate(request(3, 4)) == truth(request(3, 4))


def test_an_error_in_a_strategy_ends_its_step_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = scripted(60, max_live=2, prefill_chunk=8)
    asked = [request(3, 4, sampling=Sampling(seed=seed)) for seed in range(3)]
    numbers = [engine.submit(one) for one in asked]
    with monkeypatch.context() as patched:
        patched.setattr(ar, "consume", lambda state, plan, rows: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    engine.check()
    assert list(engine.requests) == numbers[2:]
    assert drain(engine)[numbers[2]] == truth(asked[2])
    assert engine.pages.in_use == 0
