"""The two benchmarks: the headline table, and a grid of modes, blocks, thresholds, batches and loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from unmask.bench import headline
from unmask.bench.advice import advise, crossover
from unmask.bench.plan import (
    AR,
    AUTO,
    Caller,
    Cell,
    Load,
    Prompt,
    Text,
    Way,
    fixed_ways,
    grid_ways,
    load_of,
    peer_loads,
    peer_ways,
)
from unmask.bench.session import Progress, Sample, Session, concurrent, measure, medians, prompts_of, silent
from unmask.bench.worker import PeerError, Remote

CALIBRATION = 2  # prompts of each kind that warm everything up and tell `auto` what to do; none of them is measured
FORWARD_ROWS = (1, 32)
MEMORY = "memory"

Start = Callable[[Load], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """rounds: samples of each cell and kind, each on a prompt of its own. tokens: most new ones. rows: of the headline,
    all if empty. requests: at a time, in the row that is about them. context: rows that a timed forward sees. keep:
    leave what is recommended for mode `auto`. The rest: of the grid."""

    model: str
    rounds: int = 5
    tokens: int = 256
    kinds: tuple[str, ...] = ("code", "chat", "editing")
    seed: int = 0
    threads: int = 1
    rows: tuple[str, ...] = ()
    requests: int = 16
    context: int = 512
    keep: bool = True
    modes: tuple[str, ...] = ("ar", "linearspec", "quadspec", "adaptivespec", "auto", "fastdiffuser")
    blocks: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = (0.9,)
    batches: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ()
    quantize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("tokens", 8), ("threads", 1), ("requests", 2), ("context", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("blocks", "batches"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be at least 1, got {min(getattr(self, name))}")
        if not self.kinds or not self.batches:
            raise ValueError("kinds and batches must not be empty")
        for row in self.rows:
            headline.goal(row)
        grid_ways(self.modes, (), ())


def remote(threads: int) -> Start:
    """Start each load in a process of its own."""
    return lambda load: Remote(load.peer, dict(load.settings), threads)


@contextmanager
def session(loads: Sequence[Load], start: Start, progress: Progress) -> Iterator[Session]:
    """All peers that can be started, ended in every case."""
    peers, absent = dict[str, Caller](), dict[str, str]()
    started = list[Any]()
    try:
        for i, load in enumerate(loads):
            progress(f"loading {load.name}", i, len(loads))
            try:
                peers[load.name] = start(load)
                started.append(peers[load.name])
            except PeerError as error:
                absent[load.name] = str(error)
        yield Session(peers, absent, progress)
    finally:
        for peer in started:
            peer.close()


def run_headline(
    settings: Settings,
    texts: Mapping[str, Sequence[Text]],
    more: Mapping[str, Any],
    start: Start | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Every row of issue 6, or the chosen ones, in one run. texts: of each kind, as many as there are. more: settings
    of every load of ours. start: how a load becomes a peer."""
    names = settings.rows or tuple(headline.GOALS)
    ours = [load_of(settings.model, *pair, more) for pair in headline_loads(names)]
    wanted = {peer for name in names for peer in headline.GOALS[name].peers}
    peers = [load for load in peer_loads(settings.model, settings.threads) if not settings.rows or load.name in wanted]
    machine = [Load(MEMORY, "machine")] if "floor" in names else []
    with session([*ours, *peers, *machine], start or remote(settings.threads), progress) as on:
        about, prompts, ways = prepared(on, ours, settings, texts)
        timed = needed(ways, names)
        cells = [Cell(load.name, way) for load in ours for way in timed]
        cells += [Cell(load.name, way) for load in peers for way in peer_ways(load)]
        kept = calibrated(on, [cell for cell in cells if cell.way != AUTO], ours, ways, prompts, settings)
        samples = measure(
            on, cells, {kind: pool[: settings.rounds] for kind, pool in prompts.items()}, range(settings.rounds)
        )
        rounds = limits(on, ours[0].name, settings) if {"rows", "floor"} & set(names) else []
        together = list[Sample]()
        if "concurrent" in names:
            few = [Cell(ours[0].name, way, settings.requests) for way in (AR, *ways[1:][-1:])]
            pool = [prompt for pair in zip(*prompts.values(), strict=False) for prompt in pair]
            together = concurrent(on, few, pool, settings.rounds, settings.tokens)
        memory = on.ask(ours[0].name, "memory") if "memory" in names else None
        table = headline.rows(names, samples, ways, rounds, memory, together, on.absent)
        found = whole("headline", settings, about, on, prompts, samples, kept)
        return {
            **found,
            "headline": table,
            "forwards": rounds,
            "memory": memory,
            "together": together,
            **concluded(on, ours, ways, [*kept, *samples], together, settings),
        }


