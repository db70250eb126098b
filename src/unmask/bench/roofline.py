"""The roofline of a model: what forwards of some rows must cost, what they do cost here, and what each mode can reach.

Plain data in and out, so that tables, pictures and JSON are made of the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unmask.bench.roofs import Roof
from unmask.bench.work import forward
from unmask.config import ModelConfig
from unmask.lm import LM
from unmask.model import families, store
from unmask.model.checkpoint import open_checkpoint
from unmask.model.files import read_json

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
BLOCKS = (8, 32)


def floors(
    roof: Roof,
    config: ModelConfig,
    dtype: str,
    quantize: str | None,
    context: int,
    rows: Sequence[int] = ROWS,
    measured: dict[int, float] | None = None,
) -> list[dict[str, Any]]:
    """Per row count: bytes, FLOPs, FLOPs per byte, the floor in seconds and what sets it; where measured, the time that
    was taken and how often the floor fits into it."""
    found = list[dict[str, Any]]()
    for count in rows:
        work = forward(config, dtype, quantize, rows=count, context=context)
        floor = roof.seconds(work, dtype, quantize)
        limit = "memory" if roof.reading(work) >= roof.computing(work, dtype, quantize) else "arithmetic"
        line: dict[str, Any] = {"rows": count, "bytes": work.bytes, "flops": work.flops, "intensity": work.intensity}
        line |= {"floor_seconds": floor, "limit": limit}
        if measured and count in measured:
            line |= {"seconds": measured[count], "times_floor": measured[count] / floor}
        found.append(line)
    return found


def config_of(name: str) -> ModelConfig:
    """A model's sizes, without its weights; of a folder its config.json is enough."""
    path = store.resolve(name)
    file = path / "config.json"
    return families.config_from_hf(read_json(file))[0] if file.exists() else open_checkpoint(path).config


def times(lm: LM, context: int, rows: Sequence[int] = ROWS) -> dict[int, float]:
    """Seconds of a forward of so many rows after `context` rows, measured on a loaded model; rows that it has no room
    for are left out."""
    return dict(lm.engine.timed(rows, kept=context))


def predictions(
    roof: Roof,
    config: ModelConfig,
    dtype: str,
    quantize: str | None,
    context: int,
    blocks: Sequence[int] = BLOCKS,
    tpf: float | None = None,
    acceptance: float | None = None,
) -> list[dict[str, Any]]:
    """What each mode could reach if every forward took its floor, with blocks of so many tokens.

    Per mode and block: the rows of its forwards, the seconds of one forward (fastdiffuser) or of one round (the rest),
    and how many tokens that has to bring to be as quick as AR. tokens_per_second: for AR; for fastdiffuser where `tpf`
    (tokens per forward) is given; for self-speculation where `acceptance` (tokens per round) is. The first forward of a
    block of fastdiffuser commits the block before it, too: twice the rows. linearspec drafts in a forward of B + 1
    rows, AR's own among them, and verifies in one of B - 1; quadspec does both in one of B (B + 1). Picking, tokenizing
    and scheduling cost nothing here.
    """

    def seconds(rows: int) -> float:
        return roof.seconds(forward(config, dtype, quantize, rows=rows, context=context), dtype, quantize)

    found: list[dict[str, Any]] = [line("ar", 1, [1], seconds(1), seconds(1), 1.0)]
    for block in blocks:
        steps = max(block / tpf, 1.0) if tpf else None
        each = (seconds(2 * block) + (steps - 1) * seconds(block)) / steps if steps else seconds(block)
        found.append(
            line("fastdiffuser", block, [2 * block, block], each, seconds(1), block / steps if steps else None)
        )
        tokens = min(acceptance, float(block)) if acceptance else None
        for mode, rows in (("linearspec", [block + 1, max(block - 1, 1)]), ("quadspec", [block * (block + 1)])):
            found.append(line(mode, block, rows, sum(map(seconds, rows)), seconds(1), tokens))
    return found


def line(mode: str, block: int, rows: list[int], seconds: float, one: float, tokens: float | None) -> dict[str, Any]:
    """seconds: of what brings so many tokens; one: of a token in AR."""
    speed = {"tokens_per_second": tokens / seconds, "times_ar": tokens / seconds * one} if tokens else {}
    return {"mode": mode, "block": block, "rows": rows, "seconds": seconds, "break_even": seconds / one, **speed}


def attainable(roof: Roof, kind: str, intensity: float) -> float:
    """FLOP/s under the roof at so many FLOPs per byte."""
    return min(roof.bandwidth * intensity, roof.rate(kind))


def points(lines: Sequence[dict[str, Any]]) -> list[tuple[int, float, float]]:
    """(rows, FLOPs per byte, FLOP/s reached) of the forwards that were measured."""
    return [(row["rows"], row["intensity"], row["flops"] / row["seconds"]) for row in lines if "seconds" in row]
