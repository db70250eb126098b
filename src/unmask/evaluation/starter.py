"""Suite `starter`: what a drafter is worth in real greedy decoding, on prompts that it has not seen (issue 4).

Every prompt is answered by AR and then by each way of self-speculation, one request at a time, and by fastdiffuser at
several thresholds. The ways take turns on a prompt, so that a busy machine disturbs them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from unmask.evaluation.bootstrap import LEVEL
from unmask.evaluation.likelihood import scored
from unmask.evaluation.measures import generated, measured, until
from unmask.evaluation.overlap import shared
from unmask.evaluation.pictures import quality_over_speed
from unmask.evaluation.prompts import KINDS, PER_KIND, Prompt, draw, held_out_functions
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.slots import slots_taken
from unmask.evaluation.starter_tables import tables
from unmask.evaluation.stops import HUMAN_EVAL_STOPS, tokens_until
from unmask.evaluation.suite import Job, Suite
from unmask.lm import LM

LINEAR_LOOKUP, LOOKUP, ROWS_FREE = "linearspec + lookup", "adaptivespec + lookup", "adaptivespec + lookup, rows free"
# Forward times by rows of a machine that only waits for memory up to 64 rows, and computes from there on.
FREE_UP_TO_64 = ((1, 1.0), (64, 1.0), (128, 2.0))
# Way -> options. Drafts that are copied from the context (`lookup`, on by default) are no merit of the drafter's, and
# copying is much of what editing is: so linearspec and adaptivespec are run without them and with them. What
# adaptivespec drafts hangs on what rows cost here, so it is run as if they cost nothing as well.
SPECULATION: dict[str, dict[str, Any]] = {
    "linearspec": {"spec_variant": "linearspec", "lookup": 0},
    LINEAR_LOOKUP: {"spec_variant": "linearspec"},
    "quadspec": {"spec_variant": "quadspec"},
    "adaptivespec": {"spec_variant": "adaptivespec", "lookup": 0},
    LOOKUP: {"spec_variant": "adaptivespec"},
    ROWS_FREE: {"spec_variant": "adaptivespec", "costs": FREE_UP_TO_64},
}
THRESHOLDS = (0.5, 0.7, 0.8, 0.9, 0.95)
PARTS = ("all", "speculation", "fastdiffuser")
# What issue 4 asks for: (measure, way) -> least value per kind. A round of linearspec is one draft and one verify; one
# that looks up is a verify alone.
A_ROUND, A_FORWARD = {"code": 4.0, "chat": 3.0, "editing": 5.0}, {"code": 3.6, "chat": 2.7, "editing": 4.5}
TARGETS: dict[tuple[str, str], dict[str, float]] = {
    **{("acceptance_length", way): A_ROUND for way in ("linearspec", LINEAR_LOOKUP)},
    **{("tpf", way): A_FORWARD for way in ("adaptivespec", LOOKUP, ROWS_FREE)},
    **{("same_as_ar", way): dict.fromkeys(KINDS, 1.0) for way in SPECULATION},
}


@dataclass(frozen=True, slots=True)
class Settings:
    """seed: which prompts are drawn. part: of PARTS; AR is always run. limit: only the first so many prompts of each
    kind. max_tokens: most new ones. draft_block_size: of self-speculation. check_data: training data (JSON lines) that
    the prompts are looked for in."""

    seed: int = 0
    part: str = "all"
    limit: int = PER_KIND
    max_tokens: int = 256
    draft_block_size: int = 8
    check_data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {self.part!r}")
        if not 1 <= self.limit <= PER_KIND:
            raise ValueError(f"limit must be between 1 and {PER_KIND}, got {self.limit}")
        for name, least in (("max_tokens", 1), ("draft_block_size", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if missing := next((file for file in self.check_data if not Path(file).is_file()), None):
            raise FileNotFoundError(f"no file {missing} to look for the prompts in")


def ways_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """Name of a way -> options of `measures.generated`; AR first."""
    ways: dict[str, dict[str, Any]] = {"ar": {"mode": "ar"}}
    if settings.part != "fastdiffuser":
        for way, options in SPECULATION.items():
            ways[way] = {"mode": "self-speculation", "draft_block_size": settings.draft_block_size, **options}
    if settings.part != "speculation":
        for threshold in THRESHOLDS:
            ways[diffuser(threshold)] = {"mode": "fastdiffuser", "confidence_threshold": threshold}
    return ways


def diffuser(threshold: float) -> str:
    return f"fastdiffuser {threshold:g}"


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. Raises ValueError for a model that has no mask token."""
    settings: Settings = job.settings
    functions = held_out_functions()
    return run_on(job, [prompt for kind in KINDS for prompt in draw(kind, settings.seed, functions)[: settings.limit]])


