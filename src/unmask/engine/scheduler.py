"""Admitting requests, sharing rows and pages between them, preempting and resuming. Plain Python, no tensors.

A preempted request keeps its State and loses its pages; later the same spans write its kept rows again and its
strategy never notices. Rows are charged to requests, so that a block costs its owner what it costs the machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unmask.config import EngineConfig
from unmask.decoding import context_spans, scratch_rows, strategy_of
from unmask.decoding.common import block_size
from unmask.engine.pages import Pages
from unmask.types import Ids, Outcome, Plan, Request, State


@dataclass(frozen=True, slots=True)
class Job:
    """One plan with the pages of its request, which hold `kept` rows and have room for the plan's."""

    request: Request
    plan: Plan
    kept: int
    pages: Sequence[int]


@dataclass(eq=False, slots=True)
class Live:
    """One request on its way. written: rows of its pages that hold KV, equal to state.kept unless it was preempted.

    labelled: pages offered for prefix reuse. spent: rows charged. plan: what it runs next, made once per state.
    """

    id: int
    state: State
    pages: list[int] = field(default_factory=list)
    written: int = 0
    labelled: int = 0
    spent: int = 0
    plan: Plan | None = None

    @property
    def fresh(self) -> bool:
        """Whether no forward has run for it yet: its state may still start after a prefix found in the pages."""
        return not self.state.stats.rows

    @property
    def rebuilding(self) -> bool:
        return self.written < self.state.kept

    def next_plan(self) -> Plan:
        if self.plan is None:
            self.plan = rebuild_plan(self) if self.rebuilding else strategy_of(self.state.request).need(self.state)
        return self.plan


def rebuild_plan(live: Live) -> Plan:
    """The next chunk of kept rows to write again, as the spans that wrote them."""
    request, state = live.state.request, live.state
    unit = block_size(request) if request.traits.context == "block" else 1
    chunk = max(request.prefill_chunk // unit, 1) * unit
    return Plan(context_spans(request, state.ids, live.written, min(live.written + chunk, state.kept)), ())


def rows_at_most(request: Request) -> int:
    """Rows of key/value memory that a request may need in the end."""
    return kept_at_most(request) + scratch_rows(request)


def kept_at_most(request: Request) -> int:
    return len(request.context) + request.max_tokens


def reuse_kind(request: Request) -> str | None:
    """Requests of one kind may share pages; None where rows depend on what follows them in their block."""
    if request.traits.context == "block" and request.strategy == "fastdiffuser":
        return None
    return f"causal {request.causal_adapter}" if request.causal_adapter else "causal"


def row_keys(request: Request, ids: Ids) -> Ids:
    """What rows are known by when pages are shared: their ids, each with how far its position is from its row."""
    if not request.suffix:
        return ids
    return tuple(token + (request.position(row) - row << 32) for row, token in enumerate(ids))


class Scheduler:
    def __init__(self, pages: Pages, config: EngineConfig) -> None:
        self.pages, self.config = pages, config
        self.waiting = deque[Live]()
        self.live = list[Live]()
        self.parked = list[Live]()  # with a question out: they hold their pages and no place in a forward
        self.preemptions = 0

    def add(self, live: Live) -> None:
        self.waiting.append(live)

    def drop(self, live: Live) -> None:
        """Forget a request, wherever it is, and free its pages."""
        for queue in (self.live, self.waiting, self.parked):
            if live in queue:
                queue.remove(live)
        self.pages.release(live.pages)

    def choose(self) -> list[Live]:
        """Requests whose plans run in the next forward, pages reserved. Least charged first, within the row budget."""
        self.admit()
        chosen, rows = list[Live](), 0
        for live in sorted(self.live, key=lambda live: live.spent):
            if live not in self.live:
                continue  # preempted for one of the chosen
            plan = live.next_plan()
            if chosen and rows + plan.rows > self.config.max_rows:
                continue
            if self.reserve(live, chosen):
                chosen.append(live)
                rows += plan.rows
                live.spent += plan.rows
        return chosen

    def admit(self) -> None:
        """Take waiting requests in order while all their ids and their next plan fit without preempting anybody."""
        while self.waiting and len(self.live) < self.config.max_live:
            live = self.waiting[0]
            kind = reuse_kind(live.state.request)
            if kind and self.config.prefix_reuse and not live.pages:
                self.reuse(live, kind)
            rows = max(len(live.state.ids), live.written + live.next_plan().rows)
            if not self.pages.extend(live.pages, rows, kept_at_most(live.state.request)):
                # Reused pages are not held while waiting: they might be what the others are short of.
                self.unload(live)
                return
            live.spent = min((other.spent for other in self.live), default=0)
            self.live.append(self.waiting.popleft())

    def reuse(self, live: Live, kind: str) -> None:
        """Start from the longest prefix that the pages still hold; if preempted, of the kept rows: what comes after
        them will be written, and a page that others may hold must not be."""
        ids = live.state.ids if live.fresh else live.state.ids[: live.state.kept + 1]
        live.pages = self.pages.reuse(row_keys(live.state.request, ids), kind)
        live.labelled = len(live.pages)
        live.written = live.labelled * self.pages.size
        if live.fresh:
            live.state = replace(live.state, kept=live.written)
        live.plan = None

    def reserve(self, live: Live, chosen: list[Live]) -> bool:
        """Pages for the plan's rows, preempting later requests if it must; False where there are too few even so.

        The oldest request is never preempted: it comes to its end, and then the next one does.
        """
        most = kept_at_most(live.state.request)
        while not self.pages.extend(live.pages, live.written + live.next_plan().rows, most):
            others = [other for other in self.live if other.id > live.id and other not in chosen]
            if not others:
                return False
            self.preempt(min(others, key=lambda other: other.state.kept))
        return True

    def preempt(self, live: Live) -> None:
        """Free the pages of a live request and queue it again, ahead of all others. No id of it changes."""
        self.live.remove(live)
        self.unload(live)
        self.waiting.appendleft(live)
        self.preemptions += 1

    def unload(self, live: Live) -> None:
        self.pages.release(live.pages)
        live.written, live.labelled, live.plan = 0, 0, None
        if live.fresh:
            live.state = replace(live.state, kept=0)

    def note(self, live: Live, state: State, outcome: Outcome) -> None:
        """After a step: the cache has grown by `keep` and by nothing else."""
        live.written += outcome.keep
        assert live.written == state.kept, f"cache holds {live.written} rows, the state says {state.kept}"
        live.state, live.plan = state, None
        kind = reuse_kind(state.request)
        if kind and self.config.prefix_reuse and state.kept // self.pages.size > live.labelled:
            keys = row_keys(state.request, state.ids[: state.kept])
            live.labelled = self.pages.remember(live.pages, keys, live.labelled, kind)

    def park(self, live: Live) -> None:
        self.live.remove(live)
        self.parked.append(live)

    def unpark(self, live: Live) -> None:
        """Queue a parked request again, ahead of all others."""
        self.parked.remove(live)
        self.waiting.appendleft(live)

    def note_answer(self, live: Live, state: State, outcome: Outcome) -> None:
        """After an answer, which may take rows back. Others may share a page that was full: it is given up, not written
        to, and what still stands of it is written again."""
        live.written += outcome.keep
        full = live.written // self.pages.size
        if live.labelled > full:
            given_up = live.pages[full:]
            del live.pages[full:]
            self.pages.release(given_up)
            live.labelled, live.written = full, full * self.pages.size
        live.state, live.plan = state, None

    def note_rebuilt(self, live: Live) -> None:
        live.written += live.next_plan().rows
        live.plan = None
