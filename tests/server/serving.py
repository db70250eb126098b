"""A server on a loopback port, run in a thread of the test's process, and what tests ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from unmask import LM
from unmask.server import Settings, create_app
from unmask.server.app import Page
from unmask.server.run import Server, take_socket
from unmask.server.service import Service

WAYS: list[dict[str, Any]] = [
    {"generation_mode": "ar"},
    {"generation_mode": "fastdiffuser", "block_size": 4, "confidence_threshold": 0.3},
    {"generation_mode": "self-speculation", "spec_variant": "linearspec"},
    {"generation_mode": "self-speculation", "spec_variant": "quadspec"},
    {"generation_mode": "self-speculation", "spec_variant": "adaptivespec"},
    {"generation_mode": "auto"},
]


def way_name(way: dict[str, Any]) -> str:
    return str(way.get("spec_variant", way["generation_mode"]))


def as_options(way: dict[str, Any]) -> dict[str, Any]:
    """A way as `LM.generate` takes it."""
    return {"mode" if name == "generation_mode" else name: value for name, value in way.items()}


class Running:
    """One server and a client for it."""

    def __init__(self, server: Server, port: int, thread: threading.Thread) -> None:
        self.server, self.port, self.thread = server, port, thread
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    @property
    def service(self) -> Service:
        service: Service = self.server.service
        return service

    def post(self, route: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.client.post(route, json=body, **options)

    def ok(self, route: str, body: Any) -> dict[str, Any]:
        reply = self.post(route, body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def completion(self, prompt: Any = "the", **fields: Any) -> dict[str, Any]:
        return self.ok("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 8, **fields})

    def problem(self, route: str, body: Any, status: int = 400) -> dict[str, Any]:
        """The error of a request that must be refused, in OpenAI's shape."""
        reply = self.post(route, body)
        assert reply.status_code == status, reply.text
        return error_of(reply)

    def stream(self, route: str, body: dict[str, Any]) -> list[tuple[str | None, Any]]:
        """(name, data) of all events; the last one must be [DONE]."""
        with self.client.stream("POST", route, json=body | {"stream": True}) as reply:
            assert reply.status_code == 200, reply.read()
            found = events(reply.iter_lines())
        assert found.pop() == (None, "[DONE]")
        return found

    def idle(self, seconds: float = 20.0) -> None:
        """Wait until nothing runs, not even the timing of forwards, and check that nothing is left."""
        service = self.service
        wait_until(lambda: service.warming is None or service.warming.done(), seconds)
        wait_until(lambda: not service.held and not service.worker.jobs and not service.calls, seconds)
        health = self.client.get("/health").json()
        assert (health["status"], health["invariant"], health["pages_in_use"]) == ("ok", "holds", 0), health


def events(lines: Iterator[str]) -> list[tuple[str | None, Any]]:
    found, name = list[tuple[str | None, Any]](), None
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            found.append((name, data if data == "[DONE]" else json.loads(data)))
            name = None
        else:
            assert line == "" or line.startswith(":"), line
    return found


def error_of(reply: httpx.Response) -> dict[str, Any]:
    body = reply.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text
    return error


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


@contextlib.contextmanager
def running(
    lm: LM | Path, settings: Settings | None = None, page: Page | None = None, **loading: Any
) -> Iterator[Running]:
    """Serve a model; at the end the server must stop by itself and leave no task behind."""
    if isinstance(lm, Path):
        lm = LM.load(lm, **{"dtype": "float32", "exactness": "exact"} | loading)
    app = create_app(lm, settings, page)
    taken = take_socket("127.0.0.1", 0)
    begun, left = threading.Event(), list[str]()
    server = Server(app, ready=begun.set)

    async def run() -> None:
        await server.serve(sockets=[taken])
        left.extend(repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task())

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert begun.wait(30)
    one = Running(server, taken.getsockname()[1], thread)
    try:
        yield one
    finally:
        one.client.close()
        if thread.is_alive():
            server.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
        assert not left, left
        assert not server.service.worker.thread.is_alive()
        assert not lm.engine.requests
        lm.engine.check()
        assert lm.engine.pages.in_use == 0
