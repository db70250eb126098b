"""Gaps over HTTP: what `LM.fill` fills is what a suffix gets, streamed or not; models that cannot say so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import Running, running
from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.server import Settings

START = VOCABULARY - 3
LEARNED: dict[str, Any] = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": START, "gap_room": 24}
PREFIX, SUFFIX = "the cat and ", " the dog\nand the bird\n"
WAYS: list[dict[str, Any]] = [
    {"generation_mode": "ar"},
    {"generation_mode": "fastdiffuser"},
    {"generation_mode": "self-speculation"},
    {},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gap"), unmask=LEARNED | {"gap_causal": True})


@pytest.fixture(scope="module")
def lm(folder: Path) -> LM:
    return LM.load(folder, dtype="float32", exactness="exact")


@pytest.fixture(scope="module")
def gaps(folder: Path) -> Iterator[Running]:
    with running(folder, Settings(max_context=200)) as server:
        yield server
        server.idle()


def asked(**fields: Any) -> dict[str, Any]:
    return {"prompt": PREFIX, "suffix": SUFFIX, "temperature": 0, **fields}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("limit", [{}, {"max_tokens": 6}])
def test_a_suffix_gets_what_fill_fills(gaps: Running, lm: LM, way: dict[str, Any], limit: dict[str, Any]) -> None:
    reply = gaps.ok("/v1/completions", asked(**way, **limit))
    found = lm.fill(PREFIX, SUFFIX, mode=way.get("generation_mode"), **limit)
    (choice,) = reply["choices"]
    assert choice["text"] == found.text
    assert choice["finish_reason"] == found.chosen.generations[0].finish_reason
    assert reply["usage"]["completion_tokens"] == found.stats.tokens
    assert reply["usage"]["prompt_tokens"] == len(lm.encode(PREFIX)) + len(lm.encode(SUFFIX))
    pieces = [chunk["choices"][0]["text"] for _, chunk in gaps.stream("/v1/completions", asked(**way, **limit))]
    assert "".join(pieces) == found.text


def test_prompts_as_ids_several_and_sampled(gaps: Running, lm: LM) -> None:
    ids = list(lm.encode(PREFIX))
    plain = gaps.ok("/v1/completions", asked(max_tokens=6))
    assert gaps.ok("/v1/completions", asked(prompt=ids, max_tokens=6))["choices"] == plain["choices"]
    many = gaps.ok("/v1/completions", asked(prompt=[PREFIX, "a "], n=2, temperature=1, seed=5, max_tokens=6))
    expected = [
        lm.fill(prefix, SUFFIX, temperature=1.0, seed=seed, max_tokens=6).text
        for prefix in (PREFIX, "a ")
        for seed in (5, 6)
    ]
    assert [choice["text"] for choice in many["choices"]] == expected


def test_an_empty_suffix_is_a_gap_only_if_told(gaps: Running, lm: LM) -> None:
    plain = lm.generate(PREFIX, max_tokens=6).text
    assert gaps.ok("/v1/completions", asked(suffix="", max_tokens=6))["choices"][0]["text"] == plain
    assert gaps.ok("/v1/completions", asked(suffix=None, max_tokens=6))["choices"][0]["text"] == plain
    ended = gaps.ok("/v1/completions", asked(suffix="", fim_mode=True, generation_mode="fastdiffuser"))
    assert ended["choices"][0]["text"] == lm.fill(PREFIX, "", mode="fastdiffuser").text
    inside = gaps.ok("/v1/completions", {**asked(), "extra_body": {"fim_mode": True}, "max_tokens": 6})
    assert inside["choices"] == gaps.ok("/v1/completions", asked(max_tokens=6))["choices"]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_prompt_gap_and_suffix_together_are_in_the_language(gaps: Running, lm: LM, way: dict[str, Any]) -> None:
    kind = {"type": "regex", "pattern": "a[0-9]{2,4}b"}
    how: dict[str, Any] = {"prompt": "a", "suffix": "b", "max_tokens": 9, "constraints": [kind]}
    found = lm.fill("a", "b", mode=way.get("generation_mode"), max_tokens=9, constraints=[kind], constrain="whole")
    assert re.fullmatch("[0-9]{2,4}", found.text)
    (choice,) = gaps.ok("/v1/completions", asked(**how, **way, constrain="whole"))["choices"]
    assert (choice["text"], choice["constraint"]["status"]) == (found.text, "satisfied")
    pieces = [
        chunk["choices"][0]["text"]
        for _, chunk in gaps.stream("/v1/completions", asked(**how, **way, constrain="whole"))
    ]
    assert "".join(pieces) == found.text
    for more in ({}, {"constrain": "gap"}):
        (choice,) = gaps.ok("/v1/completions", asked(**how, **way, **more))["choices"]
        assert re.fullmatch("a[0-9]{2,4}b", choice["text"])


def test_together_with_ids_aliases_and_a_temperature(gaps: Running, lm: LM) -> None:
    how: dict[str, Any] = {"suffix": "}", "max_tokens": 12, "temperature": 1, "n": 2, "constrain": "whole"}
    for prompt in ('{"a": ', list(lm.encode('{"a": '))):
        reply = gaps.ok("/v1/completions", {"prompt": prompt, **how, "response_format": {"type": "json_object"}})
        for choice in reply["choices"]:
            assert json.loads('{"a": ' + choice["text"] + "}").keys() >= {"a"}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"suffix": None, "constrain": "whole"}, None, "constrain needs a gap"),
        ({"suffix": "", "constrain": "gap"}, None, "constrain needs a gap"),
        ({"constrain": "whole"}, "constrain", "constrain 'whole' has nothing to act on"),
        ({"constrain": "all"}, "constrain", "constrain"),
        (
            {"constrain": "whole", "constraints": [{"type": "regex", "pattern": "[0-9]*"}]},
            "constraints",
            "the constraint allows no text",
        ),
    ],
)
def test_what_cannot_be_constrained_is_refused(
    gaps: Running, fields: dict[str, Any], param: str | None, message: str
) -> None:
    error = gaps.problem("/v1/completions", asked(**fields))
    assert message in error["message"]
    assert error["param"] == param


def test_what_does_not_fit_is_refused(gaps: Running) -> None:
    error = gaps.problem("/v1/completions", asked(prompt="a b" * 60, suffix="c d" * 30))
    assert error["code"] == "context_length_exceeded"
    assert gaps.problem("/v1/chat/completions", {"messages": [], "suffix": "x"})["param"] == "suffix"
    assert gaps.problem("/v1/completions", asked(suffix=5))["param"] == "suffix"


def test_what_a_model_can_fill_is_told(gaps: Running, server: Running) -> None:
    infill = [one.client.get("/v1/models").json()["data"][0]["capabilities"]["infill"] for one in (gaps, server)]
    assert infill == [["in-place"], []]


@pytest.mark.parametrize("body", [{"suffix": "x"}, {"fim_mode": True}])
def test_a_model_that_cannot_says_so(server: Running, body: dict[str, Any]) -> None:
    error = server.problem("/v1/completions", {"prompt": "a", **body})
    assert (error["param"], error["code"]) == (next(iter(body)), "unsupported_field")
    assert "suffix is refused: this model cannot fill a gap" in error["message"]


def test_causal_rows_that_have_not_learned_it_are_not_used(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "noisy", unmask=LEARNED)
    with running(folder, Settings(defaults={"mode": "ar"})) as server:
        reply = server.ok("/v1/completions", asked())
        assert reply["usage"]["completion_tokens_details"]["mode"] == "fastdiffuser"
        error = server.problem("/v1/completions", asked(generation_mode="self-speculation"))
        assert (error["param"], error["code"]) == ("generation_mode", "invalid_value")
        server.idle()
