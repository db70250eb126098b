"""Traces and recorded streams as one page that replays them (`unmask view`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmask.lm.trace import TRACE_VERSION
from unmask.lm.watching import FRAME_VERSION
from unmask.view.page import page

Event = dict[str, Any]
KNOWN = ("unmask.trace", "unmask.start", "unmask.step", "unmask.end", "unmask.frame")
NO_EVENTS = "there is no generation in it: write one with --trace, or record a server's stream with frames"


def read_events(path: Path) -> list[Event]:
    """The events of a trace file, or of a server's stream that was saved as it came.

    The last line of a run that was killed may be torn; it is left out. Raises ValueError, in one line that names the
    place, for what is neither, or was written by a newer version; OSError as `open`.
    """
    lines = path.read_bytes().split(b"\n")
    found = list[Event]()
    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or line.startswith((b":", b"event:")):
            continue
        line = line.removeprefix(b"data:").strip()
        if line == b"[DONE]":
            continue
        try:
            # A broken model's NaN is no JSON, and nothing that could be shown.
            event = json.loads(line, parse_constant=lambda _: None)
        except ValueError as error:
            if number == len(lines) and found:  # no line end: the writer was stopped in the middle of it
                break
            raise ValueError(f"{path}, line {number}: not a trace: {error}") from None
        if not isinstance(event, dict) or not known(event):
            raise ValueError(f"{path}, line {number}: not an event of a trace or of a stream")
        check_version(event, f"{path}, line {number}")
        found.append(event)
    if not any(event.get("object") == "unmask.step" or "choices" in event for event in found):
        raise ValueError(f"{path}: {NO_EVENTS}")
    return found


def known(event: Event) -> bool:
    """Whether it is a line of a trace, a chunk of a stream, or the error that a stream ended with."""
    return event.get("object") in KNOWN or isinstance(event.get("choices"), list) or "error" in event


def check_version(event: Event, place: str) -> None:
    if event.get("object") == "unmask.trace":
        kind, version, newest = "trace", event.get("version"), TRACE_VERSION
    elif isinstance(event.get("frame"), dict):
        kind, version, newest = "frame", event["frame"].get("version"), FRAME_VERSION
    else:
        return
    if version != newest:
        raise ValueError(f"{place}: {kind} version {version!r}, and this unmask reads version {newest}")


def replay(paths: Sequence[Path]) -> str:
    """A page with the generations of all files side by side. Raises as `read_events`."""
    alone = len(paths) == 1
    runs = [{"name": "" if alone else path.stem, "events": read_events(path)} for path in paths]
    names = ", ".join(path.stem for path in paths)
    return page("viewer", f"{names}: how it was unmasked", data=runs).html
