"""The model behind the routes: who may come in, what they ask for, what they are answered."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from unmask import __version__
from unmask.constraints import FIELDS, ConstraintError
from unmask.engine.engine import COST_CONTEXTS
from unmask.lm import LM, MODES, SPEC_VARIANTS, Event, Generation, Options, Piece
from unmask.lm.options import default_mode
from unmask.lm.soft import FIELDS as SOFT_FIELDS
from unmask.lm.watching import FRAME_VERSION
from unmask.server.asking import Prompt, options_for, prompts_of, with_room
from unmask.server.call import Call
from unmask.server.errors import ApiError, bad, broken
from unmask.server.gaps import prepare_gap, seen
from unmask.server.metrics import Metrics
from unmask.server.replies import Form
from unmask.server.schema import Body, ChatBody, CompletionBody, parse
from unmask.server.settings import DEFAULTS, Settings
from unmask.server.worker import Job, Worker

SMALL = 4096  # characters that are tokenised on the event loop: about a millisecond
IDLE_SECONDS = 1.0  # between two looks whether nobody is there


class Service:
    def __init__(self, lm: LM, settings: Settings) -> None:
        self.lm, self.settings = lm, settings
        self.names = settings.names or (lm.name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1],)
        self.defaults = {**DEFAULTS, **settings.defaults}
        self.context = min(lm.config.max_position, settings.max_context or lm.config.max_position)
        self.created = int(time.time())
        lm.oracles.update(settings.oracles)
        self.worker = Worker(lm)
        self.readers = ThreadPoolExecutor(2, "unmask-text")
        self.calls = set[Call]()
        self.held = 0  # choices that are on their way, from admission to their end
        self.seconds_each = 1.0  # running estimate of how long a choice takes
        self.draining = False
        self.warming: asyncio.Task[None] | None = None
        self.metrics = Metrics(self.gauges())
        # Wrong defaults are a mistake of who starts the server, and are told now.
        lm.prepare((0,), options_for(parse(CompletionBody, {"prompt": "x"}), self.defaults, lm.traits))

    # Its life.

    async def start(self) -> None:
        self.worker.start()
        if self.lm.traits.mask_id is not None:
            await self.worker.call(lambda: self.lm.engine.warm(self.lm.traits.draft_adapter))
            self.warming = asyncio.create_task(self.warm())

    async def warm(self) -> None:
        """Time forwards behind longer contexts, too, while nobody is there; who comes meanwhile waits for one size."""
        for context in COST_CONTEXTS[1:]:
            measuring, measured = self.lm.engine.measuring(context), False
            while not measured:
                while self.held:
                    await asyncio.sleep(IDLE_SECONDS)
                measured = await self.worker.call(partial(next, measuring, True)) is True

    async def stop(self) -> None:
        if self.warming is not None:
            self.warming.cancel()
        for call in list(self.calls):
            call.cancel()
        await asyncio.to_thread(self.worker.stop)
        self.readers.shutdown(wait=False, cancel_futures=True)

    def drain(self) -> None:
        """Let nobody in any more; what runs may go on for a while and is then ended."""
        self.draining = True
        error = ApiError(503, "the server is shutting down", code="shutting_down")

        def end() -> None:
            for call in list(self.calls):
                call.fail(error)

        asyncio.get_running_loop().call_later(self.settings.shutdown_seconds, end)

    def on_loss(self, callback: Callable[[str], None]) -> None:
        """Have something called, on another thread, should the model be unable to go on."""
        if self.lm.crew is not None:
            self.lm.crew.on_loss = callback

    def break_off(self) -> None:
        """Let nobody in any more, and end what runs with an error."""
        self.draining = True
        for call in list(self.calls):
            call.fail(broken())

    @property
    def ready(self) -> bool:
        lost = self.lm.crew is not None and self.lm.crew.lost is not None
        return self.worker.alive and not self.draining and not lost

    # Who may come in.

    @property
    def running_at_most(self) -> int:
        return self.lm.engine.config.max_live

    def admit(self, choices: int) -> None:
        """Take room for some choices, or ApiError: 429 where the queue is full."""
        if not self.ready:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers={"retry-after": "5"})
        room = self.running_at_most + self.settings.max_queue
        if choices > min(self.settings.max_choices, room):
            raise bad(f"prompts x n is {choices}, more than this server takes at a time", "n")
        if self.held + choices > room:
            rounds = (self.held + choices - room) / self.running_at_most
            wait = min(max(math.ceil(rounds * self.seconds_each), 1), 60)
            message = f"{self.held} requests are running or waiting, and more may not wait: try again in {wait} s"
            raise ApiError(429, message, code="queue_full", headers={"retry-after": str(wait)})
        self.held += choices

    def release(self) -> None:
        self.held -= 1

    def check_model(self, name: str | None) -> str:
        if name is None or name in self.names:
            return name or self.names[0]
        message = f"model {name[:100]!r} is not served here; served: {', '.join(self.names)}"
        raise ApiError(404, message, param="model", code="model_not_found")

    # What they ask for.

    async def open(self, body: Body) -> tuple[Call, Form]:
        """Start what a body asks for. ApiError before anything has cost the engine a forward."""
        begun = time.perf_counter()
        model = self.check_model(body.model)
        plain = body if isinstance(body, CompletionBody) else None
        n = body.n or 1
        choices = n * (len(plain.prompts) if plain else 1)
        self.admit(choices)
        call = Call(self.worker, self.calls, self.settings.frames_held, Watch(self, begun, choices), self.release)
        try:
            options = self.options(body)
            prompts = await self.aside(size_of(body), lambda: prompts_of(self.lm, body, self.context))
            # Compiling a constraint may take a while.
            size = 1 + SMALL if options.constraints else 0
            jobs = await self.aside(size, lambda: self.jobs(call, body, prompts, options, n))
        except BaseException:
            self.held -= choices
            raise
        try:  # from here on the call gives back the room it was given
            await call.start(jobs, self.settings.request_seconds)
        except BaseException as error:
            call.cancel()
            raise said(error) if isinstance(error, ValueError) else error from None
        prompts = [seen(prompt, jobs[number * n].request) for number, prompt in enumerate(prompts)]
        self.metrics.prompt_tokens.inc(sum(prompt.tokens for prompt in prompts))
        return call, Form(
            kind="text" if plain else "chat",
            model=model,
            fingerprint=self.fingerprint,
            tokenizer=self.lm.tokenizer,
            prompts=prompts,
            n=n,
            seed=options.seed,
            echo=bool(plain and plain.echo),
            logprobs=options.logprobs is not None,
            details=bool(body.return_token_details),
            with_usage=bool(body.stream_options and body.stream_options.include_usage),
            calling=body.calling if isinstance(body, ChatBody) else None,
        )

    def options(self, body: Body) -> Options:
        try:
            return options_for(body, self.defaults, self.lm.traits)
        except ValueError as error:
            raise said(error) from None

    async def aside(self, size: int, work: Callable[[], Any]) -> Any:
        """Do work on texts of `size` characters: here where that is quick, on another thread where it is not."""
        if size <= SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.readers, work)

    def jobs(self, call: Call, body: Body, prompts: Sequence[Prompt], options: Options, count: int) -> list[Job]:
        jobs = list[Job]()
        for prompt in prompts:
            roomy = with_room(options, prompt, self.context, chosen=body.max_tokens is not None)
            for number in range(count):
                seeded = replace(roomy, seed=options.seed + number)
                try:
                    if isinstance(body, CompletionBody) and body.gap is not None:
                        request, follow = prepare_gap(self.lm, body, prompt, body.gap, seeded, self.context)
                    else:
                        request, follow = self.lm.prepare(prompt.ids, seeded)
                except ValueError as error:
                    raise said(error, "constraints" if body.constraints else "tools") from None
                jobs.append(Job(request, follow, call, index=len(jobs)))
        return jobs

    # What is told about it.

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same weights, code and arithmetic."""
        lm = self.lm
        parts = (__version__, lm.name, lm.config, lm.traits, lm.engine.config.exactness, self.dtype, lm.tp)
        return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    @property
    def dtype(self) -> str:
        return str(next(self.lm.decoder.parameters()).dtype).removeprefix("torch.")

    def model_card(self, name: str) -> dict[str, Any]:
        lm, traits = self.lm, self.lm.traits
        masks = traits.mask_id is not None
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "unmask",
            "max_model_len": self.context,
            "capabilities": {
                "modes": list(MODES) if masks else ["ar", "auto"],
                "spec_variants": list(SPEC_VARIANTS) if masks else [],
                "default_mode": self.defaults.get("mode") or default_mode(traits),
                "defaults": {n: v for n, v in self.defaults.items() if n != "mode"},
                "trained_to_fill_masks": traits.trained,
                "block_size": traits.block_size,
                "context": self.context,
                "adapters": list(lm.engine.limits.adapters),
                "constraints": list(FIELDS),
                "soft_constraints": list(SOFT_FIELDS),
                "oracles": list(lm.oracles),
                "patch_checks": list(self.settings.patch_checks),
                "infill": list(lm.filler.layouts),
                "dtype": self.dtype,
                "exactness": lm.engine.config.exactness,
                "frame_version": FRAME_VERSION,
            },
        }

    def gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        engine = self.lm.engine
        return {
            "unmask_running": ("Requests being decoded", lambda: len(engine.scheduler.live)),
            "unmask_waiting": ("Requests in the engine's queue", lambda: len(engine.scheduler.waiting)),
            "unmask_held": ("Choices from admission to end", lambda: self.held),
            "unmask_queue_limit": ("Most requests that may wait", lambda: self.settings.max_queue),
            "unmask_parked": ("Requests that wait for an oracle", lambda: len(engine.scheduler.parked)),
            "unmask_pages_in_use": ("Key/value pages owned by requests", lambda: engine.pages.in_use),
            "unmask_pages": ("Key/value pages there are", lambda: engine.pages.count),
            "unmask_preemptions": ("Requests that lost their pages for a while", lambda: engine.scheduler.preemptions),
            "unmask_engine_steps": ("Steps of the engine", lambda: self.worker.steps),
            "unmask_engine_seconds": ("Time spent in steps of the engine", lambda: self.worker.step_seconds),
            "unmask_engine_failures": ("Steps of the engine that failed", lambda: self.worker.failures),
        }

    async def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether all is well, and what is known. The invariant is checked between two steps of the engine."""
        engine = self.lm.engine

        def check() -> str:
            try:
                engine.check()
            except AssertionError as error:
                return f"broken: {error}"
            return "holds"

        invariant = "not checked: the engine is not running"
        if self.worker.alive:
            try:
                invariant = await asyncio.wait_for(self.worker.call(check), 2.0)
            except TimeoutError:
                invariant = "not checked: the engine is in a long step"
        fine = self.ready and not invariant.startswith("broken")
        return fine, {
            "status": "ok" if fine else "draining" if self.draining else "failing",
            "live": True,
            "ready": self.ready,
            "invariant": invariant,
            "pages_in_use": engine.pages.in_use,
            "pages": engine.pages.count,
            "running": len(engine.scheduler.live),
            "waiting": len(engine.scheduler.waiting),
        }


class Watch:
    """Times the events of one call for the metrics."""

    def __init__(self, service: Service, begun: float, choices: int) -> None:
        self.service, self.begun = service, begun
        self.last: list[float | None] = [None] * choices

    def __call__(self, index: int, event: Event) -> None:
        now, metrics = time.perf_counter(), self.service.metrics
        if isinstance(event, Piece) and event.tokens:
            last, self.last[index] = self.last[index], now
            if last is None:
                metrics.first_token(now - self.begun)
            else:
                metrics.next_tokens(now - last, len(event.tokens))
        elif isinstance(event, Generation):
            metrics.finished(event, now - self.begun)
            self.service.seconds_each += 0.1 * (now - self.begun - self.service.seconds_each)


def size_of(body: Body) -> int:
    if isinstance(body, ChatBody):
        return len(body.whole_text)
    assert isinstance(body, CompletionBody)
    return sum(map(len, body.prompts)) + len(body.suffix or "")


def said(error: ValueError, constraint: str = "constraints") -> ApiError:
    """A ValueError of the rooms below, whose text is meant for users and begins with the name of the option.
    constraint: the field that a constraint came from."""
    message = str(error)
    if isinstance(error, ConstraintError):
        return bad(message, constraint, "invalid_constraint")
    name = message.split(maxsplit=1)[0] if message else ""
    known = {*ChatBody.model_fields, *CompletionBody.model_fields}
    name = {"mode": "generation_mode"}.get(name, name)
    code = "context_length_exceeded" if "context of" in message else "invalid_value"
    return bad(message, name if name in known else None, code)
