"""The one address of many replicas: an ASGI app that passes requests on, and answers for them when one is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Counter, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from unmask import __version__
from unmask.server.body import LARGE, limited
from unmask.server.errors import ApiError
from unmask.server.gate import Gate
from unmask.server.leaving import ClientGoneError, unless_client_leaves
from unmask.server.logs import NOTES
from unmask.server.prefixes import chain_of
from unmask.server.relay import Answer, Asked, Head
from unmask.server.settings import Settings
from unmask.server.sse import DONE, event

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NOT_PASSED_ON = (b"connection", b"host", b"transfer-encoding")  # of a request: they are about the way to the door
OURS = (b"x-request-id", b"date", b"server")  # of an answer: the door says them itself
GRACE = 5.0  # seconds that a replica has to say itself that a request took too long


class LostReplicaError(Exception):
    """The replica that ran a request is gone."""


class BusyError(Exception):
    """All replicas have as many requests as they take."""


class Replicas(Protocol):
    """Those behind the door."""

    def ask(self, asked: Asked) -> Answer:
        """LostReplicaError or BusyError where there is no answer, or no end of it."""
        ...

    async def states(self) -> dict[str, int]:
        """How many replicas are in which state; those that answer are "running"."""
        ...


class Door:
    def __init__(self, replicas: Replicas, settings: Settings) -> None:
        self.replicas, self.settings = replicas, settings
        self.calls = set[asyncio.Task[None]]()
        self.draining, self.ending = False, False
        registry = CollectorRegistry()
        requests = Counter("unmask_door_requests", "HTTP requests", ["route", "status"], registry=registry)
        lost = Counter("unmask_door_lost", "Requests whose replica was lost", registry=registry)
        self.metrics = SimpleNamespace(registry=registry, requests=requests, lost=lost)

    def on_loss(self, callback: Callable[[str], None]) -> None:
        """Never called: a lost replica is replaced."""

    def break_off(self) -> None:
        """End what runs with an error."""
        self.draining = self.ending = True
        for call in list(self.calls):
            call.cancel()

    def drain(self) -> None:
        """Let nobody in any more; what runs may go on for a while and is then ended."""
        self.draining = True
        asyncio.get_running_loop().call_later(self.settings.shutdown_seconds, self.break_off)

    async def health(self) -> tuple[bool, dict[str, Any]]:
        states = await self.replicas.states()
        fine = bool(states.get("running")) and not self.draining
        status = "ok" if fine else "draining" if self.draining else "failing"
        return fine, {"status": status, "live": True, "ready": fine, "replicas": states, "running": len(self.calls)}

    async def metrics_text(self) -> str:
        """What every replica says, under its name, and what the door has counted."""
        texts = dict[str, str]()
        for number in range((await self.replicas.states()).get("running", 0)):
            try:
                head, *parts = [part async for part in self.replicas.ask(Asked("GET", "/metrics", to=number))]
            except (LostReplicaError, BusyError):
                continue
            if isinstance(head, Head) and head.status == 200:
                texts[head.replica] = b"".join(part for part in parts if isinstance(part, bytes)).decode()
        registry = CollectorRegistry()
        registry.register(Together(texts))
        return (generate_latest(registry) + generate_latest(self.metrics.registry)).decode()

    async def asked(self, request: Request) -> Asked:
        """The request with all of its body. ApiError where it is too large or too slow."""
        if self.draining:
            raise shutting_down()
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                body = await limited(request, self.settings.body_bytes)
        except TimeoutError:
            raise ApiError(408, "the body took too long to arrive", code="body_timeout") from None
        chain = chain_of(body) if len(body) <= LARGE else await asyncio.to_thread(chain_of, body)
        client = (request.client.host, request.client.port) if request.client else None
        headers = tuple(pair for pair in request.headers.raw if pair[0] not in NOT_PASSED_ON)
        return Asked(request.method, request.url.path, request.url.query.encode(), headers, body, client, chain)

    async def answer(self, asked: Asked, sent: Sent) -> None:
        """Ask a replica, and hand on its answer as it comes."""
        call = asyncio.current_task()
        assert call is not None
        self.calls.add(call)
        answer, settings = self.replicas.ask(asked), self.settings
        try:
            async with asyncio.timeout(settings.request_seconds + settings.shutdown_seconds + GRACE):
                async for part in answer:
                    await sent.part(part)
            await sent.end()
        except LostReplicaError:
            self.metrics.lost.inc()
            text = "the replica that ran this request was lost; try again"
            await sent.error(ApiError(503, text, code="replica_lost", headers={"retry-after": "1"}))
        except BusyError:
            text = "all replicas have as many requests as they take: try again"
            await sent.error(ApiError(429, text, code="queue_full", headers={"retry-after": "1"}))
        except TimeoutError:
            text = "the request took longer than this server allows"
            await sent.error(ApiError(504, text, code="request_timeout"))
        except asyncio.CancelledError:
            if not self.ending:
                raise  # the client has left
            await sent.error(shutting_down())
        finally:
            self.calls.discard(call)
            await answer.aclose()


def shutting_down() -> ApiError:
    return ApiError(503, "the server is shutting down", code="shutting_down", headers={"retry-after": "5"})


class Sent:
    """An answer on its way to the client. notes: for the log line. whole: the client has all of it, and may go."""

    def __init__(self, send: Send, notes: dict[str, Any]) -> None:
        self.send, self.notes = send, notes
        self.head: Head | None = None
        self.length, self.bytes, self.whole = -1, 0, False

    async def part(self, part: Head | bytes) -> None:
        if isinstance(part, bytes):
            self.bytes += len(part)
            self.whole = self.bytes == self.length
            await self.send({"type": "http.response.body", "body": part, "more_body": True})
            return
        self.head, self.notes["replica"] = part, part.replica
        self.length = int(dict(part.headers).get(b"content-length", -1))
        headers = [pair for pair in part.headers if pair[0].lower() not in OURS]
        headers.append((b"x-unmask-replica", part.replica.encode()))
        await self.send({"type": "http.response.start", "status": part.status, "headers": headers})

    async def end(self) -> None:
        self.whole = True
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def error(self, error: ApiError) -> None:
        """Say that there will be no answer, or no more of it."""
        if self.head is None:
            raise error
        if not dict(self.head.headers).get(b"content-type", b"").startswith(b"text/event-stream"):
            raise RuntimeError("an answer was cut off")  # and the connection with it
        await self.part(event(error.body) + DONE)
        await self.end()


class Passed(Response):
    """The answer of a replica."""

    def __init__(self, door: Door, asked: Asked) -> None:
        super().__init__()
        self.door, self.asked = door, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = Sent(send, scope[NOTES])
        try:
            await unless_client_leaves(receive, self.door.answer(self.asked, sent))
        except ClientGoneError:
            if not sent.whole:
                scope[NOTES]["gone"] = True


class Together(Collector):
    """The metrics of several processes as those of one, each sample with the name of its process."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def collect(self) -> Iterable[Metric]:
        families = dict[str, Metric]()
        for replica, text in self.texts.items():
            for theirs in text_string_to_metric_families(text):
                family = families.setdefault(theirs.name, Metric(theirs.name, theirs.documentation, theirs.type))
                for sample in theirs.samples:
                    family.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return families.values()


def create_door(replicas: Replicas, settings: Settings) -> FastAPI:
    """An app that has replicas answer, and answers itself for their health."""
    door = Door(replicas, settings)
    app = FastAPI(title="unmask", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = door
    app.add_middleware(Gate, service=door)

    @app.get("/health")
    async def health() -> Response:
        fine, found = await door.health()
        return JSONResponse(found, 200 if fine else 503)

    @app.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/health/ready")
    async def ready() -> Response:
        fine, _ = await door.health()
        return JSONResponse({"ready": fine}, 200 if fine else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await door.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.api_route("/{path:path}", methods=METHODS)
    async def others(request: Request) -> Response:
        return Passed(door, await door.asked(request))

    return app
