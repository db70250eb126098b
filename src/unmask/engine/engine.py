"""The step: admit, ask each live state for its need, run, consume, keep, emit. Three modes, one loop, no phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from unmask.config import EngineConfig
from unmask.decoding import auto, scratch_rows, strategy
from unmask.decoding.adaptivespec import CONFIDENCE_BINS, estimate
from unmask.engine.pages import Pages
from unmask.engine.scheduler import Job, Live, Scheduler
from unmask.types import Ids, Outcome, Request, Rows, Speculation, State

COST_ROWS = (1, 4, 16, 48, 128)


class Executes(Protocol):
    """What the engine needs of a runner; tests script one."""

    def run(self, jobs: Sequence[Job]) -> list[Rows]: ...
    def measure(
        self, rows: Sequence[int], pages: Sequence[int], *, adapter: str | None = None
    ) -> tuple[tuple[int, float], ...]: ...


@dataclass(frozen=True, slots=True)
class Update:
    """What one step brought for one request."""

    id: int
    state: State
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are checked against before they cost anything."""

    vocab_size: int
    max_position: int
    adapters: tuple[str, ...] = ()


class Engine:
    def __init__(self, runner: Executes, pages: int, config: EngineConfig, limits: Limits) -> None:
        self.runner, self.config, self.limits = runner, config, limits
        self.pages = Pages(pages, config.page_size)
        self.scheduler = Scheduler(self.pages, config)
        self.requests = dict[int, Live]()
        self.numbers = count()
        self.costs: tuple[tuple[int, float], ...] = ()
        self.draft_costs = dict[str, tuple[tuple[int, float], ...]]()
        self.experience: list[tuple[float, float]] = []

    def submit(self, request: Request) -> int:
        """Queue a request; returns its number. ValueError, in one line, where it can never run."""
        self.check_request(request)
        request = replace(self.prepared(request), prefill_chunk=min(request.prefill_chunk, self.config.prefill_chunk))
        rows = len(request.context) + request.max_tokens + scratch_rows(request)
        if -(-rows // self.pages.size) > self.pages.count:
            room = self.pages.count * self.pages.size
            raise ValueError(f"the request needs up to {rows} rows of key/value memory, the engine has {room}")
        live = Live(next(self.numbers), strategy(request.strategy).start(request))
        self.requests[live.id] = live
        self.scheduler.add(live)
        return live.id

    def check_request(self, request: Request) -> None:
        limits, length = self.limits, len(request.prompt)
        if length + request.max_tokens > limits.max_position:
            raise ValueError(
                f"prompt ({length} tokens) and max_tokens ({request.max_tokens}) exceed "
                f"the context of {limits.max_position} tokens"
            )
        if (last := length + request.room + len(request.suffix)) > limits.max_position:
            raise ValueError(f"prompt, gap and suffix ({last} tokens) exceed the context of {limits.max_position}")
        ids = (*request.context, *request.stop_ids, *(token for token, _ in request.sampling.logit_bias))
        ids += () if request.traits.mask_id is None else (request.traits.mask_id,)
        if wrong := next((token for token in ids if not 0 <= token < limits.vocab_size), None):
            raise ValueError(f"token id {wrong} is outside the vocabulary of {limits.vocab_size}")
        if request.strategy not in ("ar", "auto") and request.traits.mask_id is None:
            raise ValueError(
                f"strategy {request.strategy!r} needs a mask token, and this model has none; pass mask_id=..."
            )
        for name in (request.traits.draft_adapter, request.traits.denoise_adapter):
            if name is not None and name not in limits.adapters:
                raise ValueError(f"adapter {name!r} is not loaded; loaded: {', '.join(limits.adapters) or 'none'}")

    def prepared(self, request: Request) -> Request:
        """The request with what this engine has measured, and `auto` resolved."""
        if request.strategy not in ("auto", "adaptivespec") or request.traits.mask_id is None:
            return auto.resolve(request) if request.strategy == "auto" else request
        settings = request.settings if isinstance(request.settings, Speculation) else Speculation()
        if not settings.costs:
            costs = self.measured_costs()
            settings = replace(
                settings, costs=costs, draft_costs=self.measured_draft_costs(request.traits.draft_adapter)
            )
        if not settings.profile:
            settings = replace(settings, profile=tuple(estimate(counts, 0.7) for counts in self.experience))
        request = replace(request, settings=settings)
        return auto.resolve(request) if request.strategy == "auto" else request

    def measured_costs(self) -> tuple[tuple[int, float], ...]:
        """Forward times by rows on this machine, measured once, made monotone."""
        if not self.costs:
            self.costs = self.measured(None)
        return self.costs

    def measured_draft_costs(self, adapter: str | None) -> tuple[tuple[int, float], ...]:
        """What an adapter adds to those times, by the rows on which it acts."""
        if adapter is None or not self.costs:
            return ()
        if adapter not in self.draft_costs:
            plain, table, most = dict(self.costs), list[tuple[int, float]](), 0.0
            for rows, seconds in self.measured(adapter):
                most = max(most, seconds - plain.get(rows, seconds))
                table.append((rows, most))
            self.draft_costs[adapter] = tuple(table)
        return self.draft_costs[adapter]

    def measured(self, adapter: str | None) -> tuple[tuple[int, float], ...]:
        scratch, slowest = list[int](), 0.0
        rows = [count for count in COST_ROWS if count <= self.pages.free * self.pages.size]
        if not rows or not self.pages.extend(scratch, rows[-1]):
            return ()
        try:
            times = self.runner.measure(rows, scratch, adapter=adapter)
        finally:
            self.pages.release(scratch)
        table = list[tuple[int, float]]()
        for number, seconds in times:
            slowest = max(slowest, seconds)
            table.append((number, slowest))
        return tuple(table)

    def step(self) -> list[Update]:
        """One forward for as many requests as fit, and what came of it. Does nothing when nothing is queued.

        An error ends the requests of that forward, whose updates nobody will see; all others go on with the next step.
        """
        chosen = self.scheduler.choose()
        if not chosen:
            self.give_up()
            return []
        try:
            return self.advance(chosen)
        except BaseException:
            for live in chosen:
                self.forget(live)
            raise

    def advance(self, chosen: Sequence[Live]) -> list[Update]:
        results = self.runner.run(
            [Job(live.state.request, live.next_plan(), live.written, live.pages) for live in chosen]
        )
        updates = list[Update]()
        for live, rows in zip(chosen, results, strict=True):
            if live.rebuilding:
                self.scheduler.note_rebuilt(live)
                continue
            state, outcome = strategy(live.state.request.strategy).consume(live.state, live.next_plan(), rows)
            self.scheduler.note(live, state, outcome)
            updates.append(Update(live.id, state, outcome))
            if outcome.finish:
                self.learn(state)
                self.forget(live)
        return updates

    def give_up(self) -> None:
        """Nobody can run. If somebody waits, all pages together are too few for its plan: waiting will not help."""
        if stuck := (*self.scheduler.live, *self.scheduler.waiting):
            self.forget(stuck[0])
            raise RuntimeError(f"request {stuck[0].id} needs more key/value memory than the engine has")

    def cancel(self, number: int) -> None:
        """Drop a request at any moment; its pages are free at once. Unknown numbers are finished requests: no error."""
        if live := self.requests.get(number):
            self.forget(live)

    def forget(self, live: Live) -> None:
        self.scheduler.drop(live)
        self.requests.pop(live.id, None)

    def learn(self, state: State) -> None:
        """Fold a finished request's draft acceptance into the prior of the next ones."""
        slots = state.memory[CONFIDENCE_BINS:]
        self.experience += [(0.0, 0.0)] * (len(slots) - len(self.experience))
        for i, (won, tried) in enumerate(slots):
            before = self.experience[i]
            self.experience[i] = (0.5 * before[0] + won, 0.5 * before[1] + tried)

    @property
    def busy(self) -> bool:
        return bool(self.requests)

    def check(self) -> None:
        """Assert that exactly the pages of live requests are in use."""
        self.pages.check([live.pages for live in self.requests.values()])

    def generate(self, request: Request) -> Ids:
        """All ids of one request, run to its end beside whatever else is queued."""
        number, output = self.submit(request), Ids()
        try:
            while number in self.requests:
                for update in self.step():
                    if update.id == number:
                        output = update.state.output
        finally:
            self.cancel(number)
        return output