def run_grid(
    settings: Settings,
    texts: Mapping[str, Sequence[Text]],
    more: Mapping[str, Any],
    start: Start | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Every mode with every block, threshold, batch and load, on every kind of prompt."""
    pairs = list(product(settings.dtypes or (None,), settings.quantize or (None,)))
    ours = [load_of(settings.model, dtype, None if bits == "none" else bits, more) for dtype, bits in pairs]
    with session(ours, start or remote(settings.threads), progress) as on:
        about, prompts, _ = prepared(on, ours, settings, texts)
        trained = next(iter(about.values()))["draft_block_size"]
        ways = grid_ways(settings.modes, settings.blocks or (trained,), settings.thresholds)
        if not next(iter(about.values()))["drafts"]:
            ways = [way for way in ways if way in (AR, AUTO)]
        single = [Cell(load.name, way) for load in ours for way in ways if way != AUTO]
        kept = calibrated(on, single, ours, ways, prompts, settings)
        cells = [Cell(load.name, way, batch) for load in ours for way in ways for batch in settings.batches]
        samples = measure(
            on, cells, {kind: pool[: settings.rounds] for kind, pool in prompts.items()}, range(settings.rounds)
        )
        found = whole("grid", settings, about, on, prompts, samples, kept)
        return {**found, **concluded(on, ours, ways, samples, [], settings)}


def headline_loads(names: Sequence[str]) -> list[tuple[str, str | None]]:
    """(dtype, quantisation) of ours that the rows need; bfloat16 always, which picks the prompts."""
    needed = {load for name in names for load in headline.GOALS[name].loads}
    bits = [load.removeprefix(headline.BF16).strip() for load in headline.QUANTISED if load in needed]
    return [(headline.BF16, None), *((headline.BF16, each) for each in bits)]


def needed(ways: Sequence[Way], names: Sequence[str]) -> list[Way]:
    """Of the fixed ways and `auto` those that the rows are about. AR is the first one, the default draft the last."""
    if "auto" in names:
        return [*ways, AUTO]
    if set(names) <= {"rows", "floor", "concurrent"}:
        return []
    return [AR, *ways[1:][-1:]] if {"code", "chat", "code-transformers"} & set(names) else [AR]


def prepared(
    on: Session, ours: Sequence[Load], settings: Settings, texts: Mapping[str, Sequence[Text]]
) -> tuple[dict[str, Any], dict[str, list[Prompt]], list[Way]]:
    """(what each peer says of itself, prompts of each kind, fixed ways of the model)."""
    about = {name: on.ask(name, "about") or {} for name in list(on.peers)}
    first = ours[0].name
    if first not in on.peers:
        raise ValueError(f"{first} cannot run: {on.absent[first]}")
    prompts = dict[str, list[Prompt]]()
    for i, kind in enumerate(settings.kinds):
        on.progress(f"choosing {kind} prompts", i, len(settings.kinds))
        count = settings.rounds + CALIBRATION
        prompts[kind] = prompts_of(on.peers[first], texts[kind], count, settings.tokens, about[first]["max_position"])
    ways = fixed_ways(about[first]["draft_block_size"]) if about[first]["drafts"] else [AR]
    return about, prompts, ways


def calibrated(
    on: Session,
    cells: Sequence[Cell],
    ours: Sequence[Load],
    ways: Sequence[Way],
    prompts: Mapping[str, Sequence[Prompt]],
    settings: Settings,
) -> list[Sample]:
    """Run everything on prompts that are not measured, and tell each of our loads what `auto` should do."""
    spare = {kind: pool[settings.rounds :] or pool[-1:] for kind, pool in prompts.items()}
    samples = measure(on, cells, spare, range(max(map(len, spare.values()))))
    for load in ours:
        tell(on, load.name, samples, ways, [], keep=False)
    return samples


def tell(
    on: Session, load: str, samples: Sequence[Sample], ways: Sequence[Way], together: Sequence[Sample], keep: bool
) -> dict[str, Any] | None:
    profile = (on.ask(load, "profile") or {"profile": []})["profile"]
    advice = advise(samples, load, ways, profile, together)
    if advice is None or on.ask(load, "advise", advice=asdict(advice), keep=keep) is None:
        return None
    return asdict(advice)


def concluded(
    on: Session,
    ours: Sequence[Load],
    ways: Sequence[Way],
    samples: Sequence[Sample],
    together: Sequence[Sample],
    settings: Settings,
) -> dict[str, Any]:
    """advice: what `auto` is told from now on; crossover: where AR wins. Per load of ours."""
    advice = {load.name: tell(on, load.name, samples, ways, together, settings.keep) for load in ours}
    return {
        "advice": {load: one for load, one in advice.items() if one},
        "crossover": {load.name: crossover(samples, load.name, ways, together) for load in ours},
    }


def limits(on: Session, load: str, settings: Settings) -> list[dict[str, Any]]:
    """Per round the seconds of forwards by rows and, right after them, the bandwidth."""
    found = list[dict[str, Any]]()
    for number in range(settings.rounds):
        on.progress("timing forwards", number, settings.rounds)
        one = on.ask(load, "forwards", rows=FORWARD_ROWS, context=settings.context)
        memory = on.ask(MEMORY, "bandwidth") or {"bandwidth": None}
        forwards = {int(rows): seconds for rows, seconds in one["seconds"]} if one else {}
        if one and forwards.keys() >= set(FORWARD_ROWS):
            found.append({"forwards": forwards, "bytes": one["bytes"], **memory})
    return found


def whole(
    suite: str,
    settings: Settings,
    about: Mapping[str, Any],
    on: Session,
    prompts: Mapping[str, Sequence[Prompt]],
    samples: Sequence[Sample],
    kept: Sequence[Sample],
) -> dict[str, Any]:
    asked = [
        {
            "kind": kind,
            "name": one.name,
            "prompt_tokens": len(one.ids),
            "tokens": one.tokens,
            "measured": i < settings.rounds,
        }
        for kind, pool in prompts.items()
        for i, one in enumerate(pool)
    ]
    return {
        "suite": suite,
        "settings": {key: value for key, value in asdict(settings).items() if key != "model"},
        "peers": dict(about),
        "absent": dict(on.absent),
        "prompts": asked,
        "calibration_samples": len(kept),
        "medians": medians(samples),
        "samples": list(samples),
    }
