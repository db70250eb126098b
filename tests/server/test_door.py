"""The door in front of replicas: what it passes on, what it says when one is lost, and how it ends. No Ray: the
replicas are apps in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.server.serving import WAYS, as_options, events
from unmask import LM
from unmask.server import Settings, create_app
from unmask.server.door import BusyError, LostReplicaError, Sent, create_door
from unmask.server.prefixes import Prefixes
from unmask.server.relay import Answer, Asked, Head, answer_of

SETTINGS = Settings(names=("tiny",), shutdown_seconds=0.2, body_bytes=4000)
JSON = ((b"content-type", b"application/json"),)
LONG: dict[str, Any] = {"prompt": "the", "max_tokens": 200, "ignore_eos": True, "generation_mode": "ar", "stream": True}


class Local:
    """Replicas in this process."""

    def __init__(self, apps: dict[str, FastAPI]) -> None:
        self.apps, self.prefixes, self.number = apps, Prefixes(), 0
        self.lost = set[str]()
        self.busy = False

    async def ask(self, asked: Asked) -> Answer:
        if self.busy:
            raise BusyError
        self.number += 1
        request, names = str(self.number), sorted(set(self.apps) - self.lost)
        name = names[asked.to] if asked.to is not None else self.prefixes.ranked(asked.chain, names)[0]
        self.prefixes.begin(request, asked.chain, name)
        answer = answer_of(self.apps[name], asked, name)
        try:
            async for part in answer:
                if name in self.lost:
                    raise LostReplicaError
                yield part
        finally:
            await answer.aclose()
            self.prefixes.end(request)

    async def states(self) -> dict[str, int]:
        return {"running": len(set(self.apps) - self.lost)}


class Client:
    def __init__(self, replicas: Local, door: FastAPI) -> None:
        self.replicas, self.door = replicas, door

    def begin(self, path: str, body: Any = None, headers: Any = JSON) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return answer_of(self.door, Asked("GET" if body is None else "POST", path, headers=headers, body=data), "door")

    async def ask(self, path: str, body: Any = None, headers: Any = JSON) -> tuple[Head, bytes]:
        head, *rest = [part async for part in self.begin(path, body, headers)]
        assert isinstance(head, Head)
        return head, b"".join(part for part in rest if isinstance(part, bytes))

    async def json(self, path: str, body: Any = None, status: int = 200) -> Any:
        head, data = await self.ask(path, body)
        assert head.status == status, data
        return json.loads(data)

    def idle(self) -> None:
        assert not self.door.state.service.calls
        assert not self.replicas.prefixes.running


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> list[LM]:
    return [LM.load(tiny_folder, dtype="float32", exactness="exact") for _ in range(2)]


@asynccontextmanager
async def opened(models: list[LM], settings: Settings = SETTINGS) -> AsyncIterator[Client]:
    apps = {name: create_app(lm, settings) for name, lm in zip("ab", models, strict=True)}
    async with AsyncExitStack() as stack:
        for app in apps.values():
            await stack.enter_async_context(app.router.lifespan_context(app))
        replicas = Local(apps)
        client = Client(replicas, create_door(replicas, settings))
        yield client
        client.idle()
        for service in [app.state.service for app in apps.values()]:
            async with asyncio.timeout(20):
                while service.held or service.calls:
                    await asyncio.sleep(0.005)
            assert (await service.health())[1]["pages_in_use"] == 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


def run(models: list[LM], test: Callable[[Client], Awaitable[None]], settings: Settings = SETTINGS) -> None:
    async def main() -> None:
        async with opened(models, settings) as client:
            await test(client)

    asyncio.run(main())


def header(head: Head, name: bytes) -> str:
    values = [value.decode() for key, value in head.headers if key == name]
    assert len(values) <= 1, f"{name!r} is said twice"
    return values[0] if values else ""


def test_every_replica_answers_alike_in_every_mode(models: list[LM], alone: LM) -> None:
    async def test(client: Client) -> None:
        for way in WAYS:
            expected = alone.generate("the", max_tokens=12, **as_options(way)).text
            seen = set[str]()
            for _ in range(2):
                body = {"prompt": "the", "max_tokens": 12, "temperature": 0, **way}
                head, data = await client.ask("/v1/completions", body)
                assert json.loads(data)["choices"][0]["text"] == expected
                assert header(head, b"x-request-id")
                assert int(header(head, b"content-length")) == len(data)
                seen.add(header(head, b"x-unmask-replica"))
            assert seen == {"a", "b"}

    run(models, test)


def test_one_beginning_one_replica(models: list[LM]) -> None:
    async def test(client: Client) -> None:
        seen = []
        for text in ("x", "y", "z"):
            head, _ = await client.ask("/v1/completions", {"prompt": "word " * 60 + text, "max_tokens": 1})
            seen.append(header(head, b"x-unmask-replica"))
        assert len(set(seen)) == 1

    run(models, test)


def test_errors_pass_and_limits_hold(models: list[LM]) -> None:
    async def test(client: Client) -> None:
        assert (await client.json("/v1/completions", {"promt": 1}, 400))["error"]["param"] == "promt"
        assert (await client.json("/nope", status=404))["error"]["code"] == "route_not_found"
        assert (await client.json("/v1/completions", b"x" * 5000, 413))["error"]["code"] == "body_too_large"
        client.replicas.busy = True
        assert (await client.json("/v1/models", status=429))["error"]["code"] == "queue_full"
        client.replicas.busy = False
        assert (await client.json("/v1/models"))["data"][0]["id"] == "tiny"
        text = (await client.ask("/metrics"))[1].decode()
        for replica in "ab":
            assert f'unmask_pages_in_use{{replica="{replica}"}} 0.0' in text
        assert text.count("# TYPE unmask_pages_in_use gauge") == 1
        assert 'unmask_door_requests_total{route="/{path:path}",status="404"} 1.0' in text

    run(models, test)


def test_a_key_is_asked_for_at_the_door(models: list[LM]) -> None:
    async def test(client: Client) -> None:
        assert (await client.json("/v1/models", status=401))["error"]["code"] == "invalid_api_key"
        assert client.replicas.number == 0, "it went no further"
        head, _ = await client.ask("/v1/models", headers=(*JSON, (b"authorization", b"Bearer open")))
        assert head.status == 200

    run(models, test, Settings(api_keys=("open",)))


@pytest.mark.parametrize("stream", [True, False])
def test_a_lost_replica_is_a_clean_error_and_the_next_try_succeeds(models: list[LM], stream: bool) -> None:
    async def test(client: Client) -> None:
        answer = client.begin("/v1/completions", LONG | {"stream": stream})
        first = asyncio.ensure_future(anext(answer))
        await until(lambda: bool(client.replicas.prefixes.running))
        if stream:
            await first
        client.replicas.lost = set(client.replicas.prefixes.running.values())
        head = await first
        assert isinstance(head, Head)
        data = b"".join([part async for part in answer if isinstance(part, bytes)])
        if stream:
            assert head.status == 200
            found = events(iter(data.decode().splitlines()))
            assert found[-1] == (None, "[DONE]")
            error = found[-2][1]["error"]
        else:
            assert (head.status, header(head, b"retry-after")) == (503, "1")
            error = json.loads(data)["error"]
        assert error["code"] == "replica_lost"
        again = await client.json("/v1/completions", LONG | {"stream": False, "max_tokens": 4})
        assert again["usage"]["completion_tokens"] == 4
        assert (await client.json("/health"))["replicas"] == {"running": 1}
        assert "unmask_door_lost_total 1.0" in (await client.ask("/metrics"))[1].decode()

    run(models, test)


def test_who_has_it_all_may_go() -> None:
    """A client that knows the length does not wait for the end of the message: that is no early leave."""

    async def test() -> None:
        messages = list[Any]()

        async def send(message: Any) -> None:
            messages.append(message)

        sent = Sent(send, {})
        await sent.part(Head(200, ((b"content-length", b"4"),), "a"))
        known = list[bool]()
        for part in (b"ab", b"cd"):
            await sent.part(part)
            known.append(sent.whole)
        assert known == [False, True]
        assert [message.get("body") for message in messages[1:]] == [b"ab", b"cd"]

    asyncio.run(test())


def test_a_client_that_leaves_ends_the_generation(models: list[LM]) -> None:
    async def test(client: Client) -> None:
        answer = client.begin("/v1/completions", LONG)
        await anext(answer)
        await answer.aclose()
        client.idle()

    run(models, test)


def test_drained(models: list[LM]) -> None:
    async def test(client: Client) -> None:
        short = client.begin("/v1/completions", LONG | {"max_tokens": 2})
        await anext(short)
        long = client.begin("/v1/completions", LONG)
        await anext(long)
        client.door.state.service.drain()
        assert (await client.json("/v1/models", status=503))["error"]["code"] == "shutting_down"
        assert (await client.json("/health", status=503))["status"] == "draining"
        assert (await client.json("/health/live"))["live"]
        whole = b"".join([part async for part in short if isinstance(part, bytes)])
        assert b"error" not in whole
        assert whole.endswith(b"data: [DONE]\n\n")
        cut = b"".join([part async for part in long if isinstance(part, bytes)])
        assert events(iter(cut.decode().splitlines()))[-2][1]["error"]["code"] == "shutting_down"

    run(models, test)
