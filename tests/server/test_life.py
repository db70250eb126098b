"""Leaving, failing, queueing, ending: whatever happens to a request, the server goes on and nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import openai
import pytest

from tests.server.serving import Running, error_of, events, running, wait_until
from tests.tinymodel import write_model
from unmask.server import Settings
from unmask.server.auth import read_keys
from unmask.server.service import Service

TEXT = "/v1/completions"
LONG: dict[str, Any] = {
    "prompt": "the",
    "max_tokens": 250,
    "ignore_eos": True,
    "temperature": 0,
    "generation_mode": "ar",
}


class Slow:
    """Makes every forward of an engine take a while, or fail."""

    def __init__(self, server: Running, seconds: float = 0.02) -> None:
        self.runner = server.service.lm.engine.runner
        self.run, self.seconds = self.runner.run, seconds
        self.failing: Exception | None = None
        self.steps = 0

    def __enter__(self) -> Slow:
        def slowly(jobs: Any) -> Any:
            self.steps += 1
            time.sleep(self.seconds)
            if self.failing is not None:
                raise self.failing
            return self.run(jobs)

        self.runner.run = slowly  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run = self.run  # type: ignore[method-assign]


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_frees_pages_within_a_step(server: Running, stream: bool) -> None:
    engine = server.service.lm.engine
    with Slow(server, 0.1) as slow:
        raw = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({**LONG, "stream": stream}).encode()
        head = (
            f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        raw.sendall(head.encode() + body)
        wait_until(lambda: engine.pages.in_use > 0)
        if stream:
            assert b"200 OK" in raw.recv(4096)
        before = slow.steps
        raw.close()
        wait_until(lambda: engine.pages.in_use == 0)
        assert slow.steps <= before + 2  # the one that was running, and perhaps one begun before the news came


def test_a_client_that_closes_its_stream(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.completions.create(model="tiny", prompt="the", stream=True, extra_body=LONG)
        next(iter(stream))
        assert server.service.held == 1
        stream.close()
        server.idle()


def test_a_slow_reader_does_not_hold_up_others(server: Running) -> None:
    """It takes nothing while others run to their end, and then finds its whole text."""
    body = {**LONG, "stream": True, "logprobs": 5, "return_token_details": True}
    expected = server.completion(**LONG)["choices"][0]["text"]
    with server.client.stream("POST", TEXT, json=body) as slow:
        lines = slow.iter_lines()
        with ThreadPoolExecutor(4) as pool:
            others = list(pool.map(lambda _: server.completion(**LONG)["choices"][0]["text"], range(4)))
        assert others == [expected] * 4
        wait_until(lambda: not server.service.worker.jobs)
        found = events(lines)
    assert "".join(data["choices"][0]["text"] for _, data in found[:-1]) == expected


def test_frames_tell_what_happened(server: Running) -> None:
    body = {
        **LONG, "max_tokens": 16, "generation_mode": "fastdiffuser", "block_size": 8, "frames": True,
        "revision_threshold": 0.2, "max_revisions": 1, "return_token_details": True,
    }  # fmt: skip
    found = server.stream(TEXT, body)
    frames = [data["frame"] for name, data in found if name == "unmask.frame"]
    details = [t for name, data in found if name is None for t in data["choices"][0].get("token_details", ())]
    assert [frame["step"] for frame in frames] == list(range(1, len(frames) + 1))
    assert {frame["version"] for frame in frames} == {1}
    assert {frame["dropped"] for frame in frames} == {0}
    last: dict[int, Any] = {slot["position"]: slot for frame in frames for slot in frame["slots"]}
    assert {slot["state"] for slot in last.values()} <= {"masked", "tentative", "committed", "frozen"}
    for number, token in enumerate(details):
        slot = last[frames[0]["prompt_tokens"] + number]
        assert (slot["id"], slot["revisions"]) == (token["id"], token["revisions"])


def test_a_failing_engine_is_a_clean_500(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "unmask.server")
    with Slow(server, 0.01) as slow:
        with server.client.stream("POST", TEXT, json={**LONG, "stream": True}) as reply:
            lines = reply.iter_lines()
            next(lines)
            slow.failing = MemoryError("/secret/path: no more memory")
            whole = server.post(TEXT, LONG)
            assert (whole.status_code, error_of(whole)["type"]) == (500, "server_error")
            *_, error, last = events(lines)
        assert last == (None, "[DONE]")
        assert error[1]["error"]["code"] == "internal_error"
        assert "secret" not in whole.text + str(error)
        slow.failing = None
        server.completion()
    assert server.service.worker.failures


def test_a_bug_in_the_text_of_one_request_is_its_own(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.lm.follow import Follow

    take = Follow.take

    def fails(self: Follow, update: Any) -> Any:
        if self.stream.stops:
            raise RuntimeError("a bug")
        return take(self, update)

    monkeypatch.setattr(Follow, "take", fails)
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(server.post, TEXT, {**LONG, "stop": "never"})
        assert server.completion()["choices"]
        assert bad.result().status_code == 500


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Running]:
    """A server that decodes one request at a time, lets one wait, and has little patience."""
    settings = Settings(
        max_queue=1, request_seconds=1.5, body_seconds=0.3, keep_alive_seconds=0.05, api_keys=("sesame", "other-key")
    )
    with running(write_model(tmp_path / "narrow"), settings, max_live=1) as one:
        one.client.headers["authorization"] = "Bearer sesame"
        yield one


def test_a_full_queue_is_429(narrow: Running) -> None:
    with Slow(narrow, 0.05), ThreadPoolExecutor(2) as pool:
        first = [pool.submit(narrow.post, TEXT, {**LONG, "max_tokens": 12}) for _ in range(2)]
        wait_until(lambda: narrow.service.held == 2)
        reply = narrow.post(TEXT, LONG)
        assert (reply.status_code, error_of(reply)["type"]) == (429, "rate_limit_error")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        assert narrow.post(TEXT, {**LONG, "n": 3}).status_code == 400  # would never fit
        assert [one.result().status_code for one in first] == [200, 200]
    assert narrow.post(TEXT, {**LONG, "max_tokens": 2}).status_code == 200


def test_requests_have_a_time_limit_and_streams_stay_alive(narrow: Running) -> None:
    with Slow(narrow, 0.4):
        whole = narrow.post(TEXT, LONG)
        assert (whole.status_code, error_of(whole)["code"]) == (504, "request_timeout")
        with narrow.client.stream("POST", TEXT, json={**LONG, "stream": True}) as reply:
            lines = list(reply.iter_lines())
        assert ": keep-alive" in lines
        error, last = events(iter(lines))[-2:]
        assert error[1]["error"]["code"] == "request_timeout"
        assert last[1] == "[DONE]"
    wait_until(lambda: not narrow.service.held)


def test_slow_bodies(narrow: Running) -> None:
    def drip() -> Iterator[bytes]:
        yield b'{"prompt": '
        time.sleep(0.6)
        yield b'"a"}'

    reply = narrow.client.post(TEXT, content=drip(), headers={"content-type": "application/json"})
    assert (reply.status_code, error_of(reply)["code"]) == (408, "body_timeout")


def test_keys(narrow: Running, tmp_path: Path) -> None:
    ask = {"prompt": "a", "max_tokens": 1}
    for given in (
        None,
        "Bearer",
        "Bearer wrong",
        "Basic sesame",
        "sesame",
        "Bearer sesam\xe9",
        "Bearer sesame2",
    ):
        headers = {} if given is None else {b"authorization": given.encode("latin-1")}
        for route in (TEXT, "/tokenize", "/nope"):
            reply = httpx.post(narrow.url + route, json=ask, headers=headers)
            assert reply.status_code == 401, given
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "sesame" not in error_of(reply)["message"]
    for key in ("Bearer sesame", "bearer other-key"):
        assert httpx.post(narrow.url + TEXT, json=ask, headers={"authorization": key}).status_code == 200
    assert httpx.get(narrow.url + "/v1/models").status_code == 401
    assert httpx.get(narrow.url + "/health").status_code == httpx.get(narrow.url + "/metrics").status_code == 200
    with pytest.raises(openai.AuthenticationError), openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="no") as client:
        client.models.list()
    assert "sesame" not in repr(narrow.service.settings)
    file = tmp_path / "keys"
    file.write_text("# mine\none\n\n two \n", encoding="utf-8")
    assert read_keys(file, {"UNMASK_API_KEYS": "three, one"}) == ("one", "two", "three")
    assert read_keys(None, {}) == ()
    for content, environment in (("#\n", {}), ("a b", {}), ("é", {}), ("one", {"UNMASK_API_KEYS": " , "})):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="key"):
            read_keys(file, environment)


def test_logs_hold_no_prompt_and_no_key(narrow: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "unmask.server")
    narrow.post(TEXT, {"prompt": "my secret prompt", "max_tokens": 2, "user": "u-7"})
    narrow.post(TEXT, {"prompt": "my secret prompt", "my secret field": 2})
    wait_until(lambda: len([r for r in caplog.records if r.message == "request"]) == 2)
    text = " ".join(str(record.__dict__) for record in caplog.records)
    assert "u-7" in text
    assert "secret" not in text
    assert "sesame" not in text


def test_ending_lets_requests_finish(tmp_path: Path) -> None:
    with running(write_model(tmp_path / "m"), Settings(shutdown_seconds=20)) as one, Slow(one, 0.02):
        expected = ""
        with one.client.stream("POST", TEXT, json={**LONG, "max_tokens": 40, "stream": True}) as reply:
            lines = reply.iter_lines()
            next(lines)
            one.server.stop()
            found = events(lines)
            expected = found[-2][1]["choices"][0]["finish_reason"]
        assert expected == "length"
        one.thread.join(10)
        assert not one.thread.is_alive()


def test_ending_is_clean_for_those_that_take_too_long(tmp_path: Path) -> None:
    with running(write_model(tmp_path / "m"), Settings(shutdown_seconds=0.3)) as one, Slow(one, 0.1):
        with one.client.stream("POST", TEXT, json={**LONG, "stream": True}) as reply:
            lines = reply.iter_lines()
            next(lines)
            one.server.stop()
            found = events(lines)
        assert found[-2][1]["error"]["code"] == "shutting_down"
        assert found[-1][1] == "[DONE]"


def test_nobody_comes_in_while_it_ends(server: Running) -> None:
    server.service.draining = True
    try:
        reply = server.post(TEXT, LONG)
        assert (reply.status_code, error_of(reply)["code"]) == (503, "shutting_down")
        assert reply.headers["retry-after"]
        assert server.client.get("/health").status_code == server.client.get("/health/ready").status_code == 503
        assert server.client.get("/health/live").status_code == 200
    finally:
        server.service.draining = False


class Process:
    """`unmask serve` as users start it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "unmask", "serve", "--model-path", str(folder), "--port", "0", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
        assert self.process.stderr is not None
        self.said = list[str]()
        while not (self.said and "Serving" in self.said[-1]):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said.append(line)
        self.url = next(word for word in self.said[-1].split() if word.startswith("http"))
        threading.Thread(target=lambda: self.said.extend(self.process.stderr or ()), daemon=True).start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()


