"""Suite `light`: how many tokens a forward could place if an oracle said which predictions are right, beside what each
way to decode reaches on the same prompts (the speed of light of Nemotron-Labs-Diffusion, arXiv 2607.05722, section 4).

The text that an oracle aims at is that of serial denoising, one token a forward, the surest first. It is compared with
the block as it stands, so the bound is of denoising this text, not of every text that the model might have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from unmask.engine.scheduler import Job as Forward
from unmask.evaluation.bootstrap import LEVEL
from unmask.evaluation.likelihood import causal, memory
from unmask.evaluation.measures import generated
from unmask.evaluation.prompts import KINDS, PER_KIND, Prompt, draw, held_out_functions
from unmask.evaluation.record import circumstances, model_of
from unmask.evaluation.rows import Row, Rows
from unmask.evaluation.schedules import Found, shortest
from unmask.evaluation.starter import SPECULATION, answered, by_way, diffuser
from unmask.evaluation.starter_tables import COLUMNS, table_of
from unmask.evaluation.stops import tokens_until
from unmask.evaluation.suite import Job, Suite
from unmask.lm import LM
from unmask.types import Ids, Plan, Read, Request, Span

THRESHOLDS = (0.5, 0.7, 0.9)
SMALLEST = 4  # tokens of the smallest block that is measured
ROWS = 128  # of a forward of the search: more are no cheaper each


@dataclass(frozen=True, slots=True)
class Settings:
    """seed: which prompts of the starter suite are drawn. limit: so many of each kind. max_tokens: most new ones.
    draft_block_size: of self-speculation. budget: states of a block that the search asks about, most of them."""

    seed: int = 0
    limit: int = 4
    max_tokens: int = 64
    draft_block_size: int = 8
    budget: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= PER_KIND:
            raise ValueError(f"limit must be between 1 and {PER_KIND}, got {self.limit}")
        for name, least in (("max_tokens", 1), ("draft_block_size", 2), ("budget", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def run(job: Job) -> dict[str, Any]:
    """All numbers of the suite. ValueError for a model without a mask token, or whose blocks are read in another way.
    Raises ConnectionError where the prompts cannot be had."""
    settings: Settings = job.settings
    functions = held_out_functions()
    return run_on(job, [prompt for kind in KINDS for prompt in draw(kind, settings.seed, functions)[: settings.limit]])


def run_on(job: Job, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """`run`, on given prompts."""
    lm, settings, traits = job.lm, job.settings, job.lm.traits
    if traits.mask_id is None or traits.shift or traits.context == "block":
        raise ValueError("suite light needs a mask token, unshifted logits and finished blocks read causally")
    model, ways, sizes = model_of(lm, job.adapter), ways_of(settings), sizes_of(traits.block_size)
    asked = {key: value for key, value in asdict(settings).items() if key != "limit"}
    rows = Rows(job.rows, {"suite": "light", **model, **asked, "block_size": traits.block_size})
    done = list(answered(job, prompts, ways, rows))
    for number, prompt in enumerate(prompts):
        for place, size in enumerate(sizes):
            job.progress(f"{prompt.kind}, oracle {size}", number * len(sizes) + place, len(prompts) * len(sizes))
            key = f"{prompt.kind}/{prompt.name}/oracle {size}"
            done.append(rows.get(key) or rows.add(key, sample(lm, prompt, size, settings)))
    found: dict[str, Any] = {"suite": "light", **model, **circumstances(lm), "interval": LEVEL}
    found["settings"] = {**asdict(settings), "prompts": len(prompts), "block_sizes": sizes}
    return found | summed_up(done, [*ways, *(title for size in sizes for title in oracles(size))])


def ways_of(settings: Settings) -> dict[str, dict[str, Any]]:
    """Name of a way -> options of `measures.generated`; AR first."""
    drafts = {"mode": "self-speculation", "draft_block_size": settings.draft_block_size}
    diffusers = {diffuser(t): {"mode": "fastdiffuser", "confidence_threshold": t} for t in THRESHOLDS}
    return {"ar": {"mode": "ar"}, **{way: drafts | options for way, options in SPECULATION.items()}, **diffusers}


def sizes_of(block_size: int) -> list[int]:
    """The block size of the checkpoint, halved down to the smallest."""
    sizes = [block_size]
    while sizes[-1] // 2 >= SMALLEST:
        sizes.append(sizes[-1] // 2)
    return sizes


def oracles(size: int) -> tuple[str, str, str]:
    """Ways of an oracle: as found, with a forward more per block for its commit, and taking all that is right."""
    return f"oracle {size}", f"oracle {size}, commits apart", f"oracle {size}, greedy"


def sample(lm: LM, prompt: Prompt, size: int, settings: Settings) -> Row:
    """Serial denoising of one prompt in blocks of `size`, and the shortest schedule of each of its blocks.

    nfe: forwards of these; greedy_nfe: where all that is right is placed at once (or, where that ends in nothing being
    right, one token a forward). proved: blocks of which no shorter schedule exists. forwards: states asked about. The
    commit of a block rides with the first denoise of the next, as in fastdiffuser, and is no forward of its own.
    """
    ids = prompt.ids(lm)
    options: dict[str, Any] = {"mode": "fastdiffuser", "block_size": size, "schedule": True}
    _, serial = generated(lm, ids, max_tokens=settings.max_tokens, **options)
    # Whole blocks, up to the one in which the answer ends.
    end = tokens_until(lm.tokenizer, serial["ids"], prompt.stop) if prompt.stop else len(serial["ids"])
    blocks, room = list[Found](), settings.max_tokens
    tokens = min(-(-max(end, 1) // size) * size, len(serial["ids"]))
    for start in range(0, tokens, size):
        block = Block(tuple(serial["ids"][start : start + size]), min(size, room - start))
        steps = serial["step"][start : start + size]
        order = sorted(range(len(block.target)), key=lambda slot: steps[slot])
        blocks.append(searched(lm, (*ids, *serial["ids"][:start]), block, order, settings.budget))
    return {
        "kind": prompt.kind,
        "prompt": prompt.name,
        "way": f"oracle {size}",
        "ids": serial["ids"][:tokens],
        "tokens": tokens,
        "prefill_tokens": 0,
        "nfe": sum(len(found.steps) for found in blocks),
        "greedy_nfe": sum(
            found.greedy or len(serial["ids"][i * size : (i + 1) * size]) for i, found in enumerate(blocks)
        ),
        "blocks": len(blocks),
        "proved": sum(found.proved for found in blocks),
        "forwards": sum(found.forwards for found in blocks),
        "steps": [[f"{step:x}" for step in found.steps] for found in blocks],
    }


@dataclass(frozen=True, slots=True)
class Block:
    """target: what serial denoising wrote; fewer than the block's `slots` where it ended with a stop id."""

    target: Ids
    slots: int

    def shown(self, state: int, mask: int) -> tuple[Ids, tuple[bool, ...]]:
        """(ids, which of them are masked) where the slots in `state` hold their targets. After a placed end all is
        known, as in fastdiffuser."""
        known = [bool(state >> slot & 1) for slot in range(len(self.target))]
        ids = [token if here else mask for token, here in zip(self.target, known, strict=True)]
        rest, ended = self.slots - len(self.target), known[-1]
        ids += [self.target[-1] if ended else mask] * rest
        return tuple(ids), tuple([not here for here in known] + [not ended] * rest)


