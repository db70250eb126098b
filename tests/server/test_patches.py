"""Patches over HTTP: contents in, a diff out; commands only by the names that the server knows; clients that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.serving import Running, running, wait_until
from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.cli.serve import named_commands
from unmask.patching.plain import as_object
from unmask.server import Settings

LEARNED = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": VOCABULARY - 3, "gap_room": 24}
CODE = "def size(a):\n    return a * <FILL>\n"
NUMBER = [{"type": "regex", "pattern": "[1-9][0-9]{0,2}"}]
CHECKS = {"tests": "python test_m.py", "wait": "sleep 2", "none": "no-such-command-here"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gap"), unmask=LEARNED | {"gap_causal": True})


@pytest.fixture(scope="module")
def gaps(folder: Path) -> Iterator[Running]:
    with running(folder, Settings(patch_checks=CHECKS)) as server:
        yield server
        server.idle()


def asked(**fields: Any) -> dict[str, Any]:
    return {"content": CODE, "path": "m.py", "marker": "<FILL>", "constraints": NUMBER, "candidates": 3, **fields}


def test_a_patch_is_that_of_the_library(gaps: Running, folder: Path) -> None:
    reply = gaps.ok("/v1/patches", asked(generation_mode="ar"))
    lm = LM.load(folder, dtype="float32", exactness="exact")
    own: dict[str, Any] = {"path": "m.py", "marker": "<FILL>", "constraints": NUMBER, "candidates": 3, "mode": "ar"}
    expected = as_object(lm.patch(CODE, **own))
    assert reply["status"] == "accepted"
    for name in ("diff", "new_text", "span", "diagnostics"):
        assert reply[name] == expected[name]
    assert [one["text"] for one in reply["candidates"]] == [one["text"] for one in expected["candidates"]]
    assert reply["candidates"][0]["score"] == pytest.approx(expected["candidates"][0]["score"])
    assert reply["object"] == "patch"


def test_several_faults_and_what_is_wanted(gaps: Running, folder: Path) -> None:
    code = "def f(a):\n    return b + c\n"
    only = [{"type": "choice", "values": ["a"]}]
    more = {"instruction": "Only a.", "context": {"util.py": "A = 1\n"}, "candidates": 1}
    body = {"content": code, "path": "m.py", "from_diagnostic": "python", "constraints": only, "max_faults": 4, **more}
    reply = gaps.ok("/v1/patches", body)
    assert (reply["object"], reply["status"], reply["mended"], reply["left"]) == ("patch", "accepted", 2, [])
    assert reply["new_text"] == "def f(a):\n    return a + a\n"
    assert [one["status"] for one in reply["patches"]] == ["accepted", "accepted"]
    # What is wanted is seen: the sampled filling is the library's with the same.
    lm = LM.load(folder, dtype="float32", exactness="exact")
    how: dict[str, Any] = {"lines": "2", "temperature": 1.0, "max_tokens": 6, "seed": 3, **more}
    expected = lm.patch(code, path="m.py", mode="ar", **how)
    texts = [
        one["text"]
        for one in gaps.ok("/v1/patches", {"content": code, "path": "m.py", "generation_mode": "ar", **how})[
            "candidates"
        ]
    ]
    assert texts == [trial.text for trial in expected.trials]


def test_the_reply_is_made_beside_the_event_loop(gaps: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    loops = list[bool]()

    def watched(found: Any) -> dict[str, Any]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loops.append(False)
        else:
            loops.append(True)
        return as_object(found)

    monkeypatch.setattr("unmask.server.patches.as_object", watched)
    gaps.ok("/v1/patches", asked())
    assert loops == [False]


def test_requests_go_on_beside_it(gaps: Running) -> None:
    alone = gaps.completion("the cat", max_tokens=12)["choices"]
    threads = [
        threading.Thread(target=lambda: found.append(gaps.ok("/v1/patches", asked(grow="def")))) for _ in range(3)
    ]
    found = list[Any]()
    for thread in threads:
        thread.start()
    assert all(gaps.completion("the cat", max_tokens=12)["choices"] == alone for _ in range(3))
    for thread in threads:
        thread.join()
    assert [one["diff"] for one in found] == [found[0]["diff"]] * 3
    gaps.idle()


def test_a_named_command_judges(gaps: Running) -> None:
    files = {"test_m.py": "import m\nassert m.size(0) == 0\n"}
    reply = gaps.ok("/v1/patches", asked(checks=["tests"], files=files))
    assert (reply["status"], reply["diagnostics"]["remaining"]) == ("accepted", [])
    assert {one["source"] for one in reply["diagnostics"]["fixed"]} == {"syntax", "tests"}
    files = {"test_m.py": "import m\nassert m.size(1) == -1\n"}
    reply = gaps.ok("/v1/patches", asked(checks=["tests"], files=files))
    assert (reply["status"], reply["new_text"]) == ("rejected", None)


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"checks": ["rm -rf /"]}, 400, "check 'rm -rf /' is not one of this server's: tests, wait, none"),
        ({"checks": ["none"]}, 422, "none could not be run"),
        ({"files": {"../x": ""}}, 400, "must be a relative path that stays inside"),
        ({"path": "/etc/passwd"}, 400, "must be a relative path that stays inside"),
        ({"marker": None}, 400, "say where to patch, once"),
        ({"marker": "def"}, 200, ""),
        ({"marker": "fish"}, 400, "stands there 0 times"),
        ({"verify": "make"}, 400, "verify"),
        ({"from_diagnostic": "mypy", "marker": None}, 400, "from_diagnostic"),
        ({"constraints": [{"type": "regex", "pattern": "("}]}, 400, "pattern"),
        ({"candidates": 17}, 400, "candidates"),
        ({"max_faults": 2}, 400, "needs from-diagnostic python, ruff or mypy"),
        ({"max_faults": 17}, 400, "max_faults"),
        ({"instruction": " "}, 400, "instruction must say something"),
        ({"context": {"a": 1}}, 400, "context"),
        ({"content": "a\0<FILL>", "path": "m.txt"}, 400, "not a text file"),
    ],
)
def test_what_is_refused(gaps: Running, fields: dict[str, Any], status: int, message: str) -> None:
    body = {name: value for name, value in asked(**fields).items() if value is not None}
    if status == 200:
        gaps.ok("/v1/patches", body)
    else:
        assert message in gaps.problem("/v1/patches", body, status)["message"]


def test_a_model_that_cannot_says_so(server: Running) -> None:
    assert "this model cannot fill a gap" in server.problem("/v1/patches", asked())["message"]


def test_a_client_that_leaves_frees_its_room(gaps: Running) -> None:
    with httpx.Client(base_url=gaps.url, timeout=1.0) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/patches", json=asked(checks=["wait"]))
    wait_until(lambda: gaps.service.held == 0)
    gaps.idle()


def test_a_patch_that_takes_too_long(folder: Path) -> None:
    with running(folder, Settings(patch_checks=CHECKS, request_seconds=0.5)) as server:
        error = server.problem("/v1/patches", asked(checks=["wait"]), 504)
        assert error["code"] == "request_timeout"
        wait_until(lambda: server.service.held == 0)


def test_commands_have_names() -> None:
    assert named_commands(["a=b = c", " d = e"]) == {"a": "b = c", "d": "e"}
    for wrong in ("make", "=make", "a="):
        with pytest.raises(ValueError, match="--patch-check must be NAME=COMMAND"):
            named_commands([wrong])
    with pytest.raises(ValueError, match="patch_checks must name commands"):
        Settings(patch_checks={"a": " "})
