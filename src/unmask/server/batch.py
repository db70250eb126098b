"""A batch in OpenAI's file format: every line gets the reply that the same POST would get from the server.

So many lines run at a time that the engine, here or there, always has its fill.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from unmask.server.batch_ask import Answering, BrokenOffError, line_of
from unmask.server.batch_files import Asked, Results, key_of
from unmask.server.errors import ApiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What became of a batch. lines: all there are. skipped: answered before this run, failed_before of them not well.

    Tokens and forwards are those of this run. seconds: from its first line to its end. stopped: it was told to end.
    """

    lines: int
    skipped: int = 0
    failed_before: int = 0
    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    forwards: int = 0
    seconds: float = 0.0
    stopped: bool = False

    @property
    def left(self) -> int:
        """Lines without an answer."""
        return self.lines - self.skipped - self.succeeded - self.failed

    def plus(self, result: Mapping[str, Any]) -> Summary:
        """With one more result."""
        if result["error"] is not None:
            return replace(self, failed=self.failed + 1)
        usage = result["response"]["body"]["usage"]
        return replace(
            self,
            succeeded=self.succeeded + 1,
            prompt_tokens=self.prompt_tokens + usage["prompt_tokens"],
            completion_tokens=self.completion_tokens + usage["completion_tokens"],
            forwards=self.forwards + usage["nfe"],
        )


def summary_of(found: Results) -> Summary:
    """Before any line of this run."""
    failed = sum(not fine for fine in found.done.values())
    return Summary(lines=found.total, skipped=len(found.done), failed_before=failed)


class Batch:
    """One run over the lines of a batch that have no answer yet. told: called with the numbers after every line."""

    def __init__(
        self,
        asking: Answering,
        lines: Iterator[Asked],
        found: Results,
        told: Callable[[Summary], None] = lambda _: None,
    ) -> None:
        self.asking, self.lines, self.found, self.told = asking, lines, found, told
        self.summary = summary_of(found)
        self.tasks = list[asyncio.Task[None]]()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> Summary:
        """Answer every line, or those that have begun when `stop` is called.

        OSError where OUT cannot be written; BrokenOffError and ValueError as `Answering`.
        """
        begun = time.perf_counter()
        self.loop = asyncio.get_running_loop()
        await self.asking.start()
        try:
            self.tasks = [asyncio.create_task(self._answer_lines()) for _ in range(self.asking.at_a_time)]
            done, _ = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_EXCEPTION)
            await self._drop()
            for task in done:
                if not task.cancelled():
                    task.result()
        finally:
            await self._drop()
            await self.asking.stop()
            self.summary = replace(self.summary, seconds=time.perf_counter() - begun)
        return self.summary

    def stop(self) -> None:
        """Begin no more lines; called again, drop those that run as well. From any thread, or from a signal handler."""
        if self.loop is None:
            self._stop()
        else:
            self.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self.summary.stopped:
            for task in self.tasks:
                task.cancel()
        self.summary = replace(self.summary, stopped=True)

    async def _drop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _answer_lines(self) -> None:
        while not self.summary.stopped:
            asked = next(self.lines, None)
            if asked is None:
                return
            if asked.key not in self.found.done:
                result = await answer(self.asking, asked)
                self.found.add(result)
                self.summary = self.summary.plus(result)
                self.told(self.summary)


def gathered(
    results: Iterable[Mapping[str, Any]], found: Results, told: Callable[[Summary], None] = lambda _: None
) -> Summary:
    """Write what others answered as it comes, of each line only what came first. KeyboardInterrupt stops.

    BrokenOffError where the results end and a line has none; OSError where they cannot be written.
    """
    begun, done, summary = time.perf_counter(), set(found.done), summary_of(found)
    try:
        for result in results:
            if (key := key_of(result)) not in done:
                done.add(key)
                found.add(result)
                summary = summary.plus(result)
                told(summary)
    except KeyboardInterrupt:
        summary = replace(summary, stopped=True)
    if summary.left and not summary.stopped:
        raise BrokenOffError(f"{summary.left} lines came back without an answer")
    return replace(summary, seconds=time.perf_counter() - begun)


async def answer(asking: Answering, asked: Asked) -> dict[str, Any]:
    """The line of results for one line of a batch.

    error: None where the status is 200; else code, message, param and the line's number, beside the response that the
    server gives, or alone where the line is not a request at all.
    """
    result: dict[str, Any] = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": asked.custom_id, "response": None}
    try:
        line = line_of(asked)
    except ApiError as error:
        return result | {"error": told_of(error.body, asked.number)}
    reply = await asking.post(line)
    result["response"] = {"status_code": reply.status, "request_id": reply.id, "body": reply.body}
    return result | {"error": None if reply.status == 200 else told_of(reply.body, asked.number)}


def told_of(body: Mapping[str, Any], number: int) -> dict[str, Any]:
    error = body["error"]
    return {"code": error["code"], "message": error["message"], "param": error["param"], "line": number}
