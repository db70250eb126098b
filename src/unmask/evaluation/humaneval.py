"""Suite `humaneval`: 164 functions to complete (arXiv 2107.03374), run against their tests in the sandbox; pass@1.

One answer per task, in whatever mode and with whatever settings `unmask generate` has. A prompt is given as it stands,
without its last newline; what follows the first stop string is not part of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.table import Table

from unmask.evaluation.benchmarks import Task, human_eval
from unmask.evaluation.bootstrap import LEVEL
from unmask.evaluation.measures import generated, measured
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.starter_tables import table_of
from unmask.evaluation.stops import HUMAN_EVAL_STOPS
from unmask.evaluation.suite import Job, Suite
from unmask.evaluation.together import check_at_once, together
from unmask.lm.options import Options, options_of, request_of
from unmask.sandbox import Limits, Verdict, isolation, run_python

TASKS = 164
COLUMNS = {
    "passed": "pass@1",
    "tpf": "tokens a forward",
    "acceptance_length": "tokens a round",
    "tokens_per_second": "tokens/s",
    "tokens": "tokens an answer",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """limit: only the first so many tasks. max_tokens: most new ones of an answer. seconds, memory: what an answer and
    its test may use, of processor time and in MiB. at_once: answers in hand at once; above 1 no speed is told."""

    limit: int = TASKS
    max_tokens: int = 512
    seconds: float = 5.0
    memory: int = 512
    at_once: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= TASKS:
            raise ValueError(f"limit must be between 1 and {TASKS}, got {self.limit}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        check_at_once(self.at_once)
        self.limits()

    def limits(self) -> Limits:
        return Limits(seconds=self.seconds, memory=self.memory << 20)


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. Raises ConnectionError where the tasks cannot be had."""
    return run_on(job, human_eval()[: job.settings.limit])


def run_on(job: Job, tasks: Sequence[Task]) -> dict[str, Any]:
    """`run`, on given tasks."""
    lm, settings = job.lm, job.settings
    options = {"stop": HUMAN_EVAL_STOPS, **job.options, "max_tokens": settings.max_tokens}
    decoding = decoding_of(job, options)
    model = model_of(lm, job.adapter)
    limits = {"seconds": settings.seconds, "memory": settings.memory, "isolation": isolation()}
    rows = Rows(job.rows, {"suite": "humaneval", **model, "decoding": decoding, "limits": limits})
    if any(rows.get(task.name) is None for task in tasks):  # the first forward of a shape is not what is measured
        lm.generate(prompt_of(tasks[0]), **{**options, "max_tokens": 2})
    work = {task.name: partial(sample, job, task, options) for task in tasks}

    def tell(done: Sequence[Row]) -> None:
        job.progress(f"{sum(row['passed'] for row in done)} passed", len(done), len(tasks))

    done = together(rows, work, settings.at_once, tell)
    ends = {
        status: sum(row["verdict"] == status for row in done) for status in sorted({row["verdict"] for row in done})
    }
    found: dict[str, Any] = {"suite": "humaneval", **model, **circumstances(lm)}
    found |= {"settings": asdict(settings), "decoding": decoding, "limits": limits, "interval": LEVEL}
    return found | {"tasks": len(done), "results": measured(done), "ends": ends}


def decoding_of(job: Job, options: dict[str, Any]) -> dict[str, Any]:
    """Strategy, its settings and the sampling, all defaults written out; the checkpoint's traits."""
    chosen: Options = options_of(options)
    lm = job.lm
    request = request_of((0,), chosen, lm.traits, lm.stop_ids, lm.config.max_position)
    settings = None if request.settings is None else asdict(request.settings)
    for measured_later in ("costs", "profile"):
        if settings:
            settings.pop(measured_later, None)
    found = {
        "mode": chosen.mode or "default",
        "strategy": request.strategy,
        "settings": settings,
        "sampling": asdict(request.sampling),
        "traits": asdict(lm.traits),
        "max_tokens": request.max_tokens,
        "min_tokens": request.min_tokens,
        "stop": list(chosen.stop),
        "stop_ids": list(request.stop_ids),
    }
    return dict(json.loads(json.dumps(found)))  # lists for tuples, as it will be read again


def prompt_of(task: Task) -> str:
    """Without its last newline, which no token of a solution begins after: it would glue to the indent."""
    return task.prompt.rstrip("\n")


def sample(job: Job, task: Task, options: dict[str, Any]) -> Row:
    """One task: the answer, and how its test ended (verdict: a `sandbox.Status`)."""
    done, row = generated(job.lm, job.lm.encode(prompt_of(task)), **options)
    verdict = judged(task, done.text, job.settings.limits())
    row |= {"passed": verdict.passed, "verdict": verdict.status, "detail": verdict.detail}
    return {"task": task.name, "strategy": done.strategy, **row}


def judged(task: Task, completion: str, limits: Limits) -> Verdict:
    """Run the task's test on a completion of `prompt_of(task)`."""
    program = f"{prompt_of(task)}{completion}\n{task.test}\ncheck({task.entry_point})\n"
    return run_python(program, limits)


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `run` found."""
    way = found["decoding"]["strategy"]
    yield table_of(
        f"{found['model']}: {found['tasks']} tasks of HumanEval", COLUMNS, {way: found["results"]}, found["interval"]
    )
    table = Table(title="how the tests ended", title_justify="left")
    table.add_column("")
    table.add_column("answers", justify="right")
    for status, count in found["ends"].items():
        table.add_row(status, str(count))
    yield table


SUITE = Suite(Settings, run, tables, decodes=True)
