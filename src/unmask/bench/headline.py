"""The rows that issue 6 asks for, each a median of paired ratios of one run: numerator and denominator of a pair were
measured on the same prompt, one soon after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from unmask.bench.plan import LLAMA, TRANSFORMERS, Way
from unmask.bench.session import Sample, medians

# Names of loads (`plan.load_of`).
BF16, QUANTISED = "bfloat16", ("bfloat16 int8", "bfloat16 int4")


@dataclass(frozen=True, slots=True)
class Goal:
    """A row. at_least: else it is an upper limit. loads, peers: of ours and of others, whom it needs."""

    what: str
    bound: float
    at_least: bool = True
    loads: tuple[str, ...] = (BF16,)
    peers: tuple[str, ...] = ()


ALL = (BF16, *QUANTISED)
GOALS = {
    "ar": Goal("our AR, bf16, against transformers bf16", 3.0, peers=(TRANSFORMERS,)),
    "ar-quantised": Goal("our AR, best quantisation, against llama.cpp Q4_1", 1.2, loads=QUANTISED, peers=(LLAMA,)),
    "code": Goal("adaptive self-speculation, code, against llama.cpp Q4_1 AR", 3.5, loads=ALL, peers=(LLAMA,)),
    "chat": Goal("adaptive self-speculation, chat, against llama.cpp Q4_1 AR", 2.5, loads=ALL, peers=(LLAMA,)),
    "code-transformers": Goal(
        "adaptive self-speculation, code, against transformers bf16", 12.0, loads=ALL, peers=(TRANSFORMERS,)
    ),
    "auto": Goal("auto against our best fixed setting, every prompt kind", 0.95),
    "rows": Goal("32-row forward against 1-row forward, bf16", 1.25, at_least=False),
    "floor": Goal("1-row bf16 forward against (bytes read / measured bandwidth)", 1.3, at_least=False),
    "concurrent": Goal("16 concurrent requests against one after the other, total tokens/s", 4.0),
    "memory": Goal("peak memory against weights + KV cache", 1.35, at_least=False),
}


def goal(name: str) -> Goal:
    if name not in GOALS:
        raise ValueError(f"row must be one of {', '.join(GOALS)}, got {name!r}")
    return GOALS[name]


def ratios(samples: Sequence[Sample], one: Callable[[Sample], bool], other: Callable[[Sample], bool]) -> list[float]:
    """Speed of the samples that `one` takes over that of those that `other` takes, of the same round and prompt."""

    def of(chosen: Callable[[Sample], bool]) -> dict[tuple[Any, ...], float]:
        return {(s["kind"], s["round"], s["prompt"]): s["speed"] for s in samples if s["batch"] == 1 and chosen(s)}

    above, below = of(one), of(other)
    return [above[key] / below[key] for key in above if below.get(key)]


def fastest(samples: Sequence[Sample], loads: Sequence[str], way: str, kind: str | None = None) -> str | None:
    """The load with the highest median speed of a way, over the kinds."""
    speeds = dict[str, list[float]]()
    for row in medians([s for s in samples if s["load"] in loads and s["way"] == way and s["batch"] == 1]):
        if kind in (None, row["kind"]):
            speeds.setdefault(row["load"], []).append(row["speed"])
    return max(speeds, key=lambda load: median(speeds[load]), default=None)


def against(
    samples: Sequence[Sample], loads: Sequence[str], way: str, peer: str, kind: str | None = None
) -> tuple[list[float], str]:
    """Paired ratios of the fastest of our loads, and what was compared."""
    load = fastest(samples, loads, way, kind)
    if load is None:
        return [], f"{way} was not measured"
    found = ratios(
        samples,
        lambda s: (s["load"], s["way"]) == (load, way) and kind in (None, s["kind"]),
        lambda s: (s["load"], s["way"]) == (peer, "plain"),
    )
    return found, f"{way} on {load}"


def auto_against_best(samples: Sequence[Sample], load: str, ways: Sequence[Way]) -> tuple[list[float], str]:
    """auto over the fixed way with the highest median, in the kind where that is worst. The best of several noisy
    medians is taken, so what is found is rather too low than too high."""
    fixed = {way.name for way in ways if way.fixed}
    worst: tuple[list[float], str] = [], "auto was not measured"
    rows = [row for row in medians(samples) if row["load"] == load and row["batch"] == 1 and row["way"] in fixed]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        best = max((row for row in rows if row["kind"] == kind), key=lambda row: row["speed"])["way"]
        found = ratios(
            samples,
            lambda s, kind=kind: (s["load"], s["way"], s["kind"]) == (load, "auto", kind),  # type: ignore[misc]
            lambda s, kind=kind, best=best: (s["load"], s["way"], s["kind"]) == (load, best, kind),  # type: ignore[misc]
        )
        if found and (not worst[0] or median(found) < median(worst[0])):
            worst = found, f"{kind}, where {best} is best"
    return worst


def values(
    name: str,
    samples: Sequence[Sample],
    ways: Sequence[Way],
    rounds: Sequence[Mapping[str, Any]],
    memory: Mapping[str, float] | None,
    together: Sequence[Sample],
) -> tuple[list[float], str]:
    """All values of a row, whose median counts, and what they are of.

    rounds: per round the seconds of forwards by rows ("forwards"), the bytes of a one-row forward and the bandwidth.
    """
    wanted = GOALS[name]
    adaptive = next((way.name for way in reversed(ways) if way.name.startswith("adaptivespec")), "adaptivespec")
    if name in ("ar", "ar-quantised"):
        return against(samples, wanted.loads, "ar", wanted.peers[0])
    if wanted.peers:
        return against(samples, wanted.loads, adaptive, wanted.peers[0], name.split("-")[0])
    if name == "auto":
        return auto_against_best(samples, BF16, ways)
    if name == "rows":
        return [one["forwards"][32] / one["forwards"][1] for one in rounds], "median of the rounds"
    if name == "floor":
        return [
            one["forwards"][1] / (one["bytes"] / one["bandwidth"]) for one in rounds if one["bandwidth"]
        ], "median of the rounds"
    if name == "concurrent":
        found = [s for s in together if "ratio" in s and s["way"] == "ar"]
        return [s["ratio"] for s in found], f"ar on bfloat16, {found[0]['batch'] if found else 0} at a time"
    if memory is None:
        return [], "was not measured"
    share = memory["peak"] / (memory["weights"] + memory["cache"])
    return [share], f"peak {memory['peak'] / 2**20:.0f} MiB of bfloat16, without the adapter's own weights"


def rows(
    names: Sequence[str],
    samples: Sequence[Sample],
    ways: Sequence[Way],
    rounds: Sequence[Mapping[str, Any]],
    memory: Mapping[str, float] | None,
    together: Sequence[Sample],
    absent: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The table: per row what was asked for and found, whether that is enough, and why there is no number if so."""
    table = list[dict[str, Any]]()
    for name in names:
        wanted = GOALS[name]
        found, of = values(name, samples, ways, rounds, memory, together)
        row: dict[str, Any] = {"row": name, "what": wanted.what, "bound": wanted.bound, "at_least": wanted.at_least}
        missing = [f"{load}: {absent[load]}" for load in (*wanted.peers, *wanted.loads) if load in absent]
        if found:
            middle = median(found)
            met = middle >= wanted.bound if wanted.at_least else middle <= wanted.bound
            row |= {"found": middle, "low": min(found), "high": max(found), "pairs": len(found), "met": met, "of": of}
        else:
            row |= {"found": None, "met": None, "of": "; ".join(missing) or of}
        table.append(row)
    return table
