"""Traces: every mode tells its whole story, telling changes nothing, and a killed run leaves what it had."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unmask import LM
from unmask.engine.engine import Update
from unmask.lm import Generation, Piece
from unmask.lm.trace import Trace
from unmask.lm.watching import seen
from unmask.types import Checked, Draft, Frame, Outcome, Request, Speculation, State, Stats, Token, Traits

WAYS: list[dict[str, Any]] = [
    {"mode": "ar"},
    {"mode": "fastdiffuser", "block_size": 4, "confidence_threshold": 0.2, "revision_threshold": 0.3},
    {"mode": "self-speculation", "spec_variant": "linearspec", "draft_block_size": 4},
    {"mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": 4},
    {"mode": "self-speculation", "spec_variant": "adaptivespec"},
    {"mode": "auto"},
]
TRAITS = Traits(mask_id=0, block_size=4, trained=True)
NAMES = [way.get("spec_variant", way["mode"]) for way in WAYS]


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32", exactness="exact")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["object"].removeprefix("unmask.") for event in events]


def traced(lm: LM, path: Path, prompt: str, **options: Any) -> tuple[Generation, list[dict[str, Any]]]:
    with lm.tracing(Trace(path), "title"):
        generation = lm.generate(prompt, **options)
    return generation, lines(path)


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 3}], ids=["greedy", "sampled"])
def test_a_trace_tells_all(lm: LM, tmp_path: Path, way: dict[str, Any], sampling: dict[str, Any]) -> None:
    options = {**way, **sampling, "max_tokens": 24}
    plain = lm.generate("the the the", **options)
    generation, (head, start, *steps, end) = traced(lm, tmp_path / "one.jsonl", "the the the", **options)
    assert generation.token_ids == plain.token_ids
    assert (head["object"], head["version"], start["object"], end["object"]) == (
        "unmask.trace", 1, "unmask.start", "unmask.end",
    )  # fmt: skip
    assert {event["object"] for event in steps} == {"unmask.step"}
    assert (start["title"], start["mode"], start["strategy"]) == ("title", way["mode"], generation.strategy)
    assert (start["prompt"], start["prompt_tokens"]) == ("the the the", len(generation.prompt_ids))
    assert [token["id"] for step in steps for token in step["token_details"]] == list(generation.token_ids)
    assert "".join(step["text"] for step in steps) == generation.text == end["text"]
    assert end["finish_reason"] == generation.finish_reason
    stats = generation.stats
    assert (steps[-1]["nfe"], steps[-1]["prefills"]) == (stats.nfe, stats.prefills)
    assert [step["step"] for step in steps] == list(range(1, stats.nfe + stats.prefills + 1))
    assert sum(step["rows"] for step in steps) == stats.rows
    seconds = [step["seconds"] for step in steps]
    assert seconds == sorted(seconds)
    assert end["seconds"] >= seconds[-1] > 0


@pytest.mark.parametrize("way", WAYS[2:5], ids=NAMES[2:5])
def test_what_was_checked_is_what_was_taken(lm: LM, tmp_path: Path, way: dict[str, Any]) -> None:
    generation, (_, _, *steps, _) = traced(lm, tmp_path / "one.jsonl", "the the the the", max_tokens=40, **way)
    place, rounds = len(generation.prompt_ids), 0
    for step in steps:
        emitted = [token["id"] for token in step["token_details"]]
        if checked := (step["frame"] or {}).get("checked"):
            draft, accepted = [slot["id"] for slot in checked["draft"]], checked["accepted"]
            assert [slot["position"] for slot in checked["draft"]] == list(range(place, place + len(draft)))
            assert draft[:accepted] == emitted[:accepted]
            assert accepted == len(draft) or accepted == len(emitted) or draft[accepted] != emitted[accepted]
            rounds += 1
        place += len(emitted)
    assert 0 < rounds <= generation.stats.rounds


@pytest.mark.parametrize(
    ("emitted", "accepted"), [((5, 6, 9), 2), ((5, 6, 7, 8), 3), ((4,), 0), ((5,), 1), ((5, 6), 2)]
)
def test_how_much_of_a_draft_was_accepted(emitted: tuple[int, ...], accepted: int) -> None:
    request = Request((1, 2), 20, strategy="quadspec", settings=Speculation(draft_block_size=4), traits=TRAITS)
    draft = tuple(Draft(token, 0.9, -1, 0.0) for token in (5, 6, 7))
    before = State(request, kept=2, output=(3,), draft=draft, stats=Stats(nfe=1, rounds=1))
    after = replace(before, kept=3 + accepted, output=(3, *emitted), stats=Stats(nfe=2, rounds=2))
    tokens = tuple(Token(id, 2) for id in emitted)
    found = seen(before, Update(0, after, Outcome(1 + accepted, tokens)))
    assert found == Frame(2, 3 + len(emitted), (), Checked(3, (5, 6, 7), accepted))
    idle = Update(0, replace(before, kept=3, stats=Stats(nfe=2, rounds=1)), Outcome())
    assert seen(before, idle) is None
    assert seen(None, idle) is None


def test_a_draft_is_checked_as_it_was_shown(lm: LM, tmp_path: Path) -> None:
    """Of quadspec all that a frame shows is checked by the next forward, up to the limit."""
    _, (_, _, *steps, _) = traced(
        lm, tmp_path / "one.jsonl", "the", max_tokens=24, mode="self-speculation", spec_variant="quadspec"
    )
    shown = list[int]()
    for step in steps:
        if checked := step["frame"].get("checked"):
            assert [slot["id"] for slot in checked["draft"]] == shown[: len(checked["draft"])]
            assert shown
        shown = [slot["id"] for slot in step["frame"]["slots"]]


def test_slots_that_are_taken_back_say_so(lm: LM, tmp_path: Path) -> None:
    generation, (_, _, *steps, _) = traced(lm, tmp_path / "one.jsonl", "the", max_tokens=24, **WAYS[1])
    last, back = dict[int, int](), 0
    for slot in (slot for step in steps for slot in step["frame"]["slots"]):
        back += slot["revisions"] - last.get(slot["position"], 0)
        last[slot["position"]] = slot["revisions"]
    assert back == generation.stats.revisions


def test_who_did_not_ask_for_frames_sees_none(lm: LM, tmp_path: Path) -> None:
    with lm.tracing(Trace(tmp_path / "one.jsonl")):
        plain = list(lm.stream("the", max_tokens=8, **WAYS[1]))
        shown = list(lm.stream("the", max_tokens=8, frames=True, **WAYS[1]))
    assert not any(isinstance(event, Frame) for event in plain)
    assert any(isinstance(event, Frame) for event in shown)
    assert [e for e in plain if isinstance(e, Piece)] == [e for e in shown if isinstance(e, Piece)]
    assert lm.trace is None


def test_a_batch_has_a_story_each(lm: LM, tmp_path: Path) -> None:
    with lm.tracing(Trace(tmp_path / "one.jsonl")):
        done = lm.generate_all(["the", "a a a"], max_tokens=6, ignore_eos=True)
    events = lines(tmp_path / "one.jsonl")
    for index, generation in enumerate(done):
        own = [event for event in events if event.get("index") == index]
        assert kinds(own) == ["start", *["step"] * (len(own) - 2), "end"]
        assert own[-1]["text"] == generation.text
        assert [e["seconds"] for e in own[1:-1]] == sorted(e["seconds"] for e in own[1:-1])


def test_what_is_given_up_is_told(lm: LM, tmp_path: Path) -> None:
    with lm.tracing(Trace(tmp_path / "one.jsonl")):
        events = lm.stream("the", max_tokens=50, mode="ar", ignore_eos=True)
        next(events)
        assert isinstance(events, Generator)
        events.close()
    found = lines(tmp_path / "one.jsonl")
    assert kinds(found) == ["trace", "start", "step", "end"]
    assert (found[-1]["finish_reason"], found[-1]["stats"]) == ("cancelled", None)


def test_every_line_is_there_as_soon_as_its_step_is_over(lm: LM, tmp_path: Path) -> None:
    with lm.tracing(Trace(tmp_path / "one.jsonl")):
        events = lm.stream("the", max_tokens=5, mode="ar", ignore_eos=True)
        for number, event in enumerate(events, 1):
            if isinstance(event, Piece):
                assert kinds(lines(tmp_path / "one.jsonl"))[: 2 + number] == ["trace", "start", *["step"] * number]


def test_a_gap_is_told_with_both_its_sides(lm: LM, tmp_path: Path) -> None:
    with lm.tracing(Trace(tmp_path / "one.jsonl")), pytest.warns(UserWarning, match="has not learned to fill"):
        filled = lm.fill("the ", " a", untrained=True, max_tokens=5, heal=False)
    assert kinds(found := lines(tmp_path / "one.jsonl"))[:2] == ["trace", "start"]
    assert found[1]["prompt"] == "the "
    assert found[-1]["text"].startswith(filled.text)
