"""A request's body: whole, in time, not too large, JSON, and what its route takes; or the error that says why not."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import pydantic_core
from fastapi import Request

from unmask.server.errors import ApiError, bad
from unmask.server.schema import parse
from unmask.server.service import Service
from unmask.server.strict import Strict

B = TypeVar("B", bound=Strict)
DRAINED = 32 << 20  # bytes of a too large body that are read and thrown away, so that the client sees the answer
LARGE = 64 << 10  # bytes of a body that are parsed on another thread


async def read(service: Service, request: Request, kind: type[B]) -> B:
    """The request's body, checked."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != "application/json":
        # Also keeps web pages out: a browser asks before it sends JSON to another site.
        raise ApiError(415, "send the body as content-type application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "send the body without content-encoding", code="unsupported_media_type")
    try:
        async with asyncio.timeout(service.settings.body_seconds):
            data = await limited(request, service.settings.body_bytes)
    except TimeoutError:
        raise ApiError(408, "the body took too long to arrive", code="body_timeout") from None

    def work() -> B:
        try:
            body = pydantic_core.from_json(data, allow_inf_nan=False)
        except ValueError as error:
            raise bad(f"the body is not valid JSON: {error}", code="invalid_json") from None
        return parse(kind, body)

    return work() if len(data) <= LARGE else await asyncio.to_thread(work)


async def limited(request: Request, limit: int) -> bytes:
    """The body, or ApiError 413."""
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > limit + DRAINED:
            break
        else:
            parts.clear()
    if size > limit:
        raise ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
    return b"".join(parts)
