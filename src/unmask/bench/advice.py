"""What mode `auto` should do on this machine with this model, out of measured samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unmask.bench.plan import Way
from unmask.bench.session import Sample, medians
from unmask.decoding.auto import Advice


def advise(
    samples: Sequence[Sample], load: str, ways: Sequence[Way], profile: Sequence[float], together: Sequence[Sample] = ()
) -> Advice | None:
    """Of a load's fixed ways the one that lost least: whose speed, against the best of the same kind of prompt, is
    highest where it is worst. None where no way that drafts was measured, one request at a time.

    A single setting for all kinds, because a request does not say of which kind it is; within it, adaptivespec adapts.
    together: samples of several requests at a time, where those are others than `samples`.
    """
    mine = [one for one in samples if one["load"] == load]
    speeds = {
        (row["way"], row["kind"]): row["speed"] for row in medians(mine) if row["batch"] == 1 and row.get("speed")
    }
    worst = {way.name: least(speeds, way.name) for way in ways if way.fixed}
    measured = {name: share for name, share in worst.items() if share is not None}
    if measured.keys() <= {"ar"}:
        return None
    best = max(measured, key=lambda name: measured[name])
    strategy, block = next(way.strategy for way in ways if way.name == best)
    return Advice(strategy, block, tuple(profile), ar_from(together or samples, load, ways))


def least(speeds: dict[tuple[str, str], float], way: str) -> float | None:
    """The way's smallest share of the best speed of a kind; None where it lacks a kind."""
    kinds = {kind for _, kind in speeds}
    if not kinds or any((way, kind) not in speeds for kind in kinds):
        return None
    return min(speeds[way, kind] / max(speeds[other] for other in speeds if other[1] == kind) for kind in kinds)


def ar_from(samples: Sequence[Sample], load: str, ways: Sequence[Way]) -> int | None:
    """From how many concurrent requests on AR had the highest throughput, there and in all larger numbers that were
    measured; None where it had not at the largest, or nothing else was measured."""
    fixed = {way.name for way in ways if way.fixed}
    speeds = dict[int, dict[str, dict[str, float]]]()
    for row in medians([one for one in samples if one["load"] == load and one["way"] in fixed]):
        speeds.setdefault(row["batch"], {}).setdefault(row["way"], {})[row["kind"]] = row["throughput"]
    found = None
    for batch in sorted(speeds, reverse=True):
        plain = speeds[batch].pop("ar", {})
        others = [sum(way.values()) for way in speeds[batch].values() if way.keys() == plain.keys()]
        if not others or sum(plain.values()) < max(others):
            break
        found = batch
    return found


def crossover(
    samples: Sequence[Sample], load: str, ways: Sequence[Way], together: Sequence[Sample] = ()
) -> dict[str, Any]:
    """Where AR wins: in answers of fewer tokens than `ahead_from` (by way and kind), and with `ar_from` requests at a
    time or more."""
    drafting = {way.name for way in ways if way.fixed and way.name != "ar"}
    mine = [one for one in samples if one["load"] == load and one["batch"] == 1 and one["way"] in drafting]
    short = {f"{row['way']}, {row['kind']}": row.get("ahead_from") for row in medians(mine)}
    return {"ahead_from": short, "ar_from": ar_from(together or samples, load, ways)}
