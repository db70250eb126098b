"""The promises of the design on real forwards, in float64: self-speculation is AR, and nobody changes another's ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.tiny import ADAPTERS, MASK, VOCAB, Breaks, Oracle, alone, engine
from unmask.types import Diffusion, Ids, Request, Sampling, Speculation, Traits

SPECULATIVE = ["linearspec", "quadspec", "adaptivespec"]
COSTS = [(), ((1, 1.0), (200, 1.01)), ((1, 1.0), (2, 1.5), (64, 9.0))]
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12).map(tuple)  # the mask id among them

SAMPLING = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 0, 5, 20]),
    top_p=st.sampled_from([1.0, 1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.6]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.3]),
    logit_bias=st.sampled_from([(), (), ((7, 3.0), (8, -100.0))]),
    seed=st.integers(-5, 2**40),
)


@st.composite
def traits(draw: st.DrawFn) -> Traits:
    adapter = draw(st.sampled_from([None, *ADAPTERS]))
    made = Traits(mask_id=MASK, draft_adapter=adapter, denoise_adapter=adapter)
    if draw(st.booleans()):
        return replace(made, seed="causal")
    return replace(made, seed=draw(st.sampled_from(["block", "copy"])), shift=draw(st.booleans()))


@st.composite
def speculations(draw: st.DrawFn, largest: int = 32) -> tuple[str, Speculation]:
    strategy = draw(st.sampled_from(SPECULATIVE))
    # Quadratic layouts of 32 have a thousand rows.
    block = draw(st.integers(1, largest if strategy == "linearspec" else min(largest, 12)))
    made = Speculation(
        block,
        draft_threshold=draw(st.sampled_from([0.0, 0.0, 0.3])),
        alternatives=draw(st.integers(0, 3)),
        costs=draw(st.sampled_from(COSTS)),
    )
    return strategy, made


@st.composite
def requests(draw: st.DrawFn, modes: tuple[str, ...] = ("ar", "spec", "fastdiffuser")) -> Request:
    mode = draw(st.sampled_from(modes))
    if mode == "spec":
        strategy, own = draw(speculations(8))
        made: Diffusion | Speculation | None = own
    elif mode == "fastdiffuser":
        strategy = "fastdiffuser"
        made = Diffusion(
            draw(st.integers(1, 9)),
            confidence_threshold=draw(st.sampled_from([None, 0.05, 0.9])),
            sampler=draw(st.sampled_from(["confidence", "margin", "entropy"])),
            revision_threshold=draw(st.sampled_from([None, 0.02])),
            seed_first=draw(st.booleans()),
        )
    else:
        strategy, made = "ar", None
    max_tokens = draw(st.integers(1, 16))
    return Request(
        draw(IDS),
        max_tokens,
        strategy,
        made,
        draw(SAMPLING),
        draw(traits()),
        min_tokens=draw(st.integers(0, max_tokens)),
        stop_ids=tuple(draw(st.lists(st.integers(0, VOCAB - 2), max_size=4))),
        prefill_chunk=draw(st.integers(2, 12)),
    )


def qualities(name: str, salt: int) -> Callable[[int], bool]:
    """Whether the draft of a position is right: always, never, or now and then."""
    return {
        "perfect": lambda position: True,
        "adversarial": lambda position: False,
        "mixed": lambda position: (position * 7 + salt) % 5 < 3,
    }[name]


@given(
    requests(modes=("ar",)),
    speculations(),
    st.sampled_from(["adapter", "perfect", "adversarial", "mixed"]),
    st.integers(0, 4),
)
@settings(max_examples=150)
def test_self_speculation_gives_the_ids_of_ar(
    request: Request, spec: tuple[str, Speculation], quality: str, salt: int
) -> None:
    """Promise 1, greedy and sampled, for drafts of the random model and drafts of any quality."""
    request = replace(request, max_tokens=3 * request.max_tokens)
    expected = alone(request)
    assert len(expected) <= request.max_tokens
    speculative = replace(request, strategy=spec[0], settings=spec[1])
    if quality == "adapter":
        assert alone(speculative) == expected
        return
    truth = request.prompt + expected
    found = alone(speculative, wrap=lambda runner: Oracle(runner, truth, qualities(quality, salt)))
    assert found == expected


@pytest.mark.parametrize("strategy", SPECULATIVE)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_perfect_drafts_are_worth_their_forwards(strategy: str, temperature: float) -> None:
    """Else the property above might hold for drafts that nobody ever looks at."""
    request = Request((5, 3), 40, sampling=Sampling(temperature, seed=3), traits=Traits(mask_id=MASK))
    truth = request.prompt + alone(request)
    speculative = replace(request, strategy=strategy, settings=Speculation(8, lookup=0, costs=COSTS[1]))
    for right, most in ((True, 11), (False, 78)):
        mine = engine(wrap=lambda runner: Oracle(runner, truth, lambda position: right))  # noqa: B023
        mine.submit(speculative)
        while mine.busy:
            updates = mine.step()
        stats = updates[0].state.stats
        assert updates[0].state.ids == truth
        assert stats.nfe <= most


Script = list[tuple[str, int]]
SCRIPT: st.SearchStrategy[Script] = st.lists(
    st.tuples(st.sampled_from(["arrive", "arrive", "step", "cancel", "preempt", "break"]), st.integers(0, 5)),
    max_size=14,
)


@given(
    st.lists(requests(), min_size=2, max_size=5),
    SCRIPT,
    st.sampled_from([(53, 512), (53, 24), (200, 512)]),
    st.integers(2, 12),
    st.booleans(),
    st.integers(1, 5),
)
@settings(max_examples=120)
def test_ids_do_not_depend_on_batch_mates(
    asked: list[Request], script: Script, room: tuple[int, int], chunk: int, reuse: bool, live: int
) -> None:
    """Promises 2 and 7: mixed modes, any arrival order, cancels, preemptions, errors in the middle of a step."""
    broken = [0]
    mine = engine(
        room[0],
        max_rows=room[1],
        prefill_chunk=chunk,
        prefix_reuse=reuse,
        max_live=live,
        wrap=lambda runner: Breaks(runner, broken),
    )
    assert isinstance(mine.runner, Breaks)
    # The same prompt twice, so that there is something to share.
    queue = [*asked, replace(asked[0], strategy="ar", settings=None)]
    numbers, dropped, outputs = dict[int, Request](), set[int](), dict[int, Ids]()

    def step() -> None:
        for update in mine.step():
            outputs[update.id] = update.state.output
        mine.check()

    for action, which in [*script, *[("arrive", 0)] * len(queue)]:
        if action == "arrive" and queue:
            number = mine.submit(queue[0])
            numbers[number] = queue.pop(0)
        elif action == "cancel" and which in numbers and which in mine.requests:
            mine.cancel(which)
            dropped.add(which)
        elif action == "preempt" and which < len(mine.scheduler.live):
            mine.scheduler.preempt(mine.scheduler.live[which])
        elif action == "break" and mine.busy:
            mine.runner.steps = frozenset([mine.runner.count + 1])
            before = set(mine.requests)
            with pytest.raises(RuntimeError, match="the device is gone"):
                step()
            mine.check()
            dropped |= before - set(mine.requests)
        step()
    for _ in range(3000):
        if not mine.busy:
            break
        step()
    assert not mine.busy
    assert mine.pages.in_use == 0
    for number, request in numbers.items():
        expected = alone(request)
        found = outputs.get(number, ())
        assert found == (expected[: len(found)] if number in dropped else expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_keeps_the_promises_in_low_precision(dtype: torch.dtype) -> None:
    """AR alone, and every speculative mode in one batch on few pages, with sampling: the same ids."""
    base = [
        Request(tuple(range(n, n + 9)), 24, sampling=Sampling(0.8, seed=n), traits=Traits(MASK, draft_adapter="draft"))
        for n in range(4)
    ]
    expected = [alone(request, dtype=dtype, exactness="exact") for request in base]
    mine = engine(44, dtype=dtype, exactness="exact", prefill_chunk=5)
    outputs = dict[int, Ids]()
    for request, strategy in zip(base, ["ar", *SPECULATIVE], strict=True):
        own = None if strategy == "ar" else Speculation(6, costs=COSTS[1])
        mine.submit(replace(request, strategy=strategy, settings=own))
    for turn in range(500):
        if turn % 7 == 6 and mine.scheduler.live:
            mine.scheduler.preempt(mine.scheduler.live[-1])
        outputs |= {update.id: update.state.output for update in mine.step()}
        if not mine.busy:
            break
    assert list(dict(sorted(outputs.items())).values()) == expected
