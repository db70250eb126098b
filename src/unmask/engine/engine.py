"""The step: admit, ask each live state for its need, run, consume, keep, emit. Three modes, one loop, no phases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, count
from typing import Protocol

from unmask.config import EngineConfig
from unmask.decoding import answer, auto, question, strategy_of
from unmask.decoding.adaptivespec import SLOTS
from unmask.decoding.learning import DEFAULT_ACCEPTANCE, estimate, padded
from unmask.engine.asking import Question, Questions
from unmask.engine.known import Known, Table
from unmask.engine.pages import Pages
from unmask.engine.scheduler import Job, Live, Scheduler, rows_at_most
from unmask.types import Finding, Ids, Outcome, Request, Rows, Speculation, State

COST_ROWS = (1, 4, 16, 48, 128)
# Rows of live context that forwards are timed at; a request goes by the nearest.
COST_CONTEXTS = (0, 1024, 4096)


# Seconds that a step waits for an oracle where nobody can run.
ORACLE_WAIT = 0.02


class Executes(Protocol):
    """What the engine needs of a runner; tests script one."""

    def run(self, jobs: Sequence[Job]) -> list[Rows]: ...
    def measure(
        self, rows: Sequence[int], pages: Sequence[int], *, adapter: str | None = None, kept: int = 0, own: bool = False
    ) -> Table: ...


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
    """known: what was measured before for this machine and model; without it nothing is kept. rest: called whenever
    the last request is gone."""

    def __init__(
        self,
        runner: Executes,
        pages: int,
        config: EngineConfig,
        limits: Limits,
        known: Known | None = None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.runner, self.config, self.limits, self.known, self.rest = runner, config, limits, known, rest
        self.pages = Pages(pages, config.page_size)
        self.scheduler = Scheduler(self.pages, config)
        self.questions = Questions(config.oracle_seconds)
        self.requests = dict[int, Live]()
        self.numbers = count()
        self.context_costs = dict[int, Table]()
        self.draft_costs = dict[str, Table]()
        self.advice = known.advice() if known else None
        self.experience: list[tuple[float, float]] = []

    def submit(self, request: Request) -> int:
        """Queue a request; returns its number. ValueError, in one line, where it can never run."""
        self.check_request(request)
        request = replace(self.prepared(request), prefill_chunk=min(request.prefill_chunk, self.config.prefill_chunk))
        rows = rows_at_most(request)
        if -(-rows // self.pages.size) > self.pages.count:
            room = self.pages.count * self.pages.size
            raise ValueError(f"the request needs up to {rows} rows of key/value memory, the engine has {room}")
        live = Live(next(self.numbers), strategy_of(request).start(request))
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
        for name in request.traits.adapters:
            if name not in limits.adapters:
                raise ValueError(f"adapter {name!r} is not loaded; loaded: {', '.join(limits.adapters) or 'none'}")

    def prepared(self, request: Request) -> Request:
        """The request with what this engine has measured, and `auto` resolved."""
        if request.strategy not in ("auto", "adaptivespec") or request.traits.mask_id is None:
            return auto.resolve(request) if request.strategy == "auto" else request
        settings = request.settings if isinstance(request.settings, Speculation) else Speculation()
        if not settings.costs:
            costs = self.measured_costs(len(request.context) + request.max_tokens // 2)
            settings = replace(
                settings, costs=costs, draft_costs=self.measured_draft_costs(request.traits.draft_adapter)
            )
        if not settings.profile:
            settings = replace(settings, profile=self.expected_profile())
        request = replace(request, settings=settings)
        return auto.resolve(request, self.advice, len(self.requests)) if request.strategy == "auto" else request

    def expected_profile(self) -> tuple[float, ...]:
        """Acceptance of draft slot 1, 2, ... to start with: what a benchmark found, and finished requests since."""
        before = self.advice.profile if self.advice else ()
        slots = max(len(self.experience), len(before))
        counts = [*self.experience, *[(0.0, 0.0)] * (slots - len(self.experience))]
        return tuple(map(estimate, counts, padded(before or (DEFAULT_ACCEPTANCE,), slots)))

    @property
    def costs(self) -> Table:
        """Forward times at an empty context, as far as they have been measured."""
        return self.context_costs.get(0, ())

    def measured_costs(self, context: int = 0) -> Table:
        """Forward times by rows on this machine, with about so many rows of live context, measured once and made
        monotone. Where there is no room to measure them, those of an empty context."""
        for _ in self.measuring(context):
            pass
        return self.context_costs[self.nearest(context)] or self.costs

    def measuring(self, context: int) -> Iterator[None]:
        """What `measured_costs` does, one size of forward at a time: requests may run between two of them."""
        for kept in dict.fromkeys((0, self.nearest(context))):
            if not self.context_costs.get(kept):
                name, timed = f"context {kept}", list[tuple[int, float]]()
                if not (table := self.kept(name)):
                    for rows in COST_ROWS:
                        timed += self.timed([rows], kept=kept, own=True)
                        yield
                    table = self.keep(name, monotone(timed))
                self.context_costs[kept] = table

    def nearest(self, context: int) -> int:
        """The rows of context that are timed, and that fit, nearest to so many."""
        possible = [kept for kept in COST_CONTEXTS if not kept or kept + COST_ROWS[-1] <= self.limits.max_position]
        return min(possible, key=lambda kept: abs(kept - context))

    def measured_draft_costs(self, adapter: str | None) -> Table:
        """What an adapter adds to those times, by the rows on which it acts."""
        if adapter is None or not self.costs:
            return ()
        if adapter not in self.draft_costs:
            name = f"adapter {adapter}"
            self.draft_costs[adapter] = self.kept(name) or self.keep(name, self.surcharge(adapter))
        return self.draft_costs[adapter]

    def measure_anew(self, adapter: str | None) -> None:
        """Forget what is known of forward times and measure it now, of an empty context and of that adapter."""
        self.context_costs.clear()
        self.draft_costs.clear()
        if self.known:
            self.known.forget("seconds")
        self.warm(adapter)

    def warm(self, adapter: str | None) -> None:
        """Have at hand what requests that draft go by, so that none of them waits for it: forward times at an empty
        context, and what that adapter adds."""
        self.measured_costs()
        self.measured_draft_costs(adapter)

    def kept(self, name: str) -> Table:
        """A table that was measured before, and whole; else an empty one."""
        return self.known.table(name, COST_ROWS) if self.known else ()

    def keep(self, name: str, table: Table) -> Table:
        if self.known and len(table) == len(COST_ROWS):
            self.known.keep(name, table)
        return table

    def surcharge(self, adapter: str) -> Table:
        plain = dict(self.costs)
        drafted = monotone(self.timed(COST_ROWS, adapter, own=True))
        return monotone([(rows, max(seconds - plain.get(rows, seconds), 0.0)) for rows, seconds in drafted])

    def timed(self, rows: Sequence[int], adapter: str | None = None, kept: int = 0, own: bool = False) -> Table:
        """(rows, seconds) of forwards that see `kept` rows, timed now, without those that there is no memory for.

        own: see `Runner.measure`.
        """
        scratch = list[int]()
        fitting = [count for count in rows if count <= self.pages.free * self.pages.size - kept]
        if not fitting or not self.pages.extend(scratch, kept + max(fitting)):
            return ()
        try:
            return self.runner.measure(fitting, scratch, adapter=adapter, kept=kept, own=own)
        finally:
            self.pages.release(scratch)

    def step(self) -> list[Update]:
        """One forward for as many requests as fit, and what came of it. Does nothing when nothing is queued.

        An error ends the requests of that forward, whose updates nobody will see; all others go on with the next step.
        Where all that are left wait for oracles, it waits a moment for them.
        """
        if heard := self.hear(0.0):
            return heard
        chosen = self.scheduler.choose()
        if not chosen:
            if self.scheduler.parked:
                return self.hear(ORACLE_WAIT)
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
            state, outcome = strategy_of(live.state.request).consume(live.state, live.next_plan(), rows)
            self.scheduler.note(live, state, outcome)
            updates.append(Update(live.id, state, outcome))
            if outcome.finish:
                self.learn(state)
                self.forget(live)
            elif self.asks(live):
                self.scheduler.park(live)
        return updates

    def asks(self, live: Live) -> bool:
        """Whether a request has something to ask; it is asked."""
        ask, judge = question(live.state), live.state.request.judge
        if ask is None or judge is None:
            return False
        self.questions.put(live.id, judge, ask)
        return True

    def hear(self, wait: float) -> list[Update]:
        """What oracles have answered, and what came of it. wait: seconds at most. An error ends these requests."""
        answers = self.questions.answers(wait) if self.scheduler.parked else []
        answered = [
            (self.requests[asked.number], asked, found) for asked, found in answers if asked.number in self.requests
        ]
        try:
            return [self.resume(*each) for each in answered]
        except BaseException:
            for live, _, _ in answered:
                self.forget(live)
            raise

    def resume(self, live: Live, asked: Question, finding: Finding) -> Update:
        state, outcome = answer(live.state, asked.ask, finding)
        self.scheduler.note_answer(live, state, outcome)
        if outcome.finish:
            self.learn(state)
            self.forget(live)
        elif not self.asks(live):
            self.scheduler.unpark(live)
        return Update(live.id, state, outcome)

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
        self.questions.forget(live.id)
        if self.requests.pop(live.id, None) and not self.requests:
            self.rest()

    def learn(self, state: State) -> None:
        """Fold a finished request's draft acceptance into the prior of the next ones."""
        slots = state.memory[SLOTS:]
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


def monotone(table: Sequence[tuple[int, float]]) -> Table:
    """More rows never cost less: what seems so is noise."""
    return tuple(zip((rows for rows, _ in table), accumulate((seconds for _, seconds in table), max), strict=True))
