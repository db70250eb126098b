"""What is counted per sample, and summed over samples: each measure is a numerator and a denominator of a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from unmask.evaluation.bootstrap import Pairs, difference, summary
from unmask.evaluation.rows import Row
from unmask.lm import LM, Generation, options_of
from unmask.types import Ids, Speculation

# Measure -> the fields it needs, and (numerator, denominator) of a row that has them.
MEASURES: dict[str, tuple[tuple[str, ...], Callable[[Row], tuple[float, float]]]] = {
    "passed": (("passed",), lambda row: (row["passed"], 1)),
    "raw": (("raw",), lambda row: (row["raw"], 1)),
    "satisfied": (("satisfied",), lambda row: (row["satisfied"], 1)),
    "strict": (("strict",), lambda row: (row["strict"], 1)),
    "joint": (("joint",), lambda row: (row["joint"], 1)),
    "right_steps": (("right", "steps"), lambda row: (row["right"], row["steps"])),
    "valid_steps": (("valid", "steps"), lambda row: (row["valid"], row["steps"])),
    "same_as_ar": (("same",), lambda row: (row["same"], 1)),
    "tpf": (("nfe", "prefill_tokens"), lambda row: (later(row), row["nfe"])),
    "acceptance_length": (("rounds", "prefill_tokens"), lambda row: (later(row), row["rounds"])),
    "tokens_per_second": (("seconds",), lambda row: (row["tokens"], row["seconds"])),
    "tokens_per_cpu_second": (("cpu_seconds",), lambda row: (row["tokens"], row["cpu_seconds"])),
    "tokens": (("tokens",), lambda row: (row["tokens"], 1)),
    "nfe": (("nfe",), lambda row: (row["nfe"], 1)),
    "revisions": (("revisions",), lambda row: (row["revisions"], 1)),
    "seconds": (("seconds",), lambda row: (row["seconds"], 1)),
    "log_likelihood": (("log_likelihood",), lambda row: (row["log_likelihood"], row["tokens"])),
    "agreement": (("agreement",), lambda row: (row["agreement"], 1)),
    "agreement_prefix": (("agreement_prefix",), lambda row: (row["agreement_prefix"], 1)),
    "repeated": (("repeated",), lambda row: (row["repeated"] * row["tokens"], row["tokens"])),
    "likeness": (("likeness",), lambda row: (row["likeness"], 1)),
    "obeys": (("obeys",), lambda row: (row["obeys"], 1)),
    "narrowed": (("narrowed",), lambda row: (row["narrowed"], 1)),
    "work_ms": (("work_ms",), lambda row: (row["work_ms"], row["tokens"])),
    "kept_ms": (("kept_ms",), lambda row: (row["kept_ms"], row["tokens"])),
    "compile_ms": (("compile_ms",), lambda row: (row["compile_ms"], 1)),
    "later_ms": (
        ("first_seconds", "first_tokens", "seconds"),
        lambda row: (1e3 * (row["seconds"] - row["first_seconds"]), row["tokens"] - row["first_tokens"]),
    ),
}

# Those between 0 and 1, which are told in per cent.
SHARES = (
    *("passed", "same_as_ar", "agreement", "agreement_prefix", "repeated"),
    *("raw", "satisfied", "strict", "joint", "right_steps", "valid_steps", "obeys", "narrowed"),
)


def later(row: Row) -> int:
    """Tokens that did not come from the prefill."""
    return int(row["tokens"] - row["prefill_tokens"])


def pairs_of(measure: str, rows: Sequence[Row]) -> Pairs:
    return [tuple(map(float, MEASURES[measure][1](row))) for row in rows]  # type: ignore[misc]


def measured(rows: Sequence[Row]) -> dict[str, Any]:
    """Every measure that all of the rows have, summed up; without one that has nothing to divide by in any row."""
    found = dict[str, Any]()
    for name, (needed, _) in MEASURES.items():
        if rows and all(row.get(key) is not None for row in rows for key in needed):
            pairs = pairs_of(name, rows)
            if any(denominator for _, denominator in pairs):
                found[name] = summary(pairs)
    return found


def compared(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any]:
    """Every measure that both have, of the same samples in the same order, as a paired difference."""
    both = [*before, *after]
    names = [
        name for name, (needed, _) in MEASURES.items() if all(row.get(k) is not None for row in both for k in needed)
    ]
    return {name: difference(pairs_of(name, before), pairs_of(name, after)) for name in names}


def generated(lm: LM, ids: Ids, *, costs: tuple[tuple[int, float], ...] = (), **options: Any) -> tuple[Generation, Row]:
    """A generation, alone on the engine, and what a row holds of it.

    costs: (rows, seconds) of forwards that adaptivespec is to go by, instead of those measured here. options: of
    `LM.generate`.
    """
    begun = time.process_time()
    request, follow = lm.prepare(ids, options_of(options))
    if costs:
        assert isinstance(request.settings, Speculation)
        request = replace(request, settings=replace(request.settings, costs=costs))
    done = lm.finish(lm.submit(request, follow))
    return done, row_of(done, time.process_time() - begun)


def row_of(done: Generation, cpu: float) -> Row:
    """What a row holds of a generation.

    step: the number of the forward that gave each token, counted from the first prefill. cpu_seconds: processor time of
    the whole process, which a busy machine stretches less than the time on the wall.
    """
    stats = done.stats
    return {
        "prompt_tokens": len(done.prompt_ids),
        "ids": list(done.token_ids),
        "step": [token.step for token in done.tokens],
        "text": done.text,
        "finish": done.finish_reason,
        "tokens": stats.tokens,
        "prefill_tokens": stats.prefill_tokens,
        "nfe": stats.nfe,
        "prefills": stats.prefills,
        "rounds": stats.rounds,
        "rows": stats.rows,
        "seconds": stats.seconds,
        "cpu_seconds": cpu,
    }


def until(row: Row, tokens: int) -> Row:
    """The counts of a row had it ended after so many of its tokens (at least one of them not of the prefill).

    A round of linearspec without lookup emits in two forwards, of the others in one: as many rounds as those of the
    whole row's forwards that emitted by then, and one that was begun counts. Not for rounds that are now one, now two.
    """
    steps, prefill = row["step"], row["prefill_tokens"]
    emitting, by_then = len(set(steps[prefill:])), len(set(steps[prefill:tokens]))
    before = steps[-1] - row["nfe"]  # the step of the last forward that is not counted
    return {
        "tokens": tokens,
        "prefill_tokens": prefill,
        "nfe": steps[tokens - 1] - before,
        "rounds": -(-by_then * row["rounds"] // emitting),
    }
