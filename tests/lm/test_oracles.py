"""Soft constraints through `LM`: user functions, declared ones and registered ones, in every mode, sent and unsent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.tinymodel import END, MASK
from unmask import LM, ConstraintOracle
from unmask.cli.constraining import constrained, loaded, registered
from unmask.lm import Generation, Piece
from unmask.types import ByteSpan, Verdict, View, Violation

WAYS: list[dict[str, Any]] = [
    {"mode": "ar"},
    {"mode": "fastdiffuser", "confidence_threshold": 0.2},
    *({"mode": "self-speculation", "spec_variant": name} for name in ("linearspec", "quadspec", "adaptivespec")),
    {"mode": "auto"},
]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("spec_variant", way["mode"]))


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32")


def no_letter(letters: str) -> Callable[[str], list[bool]]:
    return lambda text: [letter not in letters for letter in text]


@every_way
def test_a_function_over_characters(lm: LM, way: dict[str, Any]) -> None:
    """The prompt is part of the text that the function sees; its own letters are blamed in vain."""
    plain = lm.generate("the cat", max_tokens=16, **way)
    letter = next(one for one in plain.text if one.isascii() and one.isalpha() and one not in "the cat")
    oracle = ConstraintOracle(no_letter(letter))
    found = lm.generate("the cat", max_tokens=16, constraints=[oracle], constraint_refinement_rounds=60, **way)
    assert found.constraint == Verdict("satisfied")
    assert letter not in found.text
    assert found.stats.refinement_rounds > 0
    assert found.stats.revisions > 0
    told = lm.generate("the cat", max_tokens=16, constraints=[oracle], constraint_refinement_rounds=0, **way)
    assert told.text == plain.text
    assert told.constraint is not None
    assert told.constraint.status == "violated"
    for fault in told.constraint.violations:
        assert set(told.text.encode()[fault.span.start : fault.span.end].decode()) == {letter}


def test_a_function_over_tokens_and_numbers(lm: LM) -> None:
    oracle = ConstraintOracle(lambda text: [1.0] * 7 + [0.2])
    found = lm.generate("the", max_tokens=8, ignore_eos=True, constraints=[oracle])
    assert found.constraint is not None
    assert found.constraint.status == "violated"
    assert [fault.severity for fault in found.constraint.violations] == [0.8]
    assert found.stats.refinement_rounds == 2


def test_a_function_that_returns_another_number_of_values(lm: LM) -> None:
    found = lm.generate(
        "the", max_tokens=8, ignore_eos=True, constraints=[ConstraintOracle(lambda text: [True] * 3000)]
    )
    assert found.constraint is not None
    assert found.constraint.status == "unknown"
    size = len("the" + found.text)
    assert f"text's {size} characters, or for each of its 8 tokens that may change; it has returned 3000" in (
        found.constraint.detail
    )


@dataclass
class Records:
    """Keeps what it is shown; content with everything."""

    partial: bool
    name: str = "records"
    views: list[View] = field(default_factory=list)

    def check(self, view: View) -> Verdict:
        self.views.append(view)
        return Verdict("satisfied")


@every_way
@pytest.mark.parametrize("partial", [True, False])
def test_what_an_oracle_sees_and_when_text_is_sent(lm: LM, way: dict[str, Any], partial: bool) -> None:
    oracle = Records(partial)
    pieces, sent, done = list[str](), list[int](), None
    for event in lm.stream("say é", max_tokens=40, ignore_eos=True, constraints=[oracle], **way):
        if isinstance(event, Piece):
            pieces.append(event.text)
            sent.append(len(oracle.views))
        if isinstance(event, Generation):
            done = event
    assert done is not None
    assert done.text == lm.generate("say é", max_tokens=40, ignore_eos=True, **way).text
    last = oracle.views[-1]
    assert last.complete
    assert last.text == "say é" + done.text
    assert last.written == ByteSpan(6, 6 + len(done.text.encode()))
    assert all(view.text.startswith("say é") for view in oracle.views)
    for view in oracle.views:
        assert view.token_ends[-1:] in ((), (view.editable.end,))
        assert list(view.token_ends) == sorted(view.token_ends)
    assert [view.complete for view in oracle.views] == [False] * (len(oracle.views) - 1) + [True]
    assert len(oracle.views) == (5 if partial else 1)  # blocks of 8
    assert min(sent) >= 1, "nothing is sent before it was looked at"
    assert len(pieces) == (5 if partial else 1)


@every_way
def test_a_stop_string_ends_the_text_that_is_judged(lm: LM, way: dict[str, Any]) -> None:
    plain = lm.generate("the cat", max_tokens=30, ignore_eos=True, **way)
    stop = plain.text[9:11]
    oracle = Records(False)
    found = lm.generate("the cat", max_tokens=30, ignore_eos=True, stop=stop, constraints=[oracle], **way)
    again = lm.generate("the cat", max_tokens=30, ignore_eos=True, stop=stop, **way)
    assert found.text == again.text
    assert found.stopped_by == stop
    assert found.constraint == Verdict("satisfied")
    assert oracle.views[-1].text == "the cat" + found.text
    assert lm.engine.pages.in_use == 0


def test_a_chat_is_not_part_of_what_is_judged(lm: LM) -> None:
    oracle = Records(True)
    found = lm.generate((*lm.tokenizer.encode("<|im_start|>", special=True), 5), max_tokens=4, constraints=[oracle])
    assert oracle.views[-1].text == found.text


@every_way
@pytest.mark.parametrize("given", [{"type": "contains", "text": "the"}, {"type": "not_contains", "texts": ["e", "t"]}])
def test_declared_demands(lm: LM, way: dict[str, Any], given: dict[str, Any]) -> None:
    found = lm.generate("a", max_tokens=30, constraints=[given], constraint_refinement_rounds=30, **way)
    fine = ("the" in found.text) if given["type"] == "contains" else not {"e", "t"} & set(found.text)
    assert found.constraint is not None
    assert (found.constraint.status == "satisfied") == fine
    if given["type"] == "not_contains":
        assert fine


@every_way
def test_beside_a_hard_constraint(lm: LM, way: dict[str, Any]) -> None:
    hard = {"type": "regex", "pattern": "[a-z]{6,12}"}
    soft = {"type": "not_contains", "texts": list("aeiou")}
    found = lm.generate("x", max_tokens=20, constraints=[hard, soft], constraint_refinement_rounds=64, **way)
    assert found.constraint == Verdict("satisfied")
    assert set(found.text) <= set("bcdfghjklmnpqrstvwxyz")
    impossible = {"type": "not_contains", "texts": list("abcdefghijklmnopqrstuvwxyz")}
    found = lm.generate("x", max_tokens=20, constraints=[hard, impossible], constraint_refinement_rounds=3, **way)
    assert found.constraint is not None
    assert found.constraint.status == "violated"
    assert 6 <= len(found.text) <= 12, "a hard constraint holds whatever a soft one says"
    assert found.text.isascii()
    assert found.text.isalpha()


def test_a_fault_that_nothing_can_be_done_about_is_told(lm: LM) -> None:
    @dataclass
    class OfThePrompt:
        name: str = "prompt"
        partial: bool = True

        def check(self, view: View) -> Verdict:
            return Verdict("violated", "so it is", (Violation("wrong", ByteSpan(0, 1)),))

    found = lm.generate("a", max_tokens=8, constraints=[OfThePrompt()])
    assert found.constraint == Verdict("violated", "so it is", (Violation("wrong", ByteSpan(-1, 0), source="prompt"),))
    assert found.stats.refinement_rounds == 0
    assert json.loads(json.dumps(found.constraint.plain()))["violations"][0]["span"] == [-1, 0]


def test_an_oracle_that_raises_is_told_and_nothing_is_lost(lm: LM) -> None:
    def broken(text: str) -> list[bool]:
        raise ZeroDivisionError("oh")

    found = lm.generate("a", max_tokens=8, constraints=[ConstraintOracle(broken, "mine")])
    assert found.constraint == Verdict("unknown", "mine could not say: ZeroDivisionError: oh")
    assert found.text == lm.generate("a", max_tokens=8).text
    assert lm.engine.pages.in_use == 0


def test_registered_oracles(lm: LM) -> None:
    lm.oracles["mine"] = Records(True)
    try:
        assert lm.generate("a", max_tokens=4, constraints=[{"type": "oracle", "name": "mine"}]).constraint is not None
        with pytest.raises(ValueError, match="no oracle is registered as 'yours'; registered: mine"):
            lm.generate("a", max_tokens=4, constraints=[{"type": "oracle", "name": "yours"}])
    finally:
        lm.oracles.clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraint_refinement_rounds": 2}, "constraint_refinement_rounds has nothing to act on"),
        (
            {"constraints": [{"type": "regex", "pattern": "a"}], "constraint_refinement_rounds": 2},
            "constraint_refinement_rounds has nothing to act on",
        ),
        (
            {"constraints": [{"type": "python_syntax"}], "constraint_refinement_rounds": 65},
            "constraint_refinement_rounds must be between 0 and 64, got 65",
        ),
        ({"constraints": [{"type": "pythonic"}]}, "type must be one of regex, .*python_syntax.*, got 'pythonic'"),
        ({"constraints": [{"type": "contains"}]}, "text must be text of 1 to 10000 characters, got None"),
        ({"constraints": [{"type": "contains", "texts": []}]}, "'contains' has no field 'texts'; it has: text, where"),
        ({"constraints": [{"type": "not_contains", "texts": "ab"}]}, "texts must be a list of 1 to 256 texts"),
        ({"constraints": [{"type": "calls"}]}, "calls must name something"),
        ({"constraints": [{"type": "length"}]}, "needs one of min_characters, max_characters"),
        ({"constraints": [{"type": "length", "max_lines": True}]}, "max_lines must be a whole number"),
        ({"constraints": [{"type": "oracle", "name": "x", "where": "text"}]}, "where must be"),
    ],
)
def test_refusals(lm: LM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lm.generate("a", max_tokens=4, **options)


def test_of_a_gap_both_sides_are_seen(lm: LM) -> None:
    oracle = Records(False)
    with pytest.warns(UserWarning, match="has not learned to fill gaps"):
        found = lm.fill("left ", " right", untrained=True, max_tokens=6, constraints=[oracle])
    assert oracle.views[-1].text.startswith("left ")
    assert oracle.views[-1].text.endswith(" right")
    assert found.chosen.generations[0].constraint == Verdict("satisfied")


def test_a_text_that_is_too_short_goes_on(lm: LM) -> None:
    """The end is what is blamed where something is missing at the end."""
    ends = next(seed for seed in range(99) if len(sampled(lm, seed, []).token_ids) < 12)
    found = sampled(lm, ends, [{"type": "length", "min_characters": 20}])
    assert found.constraint == Verdict("satisfied")
    assert len(found.text) >= 20
    assert MASK not in found.token_ids
    assert END not in found.token_ids[:-1]


def sampled(lm: LM, seed: int, constraints: list[Any]) -> Generation:
    rounds = 64 if constraints else 0
    return lm.generate(
        "a",
        mode="ar",
        temperature=1.0,
        seed=seed,
        max_tokens=60,
        constraints=constraints,
        constraint_refinement_rounds=rounds,
        logit_bias={END: 4.0},
    )


def test_the_command_line(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def fine(text):\n    return [True] * len(text)\n\nNUMBER = 3\n")
    monkeypatch.chdir(tmp_path)
    given = constrained(
        {}, {"regex": "a", "constraint": ["python_syntax"], "oracle": ["mine:fine"], "constraint_refinement_rounds": 3}
    )
    hard, declared, oracle = given["constraints"]
    assert (hard, declared) == ({"type": "regex", "pattern": "a"}, {"type": "python_syntax"})
    assert given["constraint_refinement_rounds"] == 3
    assert lm.generate("a", max_tokens=4, constraints=[oracle]).constraint == Verdict("satisfied")
    assert list(registered(["one=mine:fine"])) == ["one"]
    assert constrained({}, {"constraint": [' {"type": "length", "max_lines": 2}']}) == {
        "constraints": [{"type": "length", "max_lines": 2}]
    }
    for wrong, message in {
        "mine": "must be MODULE:FUNCTION",
        "mine:none": "no attribute 'none'",
        "nowhere_at_all:x": "No module named",
        "mine:NUMBER": "neither a function nor an oracle",
    }.items():
        with pytest.raises(ValueError, match=message):
            loaded(wrong)
    with pytest.raises(ValueError, match="must be NAME=MODULE:FUNCTION"):
        registered(["mine:fine"])
    with pytest.raises(ValueError, match="this is no JSON"):
        constrained({}, {"constraint": ["{"]})
