"""Suite `revision`: does taking tokens back help where each step builds on the one before? Chains of sums and of texts
that are rewritten, by AR, by diffusion and by diffusion that may revise, at the same number of forwards.

A block of B tokens costs AR B forwards; diffusion places one token a forward; revision places several at once and may
spend what that saves on taking back, B forwards in all (`Diffusion.steps`). It acts within the open block alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.table import Table

from unmask.evaluation.bootstrap import LEVEL, difference
from unmask.evaluation.chains import KINDS, Chain, check, draw, prompt
from unmask.evaluation.measures import generated, pairs_of
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.starter import by_way
from unmask.evaluation.starter_tables import table_of
from unmask.evaluation.suite import Job, Suite
from unmask.evaluation.together import check_at_once, together

END = "\n\n"  # of an answer
MOST = 500
COLUMNS = {
    "passed": "last step right",
    "right_steps": "steps right",
    "valid_steps": "steps that follow",
    "nfe": "forwards",
    "tokens": "tokens",
    "revisions": "taken back",
}
PAIRS = (("ar", "diffusion"), ("diffusion", "revision"), ("ar", "revision"), ("diffusion, half", "revision, half"))


@dataclass(frozen=True, slots=True)
class Settings:
    """seed: of the chains. limit: chains of each kind. shots: examples before each. max_tokens: of an answer.
    confidence_threshold, revision_threshold, max_revisions: of the ways that revise. at_once: answers in hand at once.
    """

    seed: int = 0
    limit: int = 40
    shots: int = 3
    max_tokens: int = 96
    confidence_threshold: float = 0.7
    revision_threshold: float = 0.5
    max_revisions: int = 2
    at_once: int = 8

    def __post_init__(self) -> None:
        for name, least, most in (
            ("limit", 1, MOST),
            ("shots", 0, 8),
            ("max_tokens", 1, 1024),
            ("max_revisions", 1, 64),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be between {least} and {most}, got {getattr(self, name)}")
        check_at_once(self.at_once)
        for name in ("confidence_threshold", "revision_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


def ways_of(settings: Settings, block_size: int) -> dict[str, dict[str, Any]]:
    """Name of a way -> options of `LM.generate`. half: so many forwards per block as half its tokens."""
    half = max(block_size // 2, 1)
    revising = {
        "mode": "fastdiffuser",
        "confidence_threshold": settings.confidence_threshold,
        "revision_threshold": settings.revision_threshold,
        "max_revisions": settings.max_revisions,
    }
    return {
        "ar": {"mode": "ar"},
        "diffusion": {"mode": "fastdiffuser", "schedule": True, "steps": block_size},
        "revision": {**revising, "steps": block_size},
        "diffusion, half": {"mode": "fastdiffuser", "schedule": True, "steps": half},
        "revision, half": {**revising, "steps": half},
    }


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. ValueError for a model that has no mask token."""
    settings: Settings = job.settings
    return run_on(job, [draw(kind, settings.seed, number) for number in range(settings.limit) for kind in KINDS])


def run_on(job: Job, chains: Sequence[Chain]) -> dict[str, Any]:
    """`run`, on given chains."""
    lm, settings = job.lm, job.settings
    if lm.traits.mask_id is None:
        raise ValueError("the model names no mask token, so it cannot denoise: give mask_id")
    ways = ways_of(settings, lm.traits.block_size)
    model = model_of(lm, job.adapter)
    asked = {key: value for key, value in asdict(settings).items() if key not in ("limit", "at_once")}
    rows = Rows(job.rows, {"suite": "revision", **model, **asked, "block_size": lm.traits.block_size})
    work = {
        f"{chain.name}/{way}": partial(sample, job, chain, way, options)
        for chain in chains
        for way, options in ways.items()
    }
    done = together(rows, work, settings.at_once, lambda done: job.progress("answers", len(done), len(work)))
    found: dict[str, Any] = {"suite": "revision", **model, **circumstances(lm), "interval": LEVEL}
    found["settings"] = {**asdict(settings), "chains": len(chains), "block_size": lm.traits.block_size}
    return found | summed_up(done, list(ways))


def sample(job: Job, chain: Chain, way: str, options: Mapping[str, Any]) -> Row:
    settings = job.settings
    ids = job.lm.encode(prompt(chain, settings.seed, settings.shots))
    done, row = generated(job.lm, ids, max_tokens=settings.max_tokens, stop=(END,), **options)
    checked = check(chain, done.text)
    row |= {"passed": checked.last, "right": checked.right, "valid": checked.valid, "steps": checked.steps}
    return {"kind": chain.kind, "chain": chain.name, "way": way, **row, "revisions": done.stats.revisions}


def summed_up(rows: Sequence[Row], ways: Sequence[str]) -> dict[str, Any]:
    """kinds: per kind and way the measures, all: over both. by_steps: share of right last steps by length of the chain.
    differences: of the last step being right, on the same chains, per pair of ways."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    lengths = sorted({row["steps"] for row in rows})
    by_steps = dict[str, dict[str, float]]()
    for way in ways:
        own = {n: [row["passed"] for row in rows if (row["way"], row["steps"]) == (way, n)] for n in lengths}
        by_steps[way] = {str(n): sum(passed) / len(passed) for n, passed in own.items()}
    changes = dict[str, Any]()
    for one, two in PAIRS:
        before, after = ([row for row in rows if row["way"] == way] for way in (one, two))
        changes[f"{two} against {one}"] = difference(pairs_of("passed", before), pairs_of("passed", after))
    found = {kind: by_way([row for row in rows if row["kind"] == kind], ways) for kind in kinds}
    return {"kinds": found, "all": by_way(rows, ways), "by_steps": by_steps, "differences": changes}


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `run` found."""
    for kind, ways in {**found["kinds"], "all": found["all"]}.items():
        yield table_of(f"{kind}: {found['settings']['chains']} chains in all", COLUMNS, ways, found["interval"])
    table = Table(title="last step right, by number of steps", title_justify="left")
    table.add_column("")
    for steps in next(iter(found["by_steps"].values())):
        table.add_column(steps, justify="right")
    for way, shares in found["by_steps"].items():
        table.add_row(way, *(f"{100 * share:.0f} %" for share in shares.values()))
    yield table
    table = Table(title="last step right: paired differences", title_justify="left")
    for heading in ("", "change", ""):
        table.add_column(heading)
    for pair, change in found["differences"].items():
        shown = (100 * change[key] for key in ("change", "low", "high"))
        table.add_row(pair, "{:+.1f} points ({:+.1f} to {:+.1f})".format(*shown), "sure" if change["sure"] else "")
    yield table


SUITE = Suite(Settings, run, tables, exactness="exact")
