"""Suite `infill`: what a suffix is worth to a model, and lines of HumanEval filled in with both sides in view.

Suffix gain: loss of a held-out gap with the suffix of another gap less that with its own, in nats per token: 0 means
that the suffix is not read. The lines, single and in runs, are those of `evaluation.lines`, beside what the same model
writes when it sees the prefix alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from unmask.evaluation.benchmarks import human_eval
from unmask.evaluation.bootstrap import LEVEL, summary
from unmask.evaluation.lines import LINES, RUNS, Line, runs_of_lines, sample, single_lines
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.suite import Job, Suite
from unmask.lm import LM
from unmask.lm.filling import IN_PLACE, PREFIX
from unmask.lm.ranking import log_likelihoods
from unmask.sandbox import Limits
from unmask.training.gap_measure import Loss, gap_losses, held_gaps, shuffled
from unmask.training.gaps import Gap
from unmask.training.packing import Data, held_out
from unmask.training.settings import Adapter, Blocks, Infill, TrainConfig

OTHER_ROOM = 48  # tokens of a gap, at most, for models whose gaps have no room


@dataclass(frozen=True, slots=True)
class Settings:
    """limit: so many single lines of HumanEval, in a fixed order without order (0: none); multi: so many runs of lines.
    candidates: see `lm.Filling`. samples: held-out gaps, of texts of `length` tokens of `data`. points: noise levels
    per block. max_tokens: most of a gap. seconds, memory: what a filled function and its test may use, of processor
    time and in MiB."""

    limit: int = LINES
    multi: int = 0
    candidates: int = 1
    samples: int = 64
    length: int = 256
    points: int = 4
    data: tuple[str, ...] = ("starter",)
    max_tokens: int | None = None
    seconds: float = 5.0
    memory: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= LINES:
            raise ValueError(f"limit must be between 0 and {LINES}, got {self.limit}")
        if not 0 <= self.multi <= RUNS:
            raise ValueError(f"multi must be between 0 and {RUNS}, got {self.multi}")
        for name in ("samples", "points", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.length < 64:
            raise ValueError(f"length must be at least 64, got {self.length}")


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. A model that has not learned to fill gaps has no suffix gain; its lines are filled as
    `LM.fill` does it with untrained=True. Raises ConnectionError where HumanEval cannot be had."""
    settings = job.settings
    tasks = human_eval() if settings.limit or settings.multi else ()
    lines = some(single_lines(tasks), settings.limit)
    return run_on(job, lines, some(runs_of_lines(tasks), settings.multi))


def some(lines: Sequence[Line], count: int) -> list[Line]:
    """So many in a fixed order that follows nothing: of a smaller count they are the first."""
    return [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:count].tolist()]


def run_on(job: Job, lines: Sequence[Line], multi: Sequence[Line] = ()) -> dict[str, Any]:
    """`run`, on given lines and runs of lines."""
    lm, settings = job.lm, job.settings
    layouts = lm.filler.layouts
    model = model_of(lm, job.adapter)
    decoding = {key: value for key, value in job.options.items() if key != "max_tokens"}
    how = {"layout": layouts[0] if layouts else PREFIX, "options": decoding}
    how |= {"max_tokens": settings.max_tokens, "candidates": settings.candidates}
    rows = Rows(job.rows, {"suite": "infill", **model, "how": how, "traits": asdict(lm.traits)} | of_gaps(settings))
    gaps = list(gap_rows(job, rows)) if layouts else []
    single = list(line_rows(job, rows, lines, "line"))
    several = list(line_rows(job, rows, multi, "run"))
    found: dict[str, Any] = {"suite": "infill", **model, **circumstances(lm), "how": how}
    found |= {"settings": asdict(settings) | {"data": list(settings.data)}}
    found |= {"interval": LEVEL, "gaps": gains(gaps), "lines": len(single), "results": results(single)}
    return found | {"multi": len(several), "multi_results": results(several)}


def of_gaps(settings: Settings) -> dict[str, Any]:
    return {"gaps": [list(settings.data), settings.samples, settings.length, settings.points]}


# What a suffix is worth.


def gap_rows(job: Job, rows: Rows) -> Iterator[Row]:
    lm, settings = job.lm, job.settings
    config = config_of(lm, settings)
    data = Data(settings.data, held_out=settings.data)
    samples = held_out(data, lm.tokenizer, settings.length, 2 * settings.samples)
    gaps = held_gaps(samples, lm.tokenizer, config)[: settings.samples]
    if len(gaps) < 2:
        raise ValueError(f"{', '.join(settings.data)} has {len(gaps)} gaps of {settings.length} tokens; 2 are needed")
    others = shuffled(gaps)
    for number, (gap, other) in enumerate(zip(gaps, others, strict=True)):
        job.progress("suffix gain", number, len(gaps))
        key = f"gap {number}"
        yield rows.get(key) or rows.add(key, losses(lm, gap, other, config, settings.points))


