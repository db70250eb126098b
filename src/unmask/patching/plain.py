"""A patch as plain data, for JSON on the command line and over HTTP."""

from __future__ import annotations

from typing import Any

from unmask.patching.patch import Patched, Trial
from unmask.patching.series import Mended
from unmask.patching.source import Source
from unmask.types import ByteSpan, Violation

MOST_LEFT = 100  # faults that are listed


def as_object(patched: Patched) -> dict[str, Any]:
    """Everything about a patch. Lines and columns count from 1, columns in characters, the end left out; bytes from 0.

    new_text is the file with the accepted patch, None without one; diff is of the chosen candidate in both cases.
    """
    chosen, source = patched.chosen, patched.before
    judgement = chosen.judgement if chosen is not None else None
    return {
        "file": patched.path,
        "status": patched.status,
        "level": chosen.level if chosen is not None else None,
        "span": place(source, chosen.span) if chosen is not None else None,
        "diff": patched.diff,
        "new_text": patched.data.decode() if patched.accepted else None,
        "diagnostics": {
            "targets": [fault(source, one) for one in patched.targets],
            "fixed": [fault(source, one) for one in judgement.mended] if judgement else [],
            "remaining": [fault(source, one) for one in (judgement.remaining if judgement else patched.targets)],
            "new": [fault(chosen.after, one) for one in chosen.judgement.new] if chosen else [],
        },
        "candidates": [tried(trial) for trial in patched.trials],
        "timings": {"forwards": patched.forwards, "seconds": round(patched.seconds, 3)},
    }


def series_object(mended: Mended) -> dict[str, Any]:
    """Everything about several patches of a file, under the names of `as_object`; patches: each of them by itself.

    left: MOST_LEFT at most; left_out: how many more there are. stopped: why it has ended early, or None.
    """
    each = [as_object(one) for one in mended.patches]
    for one in each:
        del one["new_text"]  # the whole file, many times over
    spent = {name: sum(one["timings"][name] for one in each) for name in ("forwards", "seconds")}
    return {
        "file": mended.path,
        "status": mended.status,
        "mended": mended.mended,
        "diff": mended.diff,
        "new_text": mended.after.data.decode() if mended.accepted else None,
        "left": [fault(mended.after, one) for one in mended.left[:MOST_LEFT]],
        "left_out": max(len(mended.left) - MOST_LEFT, 0),
        "stopped": mended.stopped or None,
        "patches": each,
        "timings": spent | {"seconds": round(spent["seconds"], 3)},
    }


def tried(trial: Trial) -> dict[str, Any]:
    return {
        "level": trial.level,
        "text": trial.text,
        "score": trial.score,
        "edit": trial.edit,
        "accepted": trial.judgement.accepted,
        "reason": trial.judgement.reason or None,
        "detail": trial.judgement.detail or None,
    }


def fault(source: Source, one: Violation) -> dict[str, Any]:
    return {"source": one.source, "code": one.code, "message": one.message, "span": place(source, one.span)}


def place(source: Source, span: ByteSpan) -> dict[str, Any]:
    ends = [point(source, offset) for offset in span]
    return {"bytes": list(span), "start": ends[0], "end": ends[1]}


def point(source: Source, offset: int) -> dict[str, int]:
    line = source.line(offset)
    row = source.row(line)
    return {"line": line, "column": len(source.data[row.start : min(offset, row.end)].decode("utf-8", "ignore")) + 1}


def summary(patched: Patched) -> str:
    """One line for people."""
    chosen, tries = patched.chosen, len(patched.trials)
    cost = f"{tries} candidate{'s' * (tries != 1)}, {patched.forwards} forwards"
    if chosen is None:
        return f"nothing acceptable: the model gave no candidate ({cost})"
    if not patched.accepted:
        return f"nothing acceptable ({cost}); the nearest: {chosen.judgement.detail or chosen.judgement.reason}"
    fixed = ", ".join(dict.fromkeys(map(told, chosen.judgement.mended)))
    why = f"mends {fixed}" if fixed else "no fault was known there, and none is new"
    return f"accepted, level {chosen.level}: {why} ({cost})"


def series_summary(mended: Mended) -> str:
    """One line for people."""
    left = ", ".join(dict.fromkeys(map(told, mended.left))) or "nothing"
    if mended.stopped:
        left = f"not known, as {mended.stopped}"
    tries = sum(len(one.trials) for one in mended.patches)
    cost = f"{tries} candidate{'s' * (tries != 1)}, {sum(one.forwards for one in mended.patches)} forwards"
    return f"{mended.mended} of {len(mended.patches)} faults mended ({cost}); left: {left}"


def told(one: Violation) -> str:
    return one.message if one.message.startswith(one.source) else f"{one.source}: {one.message}"
