"""Who answers the lines of a batch: the model of this process, or a server that is asked again when it has no time.

Both are the same code to a line: its bodies, what is refused and what is said are the server's own.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

import httpx
from pydantic import StringConstraints, ValidationError

from unmask.lm import LM
from unmask.server.app import results
from unmask.server.batch_files import LONGEST_ID, Asked
from unmask.server.errors import ApiError, bad, broken
from unmask.server.schema import ChatBody, CompletionBody, first_problem, parse
from unmask.server.service import Service
from unmask.server.settings import Settings
from unmask.server.strict import Strict

log = logging.getLogger("unmask.server")
AHEAD = 4  # lines that are read while others run, so that no place in the engine stays empty
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)  # seconds before a server that did not answer is asked again
LONGEST_PAUSE = 60.0
KINDS: dict[str, type[ChatBody] | type[CompletionBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
}


class Line(Strict):
    custom_id: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID)]
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: dict[str, Any]


def line_of(asked: Asked) -> Line:
    """A line, checked; ApiError where it is not a request."""
    if asked.problem is not None:
        raise bad(f"the line is not valid JSON: {asked.problem}", code="invalid_json")
    if not isinstance(asked.value, dict):
        raise bad("the line must be a JSON object with custom_id, method, url and body", code="invalid_line")
    try:
        return Line.model_validate(asked.value)
    except ValidationError as error:
        raise first_problem(error.errors(include_url=False)) from None


def body_of(line: Line) -> ChatBody | CompletionBody:
    """Its body, checked; ApiError where the server would refuse it, or stream the answer."""
    body = parse(KINDS[line.url], line.body)
    if body.stream:
        raise bad("stream is refused: in a batch nobody listens; leave it out", "stream", "unsupported_field")
    return body


@dataclass(frozen=True, slots=True)
class Reply:
    """What a POST gets. id: of the request."""

    status: int
    body: dict[str, Any]
    id: str


def refusal(error: ApiError) -> Reply:
    return Reply(error.status, error.body, uuid.uuid4().hex)


class BrokenOffError(Exception):
    """Nobody can answer any more, and why. What has an answer is written; the other lines can be asked again."""


class Answering(Protocol):
    """at_a_time: lines that may be asked at once. BrokenOffError where a line has no answer for no fault of its own."""

    at_a_time: int

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def post(self, line: Line) -> Reply: ...


class InProcess:
    """The model of this process. settings: as for a server, but neither its queue nor its clock turns a line away."""

    def __init__(self, lm: LM, settings: Settings) -> None:
        self.at_a_time = lm.engine.config.max_live + AHEAD
        queue = self.at_a_time * settings.max_choices
        self.service = Service(lm, replace(settings, max_queue=queue, request_seconds=math.inf))
        self.loop: asyncio.AbstractEventLoop | None = None
        self.why = "the engine has stopped"

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.service.on_loss(self._break_off)
        await self.service.start()

    async def stop(self) -> None:
        await self.service.stop()

    async def post(self, line: Line) -> Reply:
        try:
            reply = Reply(200, await self._whole(line), uuid.uuid4().hex)
        except ApiError as error:
            reply = refusal(error)
        except Exception:
            log.exception("a line of a batch failed")
            reply = refusal(broken())
        if not self.service.ready:
            raise BrokenOffError(self.why)
        return reply

    async def _whole(self, line: Line) -> dict[str, Any]:
        call, form = await self.service.open(body_of(line))
        try:
            return form.whole(await results(call, form.choices))
        finally:
            call.cancel()

    def _break_off(self, why: str) -> None:
        """From the thread that has missed a process of the model."""
        self.why = why
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.service.break_off)


class OverHttp:
    """A server of ours at `url` ("http://host:port"), one or a whole fleet.

    A full one is asked again as often as it says so; one that cannot be reached, or has lost what it was asked (503),
    as often as there are PAUSES. keys: the first one is sent. ValueError where it refuses that.
    """

    def __init__(
        self, url: str, at_a_time: int, keys: Sequence[str] = (), transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"--server must be like http://127.0.0.1:30000, got {url!r}")
        self.url, self.at_a_time = url.rstrip("/").removesuffix("/v1"), at_a_time
        self.client = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {keys[0]}"} if keys else {},
            timeout=httpx.Timeout(None, connect=10.0),  # how long an answer may take is the server's to say
            limits=httpx.Limits(max_connections=at_a_time),
            transport=transport,
        )

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.client.aclose()

    async def post(self, line: Line) -> Reply:
        try:
            body_of(line)  # says what the server would say, and keeps streams away
        except ApiError as error:
            return refusal(error)
        pauses = list(PAUSES)
        while True:
            again: str | None = None
            try:
                answer = await self.client.post(line.url, json=line.body)
                body = answer.json()
            except httpx.TransportError as error:
                why = f"{self.url} cannot be reached: {error or type(error).__name__}"
            except ValueError:
                raise BrokenOffError(f"{self.url} did not answer with JSON: is it a server of unmask?") from None
            else:
                if answer.status_code == 401:
                    raise ValueError(f"{self.url} refuses the key: {body['error']['message']}")
                if answer.status_code not in (429, 503):
                    return Reply(answer.status_code, body, answer.headers.get("x-request-id", ""))
                why, again = body["error"]["message"], answer.headers.get("retry-after")
                if answer.status_code == 429:  # it lives, and others have its time
                    pauses = list(PAUSES)
            if not pauses:
                raise BrokenOffError(why)
            pause = pauses.pop(0)
            await asyncio.sleep(min(float(again), LONGEST_PAUSE) if again and again.isdigit() else pause)