def run_on(job: Job, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """`run`, on given prompts."""
    lm, settings, ways = job.lm, job.settings, ways_of(job.settings)
    if lm.traits.mask_id is None:
        raise ValueError("the model names no mask token, so it can neither draft nor denoise: give mask_id")
    model = model_of(lm, job.adapter)
    asked = {key: value for key, value in asdict(settings).items() if key in ("seed", "max_tokens", "draft_block_size")}
    rows = Rows(job.rows, {"suite": "starter", **model, **asked, "block_size": lm.traits.block_size})
    done = list(answered(job, prompts, ways, rows))
    trained_on = shared(prompts, [Path(file) for file in settings.check_data]) if settings.check_data else None
    found: dict[str, Any] = {"suite": "starter", **model, **circumstances(lm)}
    found["settings"] = {**asdict(settings), "prompts": len(prompts), "block_size": lm.traits.block_size}
    found["settings"]["check_data"] = [Path(file).name for file in settings.check_data]
    found |= {"interval": LEVEL, "forward_costs": [list(pair) for pair in lm.engine.costs], "trained_on": trained_on}
    return found | summed_up(lm, done, list(ways)) | {"slots": slots_of(done, settings)}


def answered(job: Job, prompts: Sequence[Prompt], ways: Mapping[str, dict[str, Any]], rows: Rows) -> Iterator[Row]:
    """The row of every prompt in every way: found in the file, or made now."""
    warm, total = set[str](), len(prompts) * len(ways)
    for number, prompt in enumerate(prompts):
        ar = dict[str, Any]()
        for place, (way, options) in enumerate(ways.items()):
            job.progress(f"{prompt.kind}, {way}", number * len(ways) + place, total)
            key = f"{prompt.kind}/{prompt.name}/{way}"
            row = rows.get(key)
            if row is None:
                if way not in warm:  # the first forward of a shape, and the table of costs, are not what is measured
                    generated(job.lm, prompt.ids(job.lm), max_tokens=2, ignore_eos=True, **options)
                    warm.add(way)
                row = rows.add(key, sample(job.lm, prompt, way, options, job.settings.max_tokens, ar))
            ar = ar or row
            yield row


def sample(lm: LM, prompt: Prompt, way: str, options: dict[str, Any], max_tokens: int, ar: Row) -> Row:
    """One prompt answered in one way. ar: the row of AR, empty where this is it.

    same: the ids are AR's. agreement: share of the ids that AR's text has in the same order; agreement_prefix: share of
    AR's ids before the first that differs. log_likelihood: in nats, of the whole answer under AR. repeated: share of
    the tokens that end a run of four which the answer had before. likeness: share of lines in common with the function
    to edit.
    """
    ids = prompt.ids(lm)
    done, row = generated(lm, ids, max_tokens=max_tokens, stop=prompt.stop, **options)
    row = {"kind": prompt.kind, "prompt": prompt.name, "way": way, **row}
    if ar:
        row["same"] = row["ids"] == ar["ids"]
    if ar and way.startswith("fastdiffuser"):
        row["agreement"] = SequenceMatcher(None, ar["ids"], row["ids"], autojunk=False).ratio()
        row["agreement_prefix"] = common_prefix(ar["ids"], row["ids"]) / len(ar["ids"])
    if not ar or way.startswith("fastdiffuser"):
        row["log_likelihood"] = sum(one.log_likelihood for one in scored(lm, ids, done.token_ids))
        row["repeated"] = repeated(row["ids"])
    if prompt.original:
        answer = prompt.begun + done.text
        row["likeness"] = SequenceMatcher(None, prompt.original.split("\n"), answer.split("\n")).ratio()
    return row


def common_prefix(one: Sequence[int], two: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def repeated(ids: Sequence[int], run: int = 4) -> float:
    """Share of the tokens that end a run of `run` tokens which the text had before: near 1 for a text that circles."""
    seen, again = set[tuple[int, ...]](), 0
    for end in range(run, len(ids) + 1):
        again += tuple(ids[end - run : end]) in seen
        seen.add(tuple(ids[end - run : end]))
    return again / max(len(ids), 1)


def summed_up(lm: LM, rows: Sequence[Row], ways: Sequence[str]) -> dict[str, Any]:
    """kinds: per kind and way the measures, and for code those of the function alone, the text up to where a benchmark
    would cut it; all: over the kinds. targets: what was asked for beside what was found."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    per_kind = {kind: by_way([row for row in rows if row["kind"] == kind], ways) for kind in kinds}
    if "code" in kinds:
        code = [row for row in rows if row["kind"] == "code" and not row["way"].startswith("fastdiffuser")]
        per_kind["code, function alone"] = by_way(list(cut(lm, code)), ways)
    return {"kinds": per_kind, "all": by_way(rows, ways), "targets": list(targets(per_kind))}


def slots_of(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Per kind, in how many rounds of linearspec each slot of the draft was taken; empty where it was not run."""
    mine = {kind: [row for row in rows if (row["kind"], row["way"]) == (kind, "linearspec")] for kind in KINDS}
    drafted = settings.draft_block_size - 2  # without the seed, and the slot of the verifier's own token
    return {kind: slots_taken(some, drafted, settings.max_tokens) for kind, some in mine.items() if some}


def by_way(rows: Sequence[Row], ways: Sequence[str]) -> dict[str, Any]:
    split = {way: [row for row in rows if row["way"] == way] for way in ways}
    return {way: measured(mine) for way, mine in split.items() if mine}


def cut(lm: LM, rows: Sequence[Row]) -> Iterator[Row]:
    """The rows as if each had ended where the function does, without those that end in the prefill.

    Rounds of linearspec with lookup are one forward or two, and which were which is not recorded: they are left out.
    """
    for row in rows:
        tokens = tokens_until(lm.tokenizer, row["ids"], HUMAN_EVAL_STOPS)
        if tokens > row["prefill_tokens"]:
            counts = until(row, tokens)
            if row["way"] == LINEAR_LOOKUP:
                del counts["rounds"]
            yield {"way": row["way"], **counts}


def targets(per_kind: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for (measure, way), least in TARGETS.items():
        for kind, target in least.items():
            found = per_kind.get(kind, {}).get(way, {}).get(measure)
            if found is not None:
                what = {"measure": measure, "way": way, "kind": kind, "target": target}
                yield what | {"found": found["value"], "mean": found["mean"], "met": found["value"] >= target}


SUITE = Suite(Settings, run, tables, exactness="exact", picture=quality_over_speed)
