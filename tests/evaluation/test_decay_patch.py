"""Patching as an enforcement: what is cut out, what may stand, and what it spends; with scripted and tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.evaluation.decay import patch as patching
from unmask.evaluation.decay.enforce import ROUNDS, forwards, patched, written
from unmask.evaluation.decay.function_tasks import FunctionTask
from unmask.evaluation.decay.patch import Standing, lines_around, patch, standing_of
from unmask.evaluation.decay.spec_tasks import SpecTask
from unmask.evaluation.decay.tasks import Judged, Task
from unmask.lm.result import Numbers

NONE = Numbers(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0)
LEARNED = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": VOCABULARY - 3, "gap_room": 24}


class Scripted:
    """Fills a gap with the line that a right answer has there, at 3 forwards each; wrong: with that instead."""

    def __init__(self, broken: str, right: str, wrong: str = "") -> None:
        self.rows = dict(zip(broken.split("\n"), right.split("\n"), strict=True))
        self.wrong, self.asked = wrong, list[tuple[str, str]]()
        self.filler = SimpleNamespace(layouts=("in-place",))
        self.traits = SimpleNamespace(gap_causal=False, gap_adapter=None, block_size=8)
        self.tokenizer = SimpleNamespace(encode=str.split)
        self.text = broken

    def fill(self, before: str, after: str, **options: Any) -> Any:
        self.asked.append((before, after))
        gone = self.text[len(before) - len("PROMPT") : len(self.text) - len(after) + len(options["stop"][0])]
        middle = self.wrong or "\n".join(self.rows.get(row, row) for row in gone.split("\n"))
        if not self.wrong:
            self.text = self.text[: len(before) - len("PROMPT")] + middle + after.removesuffix(options["stop"][0])
        return SimpleNamespace(text=middle, stats=replace(NONE, nfe=3, tokens=5))


def mended(lm: Any, task: Task, text: str, budget: int = 1000) -> patching.Patched:
    return patch(lm, task, task.rules, "PROMPT", text, budget, {"mode": "fastdiffuser"})


@pytest.mark.parametrize(
    ("task", "rules"),
    [
        (SpecTask(0, 0, 0), ("types", "enum", "unique", "reference")),
        (SpecTask(3, 0, 0), ("repo", "error")),
        (FunctionTask(0, 0, 0), ("hints", "result", "helper")),
    ],
)
def test_lines_to_blame_are_filled_until_all_rules_hold(task: Task, rules: Sequence[str]) -> None:
    """Rules that are broken in one place or in many, of answers that have the same lines but for these."""
    broken = task.answer([rule for rule in task.rules if rule not in rules])
    lm = Scripted(broken, task.answer(task.rules))
    done = mended(lm, task, broken)
    assert all(task.kept(done.text, task.rules).values())
    assert done.text == task.answer(task.rules)
    changed = sum(one != other for one, other in zip(broken.split("\n"), done.text.split("\n"), strict=True))
    assert len(done.spent) == len(lm.asked) == changed, "nothing else was touched"
    before, after = lm.asked[0]
    assert before.startswith("PROMPT")
    assert after.endswith(task.stops[0]), "it knows what comes after the answer too"
    assert done.scored == 0


def test_what_stands_no_better_is_not_kept() -> None:
    task = FunctionTask(0, 0, 0)
    broken = task.answer([rule for rule in task.rules if rule != "hints"])
    lm = Scripted(broken, broken, wrong="nonsense (")
    done = mended(lm, task, broken)
    assert done.text == broken
    assert len(done.spent) == len(patching.SPREADS), "then the line is given up"
    wide = lm.asked[-1]
    assert len(wide[0]) + len(wide[1]) < len(lm.asked[0][0]) + len(lm.asked[0][1]), "the last gap is wider"
    right = task.answer(task.rules)
    assert mended(lm, task, right) == (right, (), 0)


def test_no_filling_is_begun_that_the_budget_might_not_pay() -> None:
    task = FunctionTask(0, 0, 0)
    broken = task.answer([rule for rule in task.rules if rule != "hints"])
    for budget in range(40):
        done = mended(Scripted(broken, broken, wrong="nonsense ("), task, broken, budget)
        begun = [left for left in range(budget, 0, -3) if left >= 8][: len(patching.SPREADS)]
        assert len(done.spent) == len(begun), "a block of 8 slots may take 8 forwards"


def test_no_filling_throws_the_rest_away() -> None:
    task = FunctionTask(0, 0, 0)
    broken = "def sum_multiples_2(values):\n    if not values:\n        return 0\n    return 1"
    lm: Any = Scripted(broken, broken, wrong="```")
    done = patch(lm, task, ["single"], "PROMPT", broken, 1000, {"mode": "fastdiffuser"})
    assert task.kept(broken.removesuffix("    return 1") + "```", ["single"])["single"]
    assert done.text == broken


def test_assertions_have_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FunctionTask, "judge", lambda *_: pytest.fail("the assertions are what counts at the end"))
    task = FunctionTask(0, 0, 0)
    broken = task.answer([rule for rule in task.rules if rule != "hints"])
    assert mended(Scripted(broken, task.answer(task.rules)), task, broken).text == task.answer(task.rules)


def test_more_rules_stand_above_fewer_faults() -> None:
    assert Standing(3, -9) > Standing(2, -1) > Standing(2, -2)
    task = SpecTask(0, 0, 0)
    assert standing_of(task, task.answer(task.rules), task.rules) == Standing(12, 0)
    assert standing_of(task, "hello", task.rules).rules == 0


@given(st.text("ab\n", max_size=30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 3))
def test_a_gap_is_made_of_whole_lines(text: str, one: int, other: int, more: int) -> None:
    start, end = sorted(min(place, len(text)) for place in (one, other))
    first, last = lines_around(text, start, end, more)
    assert 0 <= first <= start <= end <= last <= len(text)
    assert first == 0 or text[first - 1] == "\n"
    assert last == len(text) or text[last] == "\n"
    inside = text[start:end].count("\n") + 1
    assert inside <= text[first:last].count("\n") + 1 <= inside + 2 * more


@pytest.fixture(scope="module", params=[None, False, True], ids=["continues", "in place", "causal rows too"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    """Tiny models that have not learned gaps, that have, and whose causal rows have."""
    more: dict[str, Any] = {} if request.param is None else {"unmask": LEARNED | {"gap_causal": request.param}}
    folder = write_model(tmp_path_factory.mktemp("patch") / "tiny", max_position_embeddings=4096, **more)
    return LM.load(folder, dtype="float32", exactness="exact", max_tokens_cached=4096)


@pytest.mark.parametrize(("mode", "task"), [("ar", SpecTask(0, 0, 0)), ("fastdiffuser", FunctionTask(3, 0, 0))])
def test_it_spends_no_more_than_it_may_and_all_of_it_is_counted(
    lm: LM, mode: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model answers, it is a right answer but for two rules."""
    monkeypatch.setattr(type(task), "max_tokens", 24)
    monkeypatch.setattr(type(task), "judge", lambda self, text, active: Judged(0, 1, self.kept(text, active)))
    rules, wrong = task.rules, {"version", "types"} if isinstance(task, SpecTask) else {"hints", "docstring"}
    broken = task.answer([rule for rule in rules if rule not in wrong])
    real = LM.generate
    monkeypatch.setattr(LM, "generate", lambda *given, **more: replace(real(*given, **more), text=broken))
    first = written(lm, task, rules, 0, {"mode": mode, "stop": task.stops})
    answer = patched(lm, task, rules, 0, {"mode": mode})
    assert 1 < answer.tried <= 1 + 2 * len(patching.SPREADS) * 3
    assert first.stats.nfe < answer.nfe <= ROUNDS * forwards([first])
    assert first.stats.tokens < answer.tokens
    assert sum(answer.judged.kept.values()) >= len(rules) - 2
    assert patched(lm, task, (), 0, {"mode": mode}).tried == 1, "without rules there is nothing to mend"
