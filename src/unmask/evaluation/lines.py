"""Lines of HumanEval to fill in: which gaps there are, how one is filled and judged, and what a floor makes of it.

The gaps are those of HumanEval-Infilling (Bavarian et al., arXiv 2207.14255), rebuilt from HumanEval itself: every line
of every solution that is not blank, 1,033 of them, and every run of lines from one that is not blank to another, 5,815.
The floor is the same model's greedy continuation of the prefix alone, which is told how many lines the gap has.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from unmask.evaluation.benchmarks import Task
from unmask.evaluation.rows import Row
from unmask.lm import LM, Filled, Filling, Options
from unmask.lm.filling import PREFIX
from unmask.sandbox import Limits, run_python

LINES, RUNS = 1033, 5815
LINE_TOKENS, RUN_TOKENS = 64, 128  # most of a gap, unless told


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or a run of them, to fill in. number, last: the first and the last of them among its function's lines
    that are not blank. The middle has no line end at its end."""

    task: Task
    number: int
    last: int
    prefix: str
    middle: str
    suffix: str

    @property
    def single(self) -> bool:
        return self.number == self.last

    @property
    def name(self) -> str:
        return f"{self.task.name}/L{self.number}" + ("" if self.single else f"_L{self.last}")


def single_lines(tasks: Sequence[Task]) -> list[Line]:
    """All lines of all solutions that are not blank, indentation included."""
    return [line for line in runs_of_lines(tasks) if line.single]


def runs_of_lines(tasks: Sequence[Task]) -> list[Line]:
    """All runs of lines of all solutions that begin and end with a line that is not blank; those of one line too."""
    return [line for task in tasks for line in runs_of(task)]


def runs_of(task: Task) -> Iterator[Line]:
    rows = task.solution.splitlines(keepends=True)
    written = [i for i, row in enumerate(rows) if row.strip()]
    for number, first in enumerate(written):
        for last in range(number, len(written)):
            whole = "".join(rows[first : written[last] + 1])
            middle = whole.rstrip("\n")
            suffix = whole[len(middle) :] + "".join(rows[written[last] + 1 :])
            yield Line(task, number, last, task.prompt + "".join(rows[:first]), middle, suffix)


def sample(lm: LM, line: Line, options: Mapping[str, Any], candidates: int, limits: Limits) -> Row:
    """One gap, filled with both sides in view and, as a floor, from the prefix alone by AR. A gap of one line is told
    to end with its line, as the floor's is; how many lines a longer one has is for the suffix to say."""
    most = options.get("max_tokens") or (LINE_TOKENS if line.single else RUN_TOKENS)
    ends: dict[str, Any] = {"max_tokens": most} | ({"stop": ["\n"]} if line.single else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is untrained is in the results
        found = lm.fill(line.prefix, line.suffix, untrained=True, candidates=candidates, **ends | dict(options))
    row = judged(line, found.text, limits) | numbers(found)
    below = judged(line, floor_of(lm, line, most), limits)
    return row | {f"floor_{name}": below[name] for name in ("text", "exact", "likeness", "passed")}


def floor_of(lm: LM, line: Line, most: int) -> str:
    how = Filling(layout=PREFIX, untrained=True, heal=True)
    options = Options(mode="ar", max_tokens=most, stop=("\n",) if line.single else ())
    text = lm.finish(lm.submit(*lm.filler.prepare(line.prefix, "", options, how))).text
    return "\n".join(text.split("\n")[: line.middle.count("\n") + 1])


def judged(line: Line, text: str, limits: Limits) -> Row:
    """exact: the very lines; likeness: of characters, 0 to 1; passed: the function with the text in it passes its
    test."""
    program = f"{line.prefix}{text}{line.suffix}\n{line.task.test}\ncheck({line.task.entry_point})\n"
    return {
        "text": text,
        "exact": text == line.middle,
        "likeness": SequenceMatcher(None, text, line.middle, autojunk=False).ratio(),
        "passed": text == line.middle or run_python(program, limits).passed,
    }


def numbers(found: Filled) -> Row:
    """tokens, nfe: of the candidate that was chosen."""
    stats = found.stats
    return {
        "layout": found.layout,
        "ended": found.ended,
        "trimmed": found.chosen.trimmed,
        "candidates": len(found.candidates),
        "tokens": stats.tokens,
        "nfe": stats.nfe + stats.prefills,
        "seconds": stats.seconds,
    }
