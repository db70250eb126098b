"""The page at `/`: there and nowhere else, behind a strict policy, and only where it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from tests.server.serving import Running, running
from unmask.cli import run
from unmask.server import Settings
from unmask.view.page import playground
from unmask.view.replay import read_events, replay


@pytest.fixture(scope="module")
def keyed(tiny_folder: Path) -> Iterator[Running]:
    with running(tiny_folder, Settings(api_keys=("secret",)), playground()) as server:
        yield server


def test_the_page_needs_no_key_and_what_it_asks_does(keyed: Running) -> None:
    reply = keyed.client.get("/")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.text == playground().html
    assert "secret" not in reply.text
    assert keyed.client.get("/v1/models").status_code == 401


def test_the_policy(keyed: Running) -> None:
    headers = keyed.client.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy.pop("script-src").startswith("'sha256-")
    assert policy.pop("style-src").startswith("'sha256-")
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/index.html", "/playground", "/page/viewer.mjs", "//"])
def test_it_is_nowhere_else(keyed: Running, path: str) -> None:
    reply = keyed.client.get(keyed.url + path, headers={"authorization": "Bearer secret"})
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/json"


def test_only_reading_is_allowed(keyed: Running) -> None:
    assert keyed.post("/", {}).status_code == 405
    assert "/" not in keyed.client.get("/openapi.json").json()["paths"]


def test_a_stream_that_was_saved_can_be_replayed(server: Running, tmp_path: Path) -> None:
    """As docs/viewer.md has it with curl."""
    asked = {"prompt": "the", "max_tokens": 8, "stream": True, "frames": True, "return_token_details": True}
    reply = server.post("/v1/completions", asked | {"generation_mode": "self-speculation", "temperature": 0})
    (tmp_path / "stream.txt").write_bytes(reply.content)
    events = read_events(tmp_path / "stream.txt")
    assert {event["object"] for event in events} == {"unmask.frame", "text_completion"}
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert "".join(choice["text"] for choice in choices) == server.completion("the")["choices"][0]["text"]
    assert any("checked" in event.get("frame", ()) for event in events)
    assert "stream" in replay([tmp_path / "stream.txt"])


@pytest.mark.parametrize(("flags", "shown"), [([], True), (["--no-playground"], False)])
def test_it_can_be_switched_off(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    shown: bool,
) -> None:
    apps = list[FastAPI]()

    class Started:
        failed = None

        def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
            apps.append(app)
            self.run = lambda sockets: ready()

    monkeypatch.setattr("unmask.server.run.Server", Started)
    assert run(["serve", "--port", "0", "--model-path", str(tiny_folder), *flags]) == 0
    assert ("/" in [getattr(route, "path", None) for route in apps[0].routes]) == shown
    assert ("Try it in a browser" in capsys.readouterr().err) == shown


def test_without_a_page_there_is_no_such_route(server: Running) -> None:
    assert server.client.get("/").status_code == 404
