"""Judges beside real forwards: parked requests hold no place in a forward, and nothing is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.small import MODES as CONSTRAINED_MODES
from tests.constraints.small import SPECS, obeys
from tests.constraints.small import request as constrained
from tests.constraints.test_modes import Careless
from tests.decoding.test_refining import Dislikes, Whimsical
from tests.engine.tiny import MASK, VOCAB, alone, engine
from unmask.engine.engine import Engine
from unmask.types import Ask, Diffusion, Finding, Ids, Request, Sampling, Speculation, Traits, Verdict

MODES: dict[str, Any] = {
    "ar": None,
    "linearspec": Speculation(6),
    "quadspec": Speculation(4),
    "adaptivespec": Speculation(6),
    "fastdiffuser": Diffusion(block_size=8, confidence_threshold=0.1),
}


def made(mode: str, judge: Any, rounds: int = 2, seed: int = 0, **fields: Any) -> Request:
    prompt = tuple((seed * 7 + 3 * i) % MASK for i in range(6))
    base: dict[str, Any] = {"max_tokens": 40, "sampling": Sampling(seed=seed), "stop_ids": (5,)} | fields
    traits = Traits(mask_id=MASK, block_size=8)
    return Request(prompt, strategy=mode, settings=MODES[mode], traits=traits, judge=judge, rounds=rounds, **base)


def drained(mine: Engine, numbers: Sequence[int]) -> dict[int, tuple[Ids, Verdict | None]]:
    """What each request sent, and its verdict, once all are done."""
    sent, verdicts = dict.fromkeys(numbers, Ids()), dict[int, Verdict | None]()
    while mine.busy:
        for update in mine.step():
            sent[update.id] += tuple(token.id for token in update.outcome.emit)
            if update.outcome.finish:
                assert update.state.output == sent[update.id]
                verdicts[update.id] = update.state.trial.verdict
        mine.check()
    assert mine.pages.in_use == 0
    assert not mine.scheduler.parked
    return {number: (sent[number], verdicts[number]) for number in numbers}


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([0.0, 1.0]), st.integers(1, 3))
def test_judged_requests_share_a_batch_and_self_speculation_is_ar(
    salt: int, rounds: int, temperature: float, count: int
) -> None:
    """Few pages and few places: they are preempted, pages are shared, rows are taken back."""
    asked = [
        made(mode, Whimsical(salt, VOCAB), rounds, seed, sampling=Sampling(temperature, seed=seed))
        for seed in range(count)
        for mode in MODES
    ]
    mine = engine(pages=150, max_live=4)
    found = drained(mine, [mine.submit(request) for request in asked])
    for request, (ids, _) in zip(asked, found.values(), strict=True):
        same = request if request.strategy == "fastdiffuser" else replace(request, strategy="ar", settings=None)
        assert ids == alone(same)


@pytest.mark.parametrize("mode", MODES)
def test_without_what_is_disliked(mode: str) -> None:
    plain = alone(made(mode, None))
    bad = frozenset(plain[3:5]) - {5}
    mine = engine(pages=64)
    ((ids, verdict),) = drained(mine, [mine.submit(made(mode, Dislikes(bad, vocab=VOCAB), 200))]).values()
    assert ids[:3] == plain[:3] or mode == "fastdiffuser"
    assert not set(ids) & bad
    assert verdict == Verdict("satisfied")


@dataclass
class Waits:
    """Answers once it is told to."""

    told: Event
    vocab: int = VOCAB

    def judge(self, ask: Ask) -> Finding:
        self.told.wait(30)
        return Finding(Verdict("satisfied"))


@dataclass
class Raises:
    vocab: int = VOCAB

    def judge(self, ask: Ask) -> Finding:
        raise KeyError("no such thing")


def until_parked(mine: Engine) -> None:
    while not mine.scheduler.parked:
        mine.step()


@pytest.mark.parametrize("mode", MODES)
def test_a_parked_request_holds_no_place_and_can_be_dropped(mode: str) -> None:
    told = Event()
    mine = engine(pages=64, max_live=1)
    number = mine.submit(made(mode, Waits(told)))
    until_parked(mine)
    assert mine.pages.in_use > 0
    other = made("ar", None, seed=1)
    assert mine.generate(other) == alone(other), "the one place is free for others"
    mine.check()
    mine.cancel(number)
    mine.check()
    assert mine.pages.in_use == 0
    assert not mine.busy
    told.set()  # the answer comes, and there is nobody
    ((ids, _),) = drained(mine, [mine.submit(other)]).values()
    assert ids == alone(other)


def test_a_judge_that_raises_has_not_said_that_it_is_fine() -> None:
    mine = engine(pages=64)
    ((ids, verdict),) = drained(mine, [mine.submit(made("ar", Raises()))]).values()
    assert ids == alone(made("ar", None))
    assert verdict == Verdict("unknown", "the oracle could not say: KeyError: 'no such thing'")


def test_a_judge_that_takes_too_long_is_not_waited_for() -> None:
    told, request = Event(), made("fastdiffuser", None)
    mine = engine(pages=64, oracle_seconds=0.01)
    ((ids, verdict),) = drained(mine, [mine.submit(replace(request, judge=Waits(told)))]).values()
    assert ids == alone(request)
    assert verdict is not None
    assert verdict.status == "unknown"
    assert "earlier question" in verdict.detail or "0.01 s" in verdict.detail
    assert len(mine.questions.late) == 1, "one thread and no more is left to itself"
    told.set()


@pytest.mark.parametrize("mode", CONSTRAINED_MODES)
@pytest.mark.parametrize("name", SPECS)
def test_hard_constraints_hold_whatever_a_judge_bans(name: str, mode: str) -> None:
    mine = engine(pages=4000, wrap=lambda runner: Careless(runner, 1))  # type: ignore[arg-type,return-value]
    for seed in range(3):
        asked = constrained(name, mode, 30, seed)
        request = replace(asked, judge=NeverEnds(seed, VOCAB), rounds=3)
        ((ids, _),) = drained(mine, [mine.submit(request)]).values()
        obeys(name, ids, 30)


class NeverEnds(Whimsical):
    """Stop strings, at which a judge ends a text, are refused beside a hard constraint."""

    def judge(self, ask: Ask) -> Finding:
        return replace(super().judge(ask), ended=False)
