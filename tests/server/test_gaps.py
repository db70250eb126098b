"""Gaps over HTTP: what `LM.fill` fills is what a suffix gets, streamed or not; models that cannot say so."""

from __future__ import annotations

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
