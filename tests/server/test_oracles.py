"""Soft constraints over HTTP: declared or registered by name, never code; held back until they are content."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.server.serving import WAYS, Running, as_options, running, way_name
from unmask import LM, ConstraintOracle
from unmask.server import Settings
from unmask.types import Verdict, View

NO_E = {"type": "not_contains", "texts": list("aeiou")}


@dataclass
class Waits:
    """Says nothing until it is told to."""

    name: str = "waits"
    partial: bool = True
    told: Event = field(default_factory=Event)
    asked: Event = field(default_factory=Event)

    def check(self, view: View) -> Verdict:
        self.asked.set()
        self.told.wait(30)
        return Verdict("satisfied")


WAITS = Waits()


@pytest.fixture(scope="module")
def own(tiny_folder: Path) -> Iterator[Running]:
    vowels = ConstraintOracle(lambda text: [letter not in "aeiou" for letter in text])
    with running(tiny_folder, Settings(oracles={"no_vowels": vowels, "waits": WAITS})) as server:
        yield server
        server.idle()


@pytest.mark.parametrize("way", WAYS, ids=way_name)
def test_whole_and_streamed(server: Running, alone: LM, way: dict[str, Any]) -> None:
    fields = {"constraints": [NO_E], "constraint_refinement_rounds": 60, "max_tokens": 20, **way}
    reply = server.completion("the", **fields)
    choice = reply["choices"][0]
    assert choice["constraint"] == {"status": "satisfied", "detail": ""}
    assert not set("aeiou") & set(choice["text"])
    options = {"max_tokens": 20, "constraints": [NO_E], "constraint_refinement_rounds": 60, **as_options(way)}
    found = alone.generate("the", **options)
    assert choice["text"] == found.text
    assert reply["usage"]["completion_tokens_details"]["refinement_rounds"] == found.stats.refinement_rounds
    chunks = server.stream("/v1/completions", {"prompt": "the", "temperature": 0, **fields})
    assert "".join(data["choices"][0]["text"] for _, data in chunks if data["choices"]) == found.text
    assert chunks[-1][1]["choices"][0]["constraint"] == {"status": "satisfied", "detail": ""}


def test_what_is_wrong_is_told(server: Running) -> None:
    reply = server.completion(
        "the", constraints=[{"type": "contains", "text": "zebra"}], constraint_refinement_rounds=1
    )
    told = reply["choices"][0]["constraint"]
    assert told["status"] == "violated"
    (fault,) = told["violations"]
    assert (fault["code"], fault["source"]) == ("missing-text", "contains")
    assert fault["span"] == [len(reply["choices"][0]["text"].encode())] * 2


def test_a_registered_oracle(own: Running) -> None:
    asked = {"constraints": [{"type": "oracle", "name": "no_vowels"}], "constraint_refinement_rounds": 60}
    choice = own.completion("xyz", **asked)["choices"][0]
    assert choice["constraint"]["status"] == "satisfied"
    assert not set("aeiou") & set(choice["text"])
    assert own.client.get("/v1/models").json()["data"][0]["capabilities"]["oracles"] == ["no_vowels", "waits"]


def test_a_client_that_leaves_while_its_request_is_parked(own: Running) -> None:
    WAITS.asked.clear()
    body = {"prompt": "the", "stream": True, "constraints": [{"type": "oracle", "name": "waits"}]}
    with own.client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        assert WAITS.asked.wait(20)
        assert own.completion("xyz", max_tokens=4)["choices"][0]["text"], "others go on meanwhile"
        assert own.client.get("/metrics").text.count("unmask_parked 1.0") == 1
    own.idle()
    WAITS.told.set()
    until = time.monotonic() + 20
    while own.service.lm.engine.questions.running and time.monotonic() < until:
        own.completion("xyz", max_tokens=2, constraints=[NO_E])
    assert not own.service.lm.engine.questions.running


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"constraint_refinement_rounds": 5}, "has nothing to act on", "constraint_refinement_rounds"),
        ({"constraints": [{"type": "oracle", "name": "os.system"}]}, "no oracle is registered as", "constraints"),
        ({"constraints": [{"type": "python"}]}, "a constraint's type must be one of", "constraints"),
        ({"constraints": [{"type": "length", "max_lines": 0}]}, "max_lines must be", "constraints"),
    ],
)
def test_refusals(server: Running, body: dict[str, Any], message: str, param: str) -> None:
    problem = server.problem("/v1/completions", {"prompt": "the", **body})
    assert message in problem["message"]
    assert problem["param"] == param


def test_the_articles_client(server: Running) -> None:
    """It sends rounds and no oracle, which a function could not travel as: told, not ignored."""
    body = {
        "messages": [{"role": "user", "content": "the"}],
        "extra_body": {"generation_mode": "fastdiffuser", "constraint_refinement_rounds": 5},
    }
    assert "no soft constraint" in server.problem("/v1/chat/completions", body)["message"]
    body["extra_body"] = {**body["extra_body"], "constraints": [NO_E], "max_tokens": 12, "seed": 1}  # type: ignore[dict-item]
    assert server.ok("/v1/chat/completions", body)["choices"][0]["constraint"]["status"] in ("satisfied", "violated")
