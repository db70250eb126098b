"""Every kind of constraint in every mode: in the language and in budget whatever the logits, self-speculation as AR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.constraints.small import MODES, SPECS, SPECULATIVE, STOP, obeys, request
from tests.engine.tiny import VOCAB, engine
from unmask.constraints import ConstraintError
from unmask.engine.readout import members
from unmask.engine.runner import Runner
from unmask.engine.scheduler import Job
from unmask.types import Ids, Read, Request, Row, Rows, Sampling


class Careless:
    """A runner without a model: logits are noise, as wild as they come."""

    def __init__(self, runner: Runner, seed: int) -> None:
        self.measure, self.noise = runner.measure, np.random.default_rng(seed)

    def run(self, jobs: Sequence[Job]) -> list[Rows]:
        return [tuple(self.row(read, i) for read in job.plan.reads for i in range(len(read.rows))) for job in jobs]

    def row(self, read: Read, i: int) -> Row:
        logits = self.noise.normal(size=VOCAB) * self.noise.choice([0.0, 1.0, 30.0])
        allowed = read.allowed[i] if read.allowed else None
        if allowed is not None:
            logits[~members([allowed], VOCAB)[0]] = -np.inf
        order = np.argsort(-logits)
        probs = np.exp(logits - logits[order[0]])
        probs /= probs.sum()
        top = tuple((int(id), float(np.log(max(probs[id], 1e-30)))) for id in order[: read.top or 0])
        first, second = order[:2].tolist()
        return Row(first, probs[first], second, probs[second], 0.5, self.noise.random(), 0.0, top)


def run(requests: Sequence[Request], careless: int | None = None) -> list[Ids]:
    """All in one batch. careless: noise of that seed instead of a model."""
    mine = engine(pages=4000, wrap=None if careless is None else lambda runner: Careless(runner, careless))  # type: ignore[arg-type,return-value]
    numbers = [mine.submit(made) for made in requests]
    outputs = dict.fromkeys(numbers, Ids())
    for _ in range(2000):
        if not mine.busy:
            break
        for update in mine.step():
            outputs[update.id] = update.state.output
            if update.outcome.finish:
                assert update.outcome.finish == "stop"
    assert not mine.busy
    mine.check()
    assert mine.pages.in_use == 0
    return [outputs[number] for number in numbers]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SPECS)
def test_texts_are_in_the_language_and_in_budget(name: str, mode: str) -> None:
    many(name, mode, 12)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SPECS)
def test_a_thousand_texts_of_every_kind(name: str, mode: str) -> None:
    """Of a kind with several constraints, each has its share of them."""
    alike = sum(spec["type"] == SPECS[name]["type"] for spec in SPECS.values())
    many(name, mode, 1000 // alike)


def many(name: str, mode: str, count: int) -> None:
    """Greedy and sampled, with and without a stop id, from the tightest budget on."""
    least = shortest(name)
    asked = list[Request]()
    for seed in range(count):
        temperature = (0.0, 1.0, 5.0)[seed % 3]
        fields: dict[str, Any] = {
            "sampling": Sampling(temperature, seed=seed),
            "stop_ids": () if seed % 4 == 3 else (STOP,),
        }
        asked.append(request(name, mode, least + (seed * 5) % 31, seed, **fields))
    for start in range(0, count, 100):
        part = asked[start : start + 100]
        for made, output in zip(part, run(part, careless=start), strict=True):
            obeys(name, output, made.max_tokens)


def shortest(name: str) -> int:
    """The least max_tokens that is not refused."""
    for budget in range(1, 80):
        try:
            request(name, max_tokens=budget)
        except ValueError as error:
            assert f"max_tokens is {budget}, but the shortest text" in str(error)  # noqa: PT017
        else:
            return budget
    raise AssertionError("never")


@pytest.mark.parametrize("mode", SPECULATIVE)
@pytest.mark.parametrize("name", SPECS)
def test_self_speculation_writes_what_ar_writes(name: str, mode: str) -> None:
    least = shortest(name)
    plain = [
        request(name, "ar", least + 2 * seed, seed, sampling=Sampling((0.0, 1.3)[seed % 2], seed=seed))
        for seed in range(8)
    ]
    strategy, settings = MODES[mode]
    drafted = [replace(made, strategy=strategy, settings=settings) for made in plain]
    assert run(drafted) == run(plain)


SIDES = [
    ("regex", ("ab", "-01")),
    ("choice", ("f", "m")),
    ("json_object", ('{"a": ', ', "b": [0]}')),
    ("schema", ('{"a"', "true}")),
    ("tree", ('{"a":{"a":', "}}")),
    ("lark", ("(0+", ")*1")),
    ("gbnf", ("{[a,", ",b,]}")),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "sides"), SIDES, ids=[name for name, _ in SIDES])
def test_texts_between_two_others(name: str, sides: tuple[str, str], mode: str) -> None:
    asked = [
        request(name, mode, 14 + seed, seed, sides, sampling=Sampling(float(seed % 2), seed=seed)) for seed in range(8)
    ]
    for made, output in zip(asked, run(asked), strict=True):
        obeys(name, output, made.max_tokens, sides)


@pytest.mark.parametrize(
    ("name", "sides"),
    [("regex", ("b", "")), ("json_object", ("{", "]")), ("schema", ("", '"a"')), ("choice", ("", "x"))],
)
def test_sides_that_do_not_go_together(name: str, sides: tuple[str, str]) -> None:
    with pytest.raises(ConstraintError, match="the constraint allows no text"):
        request(name, sides=sides)
