"""The door that every request passes: a request id, the key, one log line, and no exception that gets out."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.server.auth import check_key
from unmask.server.errors import ApiError, broken
from unmask.server.logs import FIELDS, NOTES

if TYPE_CHECKING:
    from unmask.server.door import Door
    from unmask.server.service import Service

log = logging.getLogger("unmask.server")
QUIET = ("/health", "/metrics")  # asked for by machines, all the time
CLIENT_GONE = 499  # nginx's number for a client that has left


class Gate:
    def __init__(self, app: ASGIApp, service: Service | Door) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        number = uuid.uuid4().hex
        notes = scope[NOTES] = {}

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", number.encode())]
            await send(message)

        try:
            try:
                check_key(self.service.settings.api_keys, scope["path"], scope["headers"])
                await self.app(scope, receive, marked)
            except ApiError as error:
                await error.response()(scope, receive, marked)
            except ClientDisconnect:
                notes["gone"] = True
            except Exception:
                log.exception("a request failed")
                if not status:
                    await broken().response()(scope, receive, marked)
        finally:
            self.report(scope, CLIENT_GONE if notes.pop("gone", False) else status, number, time.perf_counter() - begun)

    def report(self, scope: Scope, status: int, number: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self.service.metrics.requests.labels(route, str(status)).inc()
        if scope["path"].startswith(QUIET) and status == 200:
            return
        fields = {
            "id": number,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 1),
            **scope[NOTES],
        }
        log.info("request", extra={FIELDS: fields})
