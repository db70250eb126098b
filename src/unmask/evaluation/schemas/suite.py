"""Suite `schemas`: is JSON that was decoded under a schema always valid, in every mode, and what does it cost?

Every schema is answered by AR without a constraint, then under it by AR, fastdiffuser and each variant of
self-speculation, with a language compiled anew each time, so that no way finds what another has prepared. Validity is
judged by the package jsonschema, which has no part in decoding.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import jsonschema
from jsonschema.validators import validator_for
from rich.table import Table

from unmask.constraints import Compiler, ConstraintError, Spec, spec_of
from unmask.evaluation.bootstrap import LEVEL, difference
from unmask.evaluation.measures import generated, pairs_of, row_of
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.schemas.tasks import LEVELS, PER_LEVEL, Task, tasks
from unmask.evaluation.schemas.timing import Clock, Timed, again
from unmask.evaluation.starter import by_way
from unmask.evaluation.starter_tables import shown
from unmask.evaluation.suite import Job, Suite
from unmask.lm import LM, options_of

FREE, AR = "ar, no constraint", "ar"
# Way -> options of `LM.generate`; the first one is without a constraint.
WAYS: dict[str, dict[str, Any]] = {
    FREE: {"mode": "ar"},
    AR: {"mode": "ar"},
    "fastdiffuser": {"mode": "fastdiffuser"},
    **{name: {"mode": "self-speculation", "spec_variant": name} for name in ("linearspec", "quadspec", "adaptivespec")},
}
FORMATS = jsonschema.FormatChecker(["date", "email", "ipv4", "uuid"])
COLUMNS = {
    "obeys": "valid",
    "same_as_ar": "same ids as AR",
    "narrowed": "budget felt",
    "tokens": "tokens an answer",
    "tokens_per_second": "tokens/s",
    "work_ms": "work, ms a token",
    "kept_ms": "kept, ms a token",
    "compile_ms": "compiled, ms",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """limit: schemas of each level. max_tokens: of an answer."""

    limit: int = PER_LEVEL
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= PER_LEVEL:
            raise ValueError(f"limit must be between 1 and {PER_LEVEL}, got {self.limit}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. ValueError for a model that has no mask token."""
    return run_on(job, list(tasks(job.settings.limit)))


def run_on(job: Job, chosen: Sequence[Task]) -> dict[str, Any]:
    """`run`, on given schemas."""
    lm, settings = job.lm, job.settings
    if lm.traits.mask_id is None:
        raise ValueError("the model names no mask token, so it can neither draft nor denoise: give mask_id")
    model = model_of(lm, job.adapter)
    about = {"suite": "schemas", **model, "max_tokens": settings.max_tokens, "block_size": lm.traits.block_size}
    rows = Rows(job.rows, {**about, "schemas": written(tasks())})
    warm, done = set[str](), list[Row]()
    for number, task in enumerate(chosen):
        ar: Row = {}
        for place, (way, options) in enumerate(WAYS.items()):
            job.progress(f"{task.level}: {task.name}, {way}", number * len(WAYS) + place, len(chosen) * len(WAYS))
            key = f"{task.level}/{task.name}/{way}"
            row = rows.get(key)
            if row is None:
                if way not in warm:  # the first forward of a shape, and the trie of the vocabulary, are not measured
                    sample(lm, chosen[0], way, options, 4 if way == FREE else settings.max_tokens, {})
                    warm.add(way)
                row = rows.add(key, sample(lm, task, way, options, settings.max_tokens, ar))
            ar = row if way == AR else ar
            done.append(row)
    found: dict[str, Any] = {"suite": "schemas", **model, **circumstances(lm), "interval": LEVEL}
    found["settings"] = {**asdict(settings), "schemas": len(chosen), "block_size": lm.traits.block_size}
    return found | summed_up(done)


def written(of: Iterator[Task]) -> str:
    """A number that changes with what is asked."""
    return f"{zlib.crc32(''.join(task.prompt for task in of).encode()):08x}"


def sample(lm: LM, task: Task, way: str, options: Mapping[str, Any], max_tokens: int, ar: Row) -> Row:
    """One schema answered in one way. ar: the row of AR under the constraint, empty where this is it.

    obeys: the text, without a constraint the first JSON value of it, is valid. refused: why nothing was decoded.
    work_ms: what all questions to the constraint took, of this thread's processor time; kept_ms: what those of AR take
    once more, with all that was found out kept; compile_ms: from the schema to the first place. narrowed: the budget
    has kept some token from coming.
    """
    row: Row = {"kind": task.level, "schema": task.name, "way": way}
    ids = lm.encode(task.prompt)
    if way == FREE:
        done, counts = generated(lm, ids, max_tokens=max_tokens, stop=("\n\n",), **options)
        fault = judged(task.schema, first_value(done.text))
        return row | counts | first_of(counts, done.stats.first_token_seconds) | {"obeys": not fault, "fault": fault}
    try:
        spec = spec_of({"type": "json_schema", "schema": task.schema})
        return row | constrained(lm, ids, spec, {**options, "max_tokens": max_tokens}, task.schema, ar)
    except ConstraintError as error:
        return row | {"refused": str(error)}


