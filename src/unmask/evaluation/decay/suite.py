"""Suite `decay`: DecayBench. As rules accumulate on a task, how fast do answers get worse, by mode and enforcement?

After arXiv 2605.06445, made small: tier "a" is a little language that a small model can be trained on from nothing
(runs/decay_model.py), tier "b" one Python function, tier "c" a small backend with SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from unmask.evaluation.bootstrap import LEVEL
from unmask.evaluation.decay.backend_tasks import BackendTask
from unmask.evaluation.decay.enforce import ENFORCEMENTS
from unmask.evaluation.decay.function_tasks import FunctionTask
from unmask.evaluation.decay.functions import functions
from unmask.evaluation.decay.shown import picture, tables
from unmask.evaluation.decay.spec_tasks import SpecTask
from unmask.evaluation.decay.statistics import hypotheses, marginal, of_length, of_way
from unmask.evaluation.decay.tasks import PADDING, Task, williams
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.suite import Job, Suite
from unmask.evaluation.together import check_at_once, together
from unmask.lm.options import MODES
from unmask.sandbox import isolation

TIERS = ("a", "b", "c")
MOST = 60  # tasks of a tier
ORDERS = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """tier: one of TIERS. limit: tasks. orders: of the rules, per task. levels: how many rules are active. shots:
    examples before a task, 0 for a model that was trained on them. seed: of the tasks. modes: of `LM.generate`;
    enforcements: of `enforce.ENFORCEMENTS`. confidence_threshold: of fastdiffuser. at_once: answers in hand at once."""

    tier: str = "a"
    limit: int = 4
    orders: int = 1
    levels: tuple[int, ...] = tuple(range(9))
    shots: int = 2
    seed: int = 0
    modes: tuple[str, ...] = ("ar", "fastdiffuser")
    enforcements: tuple[str, ...] = tuple(ENFORCEMENTS)
    confidence_threshold: float = 0.9
    at_once: int = 8

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise ValueError(f"tier must be one of {', '.join(TIERS)}, got {self.tier!r}")
        if self.tier == "c" and find_spec("sqlalchemy") is None:
            raise ValueError("tier c runs answers with SQLAlchemy, which is not installed: pip install 'unmask[eval]'")
        for name, least, most in (("limit", 1, MOST), ("orders", 1, ORDERS), ("shots", 0, 4)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between {least} and {most}, got {getattr(self, name)}")
        most = len(task_of(self, 0).rules)
        if not self.levels or list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 0:
            raise ValueError(f"levels must be numbers of rules, ascending, got {list(self.levels)}")
        if self.levels[-1] > most:
            raise ValueError(f"levels must be at most {most}, the rules of tier {self.tier}, got {self.levels[-1]}")
        for name, known in (("modes", MODES), ("enforcements", tuple(ENFORCEMENTS))):
            chosen: tuple[str, ...] = getattr(self, name)
            if wrong := [one for one in chosen if one not in known]:
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {wrong[0]!r}")
        if not 0 <= self.confidence_threshold <= 1:
            raise ValueError(f"confidence_threshold must be between 0 and 1, got {self.confidence_threshold}")
        check_at_once(self.at_once)


def task_of(settings: Settings, number: int) -> Task:
    if settings.tier == "a":
        return SpecTask(number, settings.seed, settings.shots)
    if settings.tier == "c":
        return BackendTask(number, settings.seed, settings.shots)
    return FunctionTask(number % len(functions()), settings.seed, settings.shots)


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer that is asked for. padding: sentences that ask for nothing, in place of rules."""

    task: Task
    order: int
    active: tuple[str, ...]
    padding: int
    mode: str
    enforcement: str

    @property
    def key(self) -> str:
        level = f"padding {self.padding}" if self.padding else str(len(self.active))
        return f"{self.task.name}/order {self.order}/{level}/{self.mode}/{self.enforcement}"


def samples(settings: Settings) -> Iterator[Sample]:
    """Task by task; per order and level all ways in turns, then the control of length."""
    for number in range(settings.limit):
        task = task_of(settings, number)
        for order in range(settings.orders):
            rules = williams(task.rules, number * settings.orders + order)
            for level in settings.levels:
                for mode in settings.modes:
                    for enforcement in settings.enforcements:
                        yield Sample(task, order, tuple(rules[:level]), 0, mode, enforcement)
        most = min(settings.levels[-1], len(PADDING))
        if most and settings.levels[0] == 0 and "prompt" in settings.enforcements:
            for mode in settings.modes:
                yield Sample(task, 0, (), most, mode, "prompt")


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. ValueError for a model that cannot decode in one of the modes."""
    lm, settings = job.lm, job.settings
    if lm.traits.mask_id is None and any(mode != "ar" for mode in settings.modes):
        raise ValueError("the model names no mask token, so it decodes in mode ar only: give --modes ar")
    model = model_of(lm, job.adapter)
    asked = {key: getattr(settings, key) for key in ("tier", "shots", "seed", "confidence_threshold")}
    rows = Rows(job.rows, {"suite": "decay", **model, **asked, "isolation": isolation()})
    todo = list(samples(settings))
    work = {one.key: partial(sample, job, one) for one in todo}
    done = together(rows, work, settings.at_once, lambda done: job.progress("answers", len(done), len(todo)))
    found: dict[str, Any] = {"suite": "decay", **model, **circumstances(lm), "interval": LEVEL}
    found["settings"] = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()}
    return found | summed_up(done, todo[0].task)


def sample(job: Job, one: Sample) -> Row:
    """raw, satisfied, strict, joint: see `tasks.Judged`; kept: per active rule."""
    options: dict[str, Any] = {"mode": one.mode}
    if one.mode == "fastdiffuser":
        options["confidence_threshold"] = job.settings.confidence_threshold
    answer = ENFORCEMENTS[one.enforcement](job.lm, one.task, one.active, one.padding, options)
    judged = answer.judged
    return {
        "kind": f"{len(one.active)} rules" + (f", {one.padding} sentences beside" if one.padding else ""),
        "way": f"{one.mode}, {one.enforcement}",
        "task": one.task.name,
        "order": one.order,
        "level": len(one.active),
        "padding": one.padding,
        "mode": one.mode,
        "enforcement": one.enforcement,
        "active": list(one.active),
        "kept": judged.kept,
        "raw": judged.raw,
        "satisfied": judged.satisfied,
        "strict": judged.strict,
        "joint": judged.joint,
        **{key: value for key, value in asdict(answer).items() if key != "judged"},
    }


def summed_up(rows: Sequence[Row], task: Task) -> dict[str, Any]:
    """ways: per mode and enforcement; rules: what each costs; length: of the control; hypotheses."""
    ruled, padded = ([row for row in rows if bool(row["padding"]) == is_padded] for is_padded in (False, True))
    ways = list(dict.fromkeys(row["way"] for row in ruled))
    return {
        "tasks": len({row["task"] for row in ruled}),
        "maskable": sorted(task.maskable),
        "ways": {way: of_way([row for row in ruled if row["way"] == way]) for way in ways},
        "rules": marginal(ruled),
        "length": of_length(ruled, padded),
        "hypotheses": hypotheses(ruled),
    }


SUITE = Suite(Settings, run, tables, exactness="exact", picture=picture)
