"""An HTTP request as plain data, and an ASGI app asked by it: what crosses between the door and a replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

from unmask.server.prefixes import Chain

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, body and all. chain: of its prompt. to: the number of a replica, where it is meant for that one."""

    method: str
    path: str
    query: bytes = b""
    headers: Headers = ()
    body: bytes = b""
    client: tuple[str, int] | None = None
    chain: Chain = ()
    to: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """How an answer begins. replica: the name of who gives it."""

    status: int
    headers: Headers
    replica: str


Answer = AsyncGenerator[Head | bytes, None]


async def answer_of(app: ASGIApp, asked: Asked, replica: str) -> Answer:
    """The head of an app's answer, then its body as it comes. Closed early, it ends what the app does for it."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query,
        "root_path": "",
        "headers": list(asked.headers),
        "client": asked.client,
        "server": None,
    }
    messages = asyncio.Queue[Message | None]()
    bodies = iter([asked.body])

    async def receive() -> Message:
        for body in bodies:
            return {"type": "http.request", "body": body, "more_body": False}
        gone: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await gone  # never: when somebody leaves, the task is cancelled

    async def send(message: Message) -> None:
        messages.put_nowait(message)

    task = asyncio.ensure_future(app(scope, receive, send))
    task.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            if message["type"] == "http.response.start":
                yield Head(message["status"], tuple(message.get("headers", ())), replica)
                continue
            parts, ended = [message.get("body", b"")], False
            while not messages.empty():  # what came in the meantime travels together
                more = messages.get_nowait()
                ended = ended or more is None
                parts.append(more.get("body", b"") if more else b"")
            if body := b"".join(parts):
                yield body
            if ended:
                break
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
