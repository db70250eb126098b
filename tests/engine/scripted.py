"""An engine without tensors: a scripted runner whose memory holds token ids, so that wrong pages show at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from unmask.config import EngineConfig
from unmask.engine.engine import Engine, Limits, Update
from unmask.engine.scheduler import Job
from unmask.types import Ids, Read, Request, Row, Rows, Traits

VOCAB, MASK = 40, 39
TRAITS = Traits(mask_id=MASK)


def token(seed: int, position: int) -> int:
    """The scripted model: what a request of that seed has at that position."""
    return (seed * 7 + position * position * 3 + position // 5) % (VOCAB - 1)


def truth(request: Request) -> Ids:
    """The output that the scripted model leads to, whatever the mode."""
    first = len(request.prompt)
    ids = list[int]()
    for position in range(first, first + request.max_tokens):
        ids.append(token(request.sampling.seed, position))
        if ids[-1] in request.stop_ids and len(ids) > request.min_tokens:
            break
    return tuple(ids)


class Scripted:
    """Writes and reads ids where a real runner has keys and values; every third draft is wrong.

    A row in memory is (position, id, whether it saw its whole span). Before each plan, the kept rows must be the
    request's own ids in order, each written by a causal span.
    """

    def __init__(self, pages: int, size: int) -> None:
        self.size, self.memory = size, dict[int, tuple[int, int, bool]]()
        self.forwards = list[list[Job]]()
        self.fails = frozenset[int]()
        self.on_run: Callable[[], None] = lambda: None

    def run(self, jobs: Sequence[Job]) -> list[Rows]:
        self.forwards.append(list(jobs))
        for job in jobs:
            self.look(job)
        for job in jobs:
            self.write(job)
        self.on_run()
        if len(self.forwards) in self.fails:
            raise MemoryError("scripted")
        return [tuple(self.row(job, read, row) for read in job.plan.reads for row in read.rows) for job in jobs]

    def slots(self, job: Job) -> list[int]:
        slots = [page * self.size + i for page in job.pages for i in range(self.size)]
        assert len(slots) >= job.kept + job.plan.rows, "pages are too few for the plan"
        return slots

    def look(self, job: Job) -> None:
        slots, ids = self.slots(job), job.request.prompt + truth(job.request)
        found = [self.memory[slot] for slot in slots[: job.kept]]
        expected = [(position, id, False) for position, id in enumerate(ids[: job.kept])]
        assert found == expected, "the kept rows are not those of this request"

    def write(self, job: Job) -> None:
        rows = [(span.start + i, id, span.full) for span in job.plan.spans for i, id in enumerate(span.tokens)]
        for slot, row in zip(self.slots(job)[job.kept :], rows, strict=False):
            self.memory[slot] = row

    def row(self, job: Job, read: Read, row: int) -> Row:
        position = job.plan.spans[read.span].start + row + read.shift
        true = token(job.request.sampling.seed, position)
        drafted = read.bans_mask and job.request.strategy != "fastdiffuser"
        wrong = (true + 1) % (VOCAB - 1)
        first, second = (wrong, true) if drafted and position % 3 == 0 else (true, wrong)
        return Row(first, 0.6 + 0.1 * (position % 4), second, 0.05)

    def measure(
        self, rows: Sequence[int], pages: Sequence[int], *, adapter: str | None = None, kept: int = 0, own: bool = False
    ) -> tuple[tuple[int, float], ...]:
        return tuple((count, 1.0 + count / 100) for count in rows)


def scripted(pages: int = 32, size: int = 4, **settings: Any) -> tuple[Engine, Scripted]:
    config = replace(EngineConfig(page_size=size), **settings)
    runner = Scripted(pages, size)
    return Engine(runner, pages, config, Limits(VOCAB, 10_000)), runner


def request(length: int = 3, max_tokens: int = 8, **fields: Any) -> Request:
    """A request whose prompt and output follow the script."""
    made = Request((0,) * length, max_tokens, traits=TRAITS, **fields)
    return replace(made, prompt=tuple(token(made.sampling.seed, position) for position in range(length)))


def step(engine: Engine, outputs: dict[int, Ids]) -> list[Update]:
    """One step; `outputs` grows by what came."""
    updates = engine.step()
    for update in updates:
        outputs[update.id] = outputs.get(update.id, ()) + tuple(emitted.id for emitted in update.outcome.emit)
        assert update.state.output == outputs[update.id]
    engine.check()
    return updates


def drain(engine: Engine, outputs: dict[int, Ids] | None = None, most: int = 5000) -> dict[int, Ids]:
    """Steps until nothing is left; every step must bring somebody on."""
    outputs = {} if outputs is None else outputs
    for _ in range(most):
        if not engine.busy:
            return outputs
        step(engine, outputs)
    raise AssertionError("the engine makes no progress")