def test_serve_with_the_articles_flags_until_sigterm(tiny_folder: Path) -> None:
    flags = [
        *("--tp", "1", "--trust-remote-code", "--generation-mode", "fastdiffuser", "--diffusion-block-size", "4"),
        *("--diffusion-steps", "2", "--confidence-threshold", "0.9", "--served-model-name", "nemotron-diffusion-8b"),
        *("--log-format", "json", "--dtype", "float32"),
    ]
    with Process(tiny_folder, *flags) as one:
        assert any("no code from a checkpoint is ever run" in line for line in one.said)
        body = {"model": "nemotron-diffusion-8b", "prompt": "the", "max_tokens": 16, "ignore_eos": True}
        reply = httpx.post(f"{one.url}/completions", json=body, timeout=30).json()
        details = reply["usage"]["completion_tokens_details"]
        assert details["mode"] == "fastdiffuser"
        assert details["forwards"] <= 4 * 2 + 1
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(20) == 0
        wait_until(lambda: any('"message": "request"' in line for line in one.said))
        logged = [json.loads(line) for line in one.said if line.startswith("{")]
        assert any(line["message"] == "request" and line["tokens"] == 16 for line in logged)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "long", max_position_embeddings=100_000)
    with (
        Process(folder, "--shutdown-seconds", "60") as one,
        httpx.Client(timeout=30) as client,
        client.stream(
            "POST", f"{one.url}/completions", json={**LONG, "max_tokens": 90_000, "stream": True, "temperature": 1}
        ) as reply,
    ):
        next(reply.iter_lines())
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: any("SIGTERM" in line for line in one.said))
        assert one.process.poll() is None
        begun = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(10) == 130
        assert time.monotonic() - begun < 2


def test_no_task_is_left_when_requests_are_cancelled(server: Running) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            tasks = [asyncio.create_task(client.post(TEXT, json=LONG)) for _ in range(8)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_longer_contexts_are_timed_when_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.server.service.IDLE_SECONDS", 0.001)
    asked = list[tuple[int, str]]()

    async def call(function: Any) -> Any:
        return function()

    def measuring(context: int) -> Iterator[None]:
        for size in ("few", "many"):
            asked.append((context, size))
            service.held = 1  # somebody comes meanwhile
            yield

    engine = SimpleNamespace(measuring=measuring)
    service = SimpleNamespace(held=1, worker=SimpleNamespace(call=call), lm=SimpleNamespace(engine=engine))

    async def run() -> None:
        warming = asyncio.create_task(Service.warm(cast(Any, service)))
        for done in range(4):
            await asyncio.sleep(0.005)
            assert len(asked) == done, "not while somebody is there"
            service.held = 0
            while len(asked) == done:
                await asyncio.sleep(0.001)
        service.held = 0
        await warming

    asyncio.run(run())
    assert asked == [(context, size) for context in (1024, 4096) for size in ("few", "many")]