def constrained(
    lm: LM, ids: Sequence[int], spec: Spec, options: Mapping[str, Any], schema: Mapping[str, Any], ar: Row
) -> Row:
    request, follow = lm.prepare(tuple(ids), options_of(options))
    compiler = Compiler(lm.constraining.compiler.vocabulary)
    begun = time.thread_time()
    place = compiler.start(spec, request.stop_ids, request.max_tokens)
    compiled, clock = time.thread_time() - begun, Clock()
    request = follow.request = replace(request, constraint=Timed(place, clock))
    begun = time.process_time()
    done = lm.finish(lm.submit(request, follow))
    row = row_of(done, time.process_time() - begun)
    kept, narrowed = again(place, done.token_ids, request.max_tokens)
    fault = judged(schema, done.text)
    row |= first_of(row, done.stats.first_token_seconds) | {"obeys": not fault, "fault": fault, "narrowed": narrowed}
    row |= {"work_ms": 1e3 * clock.seconds, "kept_ms": 1e3 * kept, "compile_ms": 1e3 * compiled}
    if ar.get("ids") and done.strategy != "fastdiffuser":
        row["same"] = row["ids"] == ar["ids"]
    return row


def first_of(row: Row, seconds: float) -> Row:
    """When the first tokens were there, and how many of them: what comes after is without the prefill."""
    steps = row["step"]
    return {"first_seconds": seconds, "first_tokens": steps.count(steps[0]) if steps else 0}


def first_value(text: str) -> str:
    """The first JSON value of a text, whatever follows, without the fence of a code block before it; all of it where
    none is read."""
    text = text.lstrip().removeprefix("```json").removeprefix("```").lstrip()
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]]
    except (ValueError, RecursionError):
        return text


def judged(schema: Mapping[str, Any], text: str) -> str:
    """What is wrong with a text under a schema; empty where it is valid."""
    try:
        value = json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}"[:200]
    judge = validator_for(schema, jsonschema.Draft202012Validator)(schema, format_checker=FORMATS)
    fault = jsonschema.exceptions.best_match(judge.iter_errors(value))
    return "" if fault is None else f"{fault.json_path}: {fault.message}"[:200]


def no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def summed_up(rows: Sequence[Row]) -> dict[str, Any]:
    """levels: per level and way the measures, all: over them. added_ms: how much longer AR takes for a token after the
    first under a constraint, by the wall, on the same schemas. refusals, faults: schema and way -> why. finish: per way
    how answers ended."""
    answered = [row for row in rows if "refused" not in row]
    levels = [level for level in LEVELS if any(row["kind"] == level for row in answered)]
    found: dict[str, Any] = {level: by_way([r for r in answered if r["kind"] == level], list(WAYS)) for level in levels}
    own = {way: {(r["kind"], r["schema"]): r for r in answered if r["way"] == way} for way in (FREE, AR)}
    both = [key for key in own[FREE] if key in own[AR]]
    added = difference(*(pairs_of("later_ms", [own[way][key] for key in both]) for way in (FREE, AR))) if both else None
    names = {id(row): f"{row['kind']}/{row['schema']}, {row['way']}" for row in rows}
    return {
        "levels": found,
        "all": by_way(answered, list(WAYS)),
        "added_ms": added,
        "refusals": {names[id(row)]: row["refused"] for row in rows if "refused" in row},
        "faults": {names[id(row)]: row["fault"] for row in answered if row["fault"] and row["way"] != FREE},
        "finish": {way: dict(Counter(r["finish"] for r in answered if r["way"] == way)) for way in WAYS},
    }


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `run` found."""
    settings = found["settings"]
    title = f"{found['model']}: {settings['schemas']} schemas, at most {settings['max_tokens']} tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for way, numbers in found["all"].items():
        table.add_row(way, *(shown(name, numbers[name]["value"]) if name in numbers else "" for name in COLUMNS))
    yield table
    table = Table(title="valid, by level", title_justify="left", caption_justify="left")
    for heading in ("", *found["levels"]):
        table.add_column(heading, justify="right" if heading else "left")
    for way in found["all"]:
        shares = (ways.get(way, {}).get("obeys") for ways in found["levels"].values())
        table.add_row(way, *("" if share is None else f"{100 * share['value']:.0f} %" for share in shares))
    if found["added_ms"] is not None:
        table.caption = "AR takes {change:+.2f} ms more a token ({low:+.2f} to {high:+.2f})".format(**found["added_ms"])
    yield table
    table = Table(title="how answers ended, and what was refused or is invalid", title_justify="left")
    table.add_column("")
    table.add_column("")
    for way, ends in found["finish"].items():
        table.add_row(way, ", ".join(f"{count} {reason}" for reason, count in ends.items()))
    for name, why in {**found["refusals"], **found["faults"]}.items():
        table.add_row(name, why)
    yield table


SUITE = Suite(Settings, run, tables, exactness="exact")
