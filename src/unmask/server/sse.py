"""A reply as server-sent events: OpenAI's chunks, comments that keep the connection alive, frames for who asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unmask.lm import Generation, Piece
from unmask.server.call import Call, Item
from unmask.server.errors import ApiError
from unmask.server.leaving import ClientGoneError, unless_client_leaves
from unmask.server.logs import NOTES, ended
from unmask.server.replies import Form, Tail, frame_object, judged
from unmask.types import Frame

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
FRAME_EVENT = "unmask.frame"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event. ASCII only: some clients split lines at characters that JSON lets through."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class Chunks:
    """Turns the events of a call into bytes."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.tails = [Tail(form) for _ in range(form.choices)]
        self.done: list[Generation | None] = [None] * form.choices
        self.head = form.head(streamed=True)
        # Most chunks are a piece of text and nothing else: only that text is then serialised.
        fixed = json.dumps(self.head, separators=(",", ":"))[:-1]
        self.plain = not form.logprobs and not form.details
        # Pieces of texts that may turn out to be a call; None for a text that is none.
        self.held: list[list[Piece] | None] = [[] if form.calling else None for _ in range(form.choices)]
        key = '"delta":{"content":' if form.kind == "chat" else '"text":'
        self.before = f'data: {fixed},"choices":[{{"index":%d,{key}'
        close = "}" if form.kind == "chat" else ""
        rest = ',"usage":null' if form.with_usage else ""
        self.after = f'{close},"logprobs":null,"finish_reason":null}}]{rest}}}\n\n'

    def opening(self) -> bytes:
        """What is known before the first token: the role, or the prompt that is echoed."""
        if self.form.kind == "chat":
            delta = {"delta": {"role": "assistant", "content": "", "refusal": None}}
            return b"".join(self.chunk(index, delta) for index in range(len(self.tails)))
        if not self.form.echo:
            return b""
        return b"".join(self.chunk(index, {"text": self.form.echoed(index)}) for index in range(len(self.tails)))

    def of(self, items: Sequence[Item], dropped: int) -> bytes:
        return b"".join(self.one(index, event, dropped) for index, event in items)

    def one(self, index: int, event: Piece | Frame | Generation, dropped: int) -> bytes:
        if isinstance(event, Piece):
            return self.piece(index, event) if self.held[index] is None else self.hold(index, event)
        if isinstance(event, Frame):
            return self.frame(index, event, dropped)
        self.done[index] = event
        if (held := self.held[index]) is not None:
            return self.end_of_held(index, held, event)
        return self.end(index, event)

    def hold(self, index: int, piece: Piece) -> bytes:
        held, calling = [*(self.held[index] or ()), piece], self.form.calling
        maybe = calling is not None and calling.may_be("".join(one.text for one in held))
        self.held[index] = held if maybe else None
        return b"" if maybe else b"".join(self.piece(index, one) for one in held)

    def end_of_held(self, index: int, held: Sequence[Piece], generation: Generation) -> bytes:
        """A call, whole in one delta, or the text after all."""
        call = self.form.call_in(generation)
        if call is None:
            return b"".join(self.piece(index, one) for one in held) + self.end(index, generation)
        extras = self.tails[index].extras([token for piece in held for token in piece.tokens])
        delta = {"delta": {"tool_calls": [{"index": 0, **call}]}}
        return self.chunk(index, delta | extras) + self.end(index, generation, "tool_calls")

    def end(self, index: int, event: Generation, finish: str | None = None) -> bytes:
        empty: dict[str, Any] = {"delta": {}} if self.form.kind == "chat" else {"text": ""}
        return self.chunk(index, empty | judged(event), finish or event.finish_reason)

    def piece(self, index: int, piece: Piece) -> bytes:
        if self.plain:
            if not piece.text:
                return b""
            return f"{self.before % index}{json.dumps(piece.text)}{self.after}".encode()
        text = {"delta": {"content": piece.text}} if self.form.kind == "chat" else {"text": piece.text}
        return self.chunk(index, text | self.tails[index].extras(piece.tokens))

    def chunk(self, index: int, content: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": index, "logprobs": None, **content, "finish_reason": finish}
        rest: dict[str, Any] = {"usage": None} if self.form.with_usage else {}
        return event({**self.head, "choices": [choice], **rest})

    def frame(self, index: int, frame: Frame, dropped: int) -> bytes:
        data = frame_object(frame, index, self.form, dropped)
        # No choices: a client that takes every event for a chunk finds nothing to add to its text.
        return event({**self.head, "object": FRAME_EVENT, "choices": [], "frame": data}, FRAME_EVENT)

    def closing(self) -> bytes:
        generations = [generation for generation in self.done if generation is not None]
        if not self.form.with_usage or len(generations) < len(self.done):
            return DONE
        return event({**self.head, "choices": [], "usage": self.form.usage(generations)}) + DONE


class EventStream(Response):
    """Sends a call while it runs. seconds: for all of it; a reader that takes longer is cut off."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, chunks: Chunks, *, keep_alive: float, seconds: float) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.call, self.chunks, self.keep_alive, self.seconds = call, chunks, keep_alive, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await unless_client_leaves(receive, self.send_all(send))
        except (ClientGoneError, TimeoutError):
            scope[NOTES]["gone"] = True
        finally:
            self.call.cancel()
            scope[NOTES].update(ended([one for one in self.chunks.done if one is not None]))

    async def send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self.parts():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def parts(self) -> AsyncIterator[bytes]:
        if opening := self.chunks.opening():
            yield opening
        try:
            async for items in self.call.events(self.keep_alive):
                if data := self.chunks.of(items, self.call.frames_dropped) if items else KEEP_ALIVE:
                    yield data
            yield self.chunks.closing()
        except ApiError as error:
            yield event(error.body) + DONE