def searched(lm: LM, context: Ids, block: Block, order: Sequence[int], budget: int) -> Found:
    """The shortest schedule found for a block after its context."""
    batch, mask, adapter = max(ROWS // block.slots, 1), lm.traits.mask_id, lm.traits.denoise_adapter
    assert mask is not None
    start = len(context)

    def ask(states: Sequence[int]) -> Iterator[list[int]]:
        for first in range(0, len(states), batch):
            spans, reads = list[Span](), list[Read]()
            for state in states[first : first + batch]:
                tokens, masked = block.shown(state, mask)
                wanted = tuple(slot for slot in range(len(block.target)) if masked[slot])
                reads.append(Read(len(spans), wanted, shift=0, detail=True, bans_mask=True))
                spans.append(Span(tokens, start, full=True, adapter=adapter, masked=masked))
            plan = Plan(tuple(spans), tuple(reads))
            rows = iter(lm.engine.runner.run([Forward(Request((0,), 1, traits=lm.traits), plan, start, pages)])[0])
            for read in reads:
                sure = [(row.prob, slot) for slot in read.rows if (row := next(rows)).id == block.target[slot]]
                yield [slot for _, slot in sorted(sure)]

    with lm.lock, memory(lm, start + batch * block.slots) as pages:
        for _ in causal(lm, context, 0, start, start, pages):
            pass
        return shortest(order, lambda states: list(ask(states)), budget, batch)


def summed_up(rows: Sequence[Row], ways: Sequence[str]) -> dict[str, Any]:
    """kinds: per kind and way the measures; all: over the kinds; proved: share of the blocks, per oracle."""
    rows = [*rows, *(other for row in rows if "blocks" in row for other in others(row))]
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    found = {kind: by_way([row for row in rows if row["kind"] == kind], ways) for kind in kinds}
    proved = dict[str, float]()
    for way in ways:
        own = [row for row in rows if row["way"] == way and "blocks" in row]
        if own:
            proved[way] = sum(row["proved"] for row in own) / sum(row["blocks"] for row in own)
    return {"kinds": found, "all": by_way(rows, ways), "proved": proved}


def others(row: Row) -> Iterator[Row]:
    """An oracle's row counted in two more ways."""
    counts = {key: row[key] for key in ("kind", "prompt", "tokens", "prefill_tokens")}
    yield counts | {"way": f"{row['way']}, commits apart", "nfe": row["nfe"] + row["blocks"]}
    yield counts | {"way": f"{row['way']}, greedy", "nfe": row["greedy_nfe"]}


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Tables of what `run` found."""
    for kind, ways in {**found["kinds"], "all": found["all"]}.items():
        columns = {key: COLUMNS[key] for key in ("tpf", "acceptance_length", "tokens_per_second")}
        yield table_of(f"{kind}: at most {found['settings']['max_tokens']} tokens", columns, ways, found["interval"])
    table = Table(title="blocks of which no shorter schedule exists", title_justify="left")
    table.add_column("")
    table.add_column("share", justify="right")
    for way, share in found["proved"].items():
        table.add_row(way, f"{100 * share:.0f} %")
    yield table


SUITE = Suite(Settings, run, tables, exactness="exact")