def config_of(lm: LM, settings: Settings) -> TrainConfig:
    """The settings under which gaps are laid out as this checkpoint has learned them."""
    traits = lm.traits
    size = traits.block_size
    end = traits.gap_end if traits.gap_end is not None else next(iter(lm.stop_ids), 0)
    name = traits.gap_adapter or traits.denoise_adapter
    return TrainConfig(
        method="joint" if name is None else "adapter",
        stage="filler" if traits.gap_adapter else "convert",
        length=settings.length,
        steps=1,
        blocks=Blocks(size=size),
        infill=Infill(share=1.0, room=max((traits.gap_room or OTHER_ROOM) // size, 1), end_id=end),
        adapter=Adapter() if name is None else Adapter(name=name, mask_embedding=not traits.gap_adapter),
    )


def losses(lm: LM, gap: Gap, other: Gap, config: TrainConfig, points: int) -> Row:
    """nelbo, ar: nats of the gap and its end token, from the noisy and from the causal rows, where these have learned
    it; the same with the suffix of another gap."""
    row: Row = {"tokens": len(gap.part) + 1}
    if lm.filler.layouts[0] == IN_PLACE:
        assert lm.traits.mask_id is not None
        with lm.lock:
            both: list[Loss] = gap_losses(lm.decoder, [gap, other], config, lm.traits.mask_id, points)
        if lm.traits.gap_adapter is None:
            row |= {"nelbo": both[0].nelbo, "nelbo_other": both[1].nelbo}
        return row | ({"ar": both[0].ar, "ar_other": both[1].ar} if lm.traits.gap_causal else {})
    fim = lm.filler.fim
    assert fim is not None
    for name, one in (("ar", gap), ("ar_other", other)):
        prompt = fim.prompt(one.prefix, one.suffix, fim.orders[0])
        row[name] = -sum(log_likelihoods(lm, [((*prompt, *one.part, *fim.ends[:1]), len(prompt))])[0])
    return row


def gains(rows: Sequence[Row]) -> dict[str, Any]:
    """Per token, with intervals over gaps: the losses, and how much higher they are with the suffix of another gap."""
    found = dict[str, Any]()
    for name in ("nelbo", "ar"):
        if rows and all(name in row for row in rows):
            found[name] = summary([(row[name], row["tokens"]) for row in rows])
            found[f"gain_{name}"] = summary([(row[f"{name}_other"] - row[name], row["tokens"]) for row in rows])
    return found


# Lines.


def line_rows(job: Job, rows: Rows, lines: Sequence[Line], kind: str) -> Iterator[Row]:
    """The samples of some lines. kind: what they are called in the file, where a line is also a run of one."""
    settings, exact = job.settings, 0
    limits = Limits(seconds=settings.seconds, memory=settings.memory << 20)
    options = {**job.options, **({} if settings.max_tokens is None else {"max_tokens": settings.max_tokens})}
    for number, line in enumerate(lines):
        job.progress(f"{exact} of {kind}s filled exactly", number, len(lines))
        key = f"{kind} {line.name}"
        row = rows.get(key) or rows.add(key, sample(job.lm, line, options, settings.candidates, limits))
        exact += row["exact"]
        yield row


SHARES = ("exact", "passed", "likeness", "ended", "trimmed", "floor_exact", "floor_passed", "floor_likeness")


def results(rows: Sequence[Row]) -> dict[str, Any]:
    """Means with intervals over functions, since the lines of one function are alike."""
    by_function = dict[str, list[Row]]()
    for row in rows:
        by_function.setdefault(str(row["key"]).rsplit("/", 1)[0], []).append(row)
    found = dict[str, Any]()
    for name in SHARES:
        if rows and all(name in row for row in rows):
            groups = by_function.values()
            found[name] = summary([(sum(float(row[name]) for row in group), len(group)) for group in groups])
    if rows and all("nfe" in row for row in rows):
        found["tokens_per_forward"] = summary([(row["tokens"], max(row["nfe"], 1)) for row in rows])
    return found


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `run` found."""
    if found["gaps"]:
        table = Table(title=f"{found['model']}: held-out gaps, layout {found['how']['layout']}", title_justify="left")
        for heading in ("", "nats a token", "suffix gain"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, title in (("nelbo", "denoising (NELBO)"), ("ar", "causal rows")):
            if name in found["gaps"]:
                table.add_row(title, cell(found["gaps"][name]), cell(found["gaps"][f"gain_{name}"]))
        yield table
    for count, what in (("lines", "single lines"), ("multi", "runs of lines")):
        if not found[count]:
            continue
        table = Table(title=f"{found[count]} {what} of HumanEval", title_justify="left")
        for heading in ("", "both sides", "prefix alone"):
            table.add_column(heading, justify="right" if heading else "left")
        shares = found["results" if count == "lines" else "multi_results"]
        names = {"exact": "exact match", "passed": "pass@1", "likeness": "likeness", "ended": "ended by the model"}
        for name, title in names.items():
            floor = shares.get(f"floor_{name}")
            table.add_row(title, cell(shares[name], 100), cell(floor, 100) if floor else "")
        table.caption = f"per cent, with {100 * LEVEL:.0f} % intervals over functions"
        yield table


def cell(number: dict[str, Any], scale: float = 1.0) -> str:
    value, low, high = (scale * number[key] for key in ("value", "low", "high"))
    places = 1 if scale > 1 else 3
    shown = f"{value:.{places}f}"
    return shown if math.isclose(low, high) else f"{shown} ({low:.{places}f} to {high:.{places}f})"


SUITE = Suite(Settings, run, tables, decodes=True)
