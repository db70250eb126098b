"""What was measured on this machine before, kept in the cache folder: forward times, and what a benchmark advises.

One small JSON file per machine and model. One that is broken, or about something else, counts as none; where none can
be written, things are measured anew each time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmask.decoding.auto import Advice
from unmask.model import store

Table = tuple[tuple[int, float], ...]
FORMAT = 1
MOST_FILES = 200  # a checkpoint that is trained on is another model each time


@dataclass(frozen=True)
class Known:
    """The file of one machine and model. of: all that tells it from others, as plain JSON data."""

    folder: Path
    of: Mapping[str, Any]

    @property
    def path(self) -> Path:
        text = json.dumps(self.of, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"

    def table(self, name: str, rows: Sequence[int]) -> Table:
        """(rows, seconds) as kept under that name, if it is about exactly these rows; else empty."""
        return checked(dict(self._read("seconds")).get(name), rows)

    def keep(self, name: str, table: Table) -> None:
        self._write("seconds", {**self._read("seconds"), name: table})

    def forget(self, part: str) -> None:
        self._write(part, {})

    def advice(self) -> Advice | None:
        """What a benchmark has left for mode `auto`."""
        found = self._read("advice")
        try:
            return Advice(**{**found, "profile": tuple(map(float, found["profile"]))})
        except (KeyError, TypeError, ValueError):
            return None

    def advise(self, advice: Advice) -> None:
        self._write("advice", asdict(advice))

    def _read(self, part: str) -> dict[str, Any]:
        whole = self._whole()
        found = whole.get(part) if whole.get("of") == self.of else None
        return found if isinstance(found, dict) else {}

    def _whole(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, part: str, value: Any) -> None:
        """Whole or not at all. Of two processes that write at once the later one's file stays."""
        parts = {name: self._read(name) for name in ("seconds", "advice")} | {part: value}
        file = self.path.with_suffix(f".{os.getpid()}.part")
        with suppress(OSError):  # a folder that is read-only, or full
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"of": self.of, **parts}, indent=1) + "\n", encoding="utf-8")
            os.replace(file, self.path)
            for old in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-MOST_FILES]:
                old.unlink()


def checked(found: Any, rows: Sequence[int]) -> Table:
    """A table out of JSON, if it is one, of these rows, ascending in time; else empty."""
    try:
        table = tuple((int(count), float(seconds)) for count, seconds in found)
    except (TypeError, ValueError):
        return ()
    times = [seconds for _, seconds in table]
    fine = [count for count, _ in table] == list(rows) and times == sorted(times)
    return table if fine and all(math.isfinite(seconds) and seconds >= 0 for seconds in times) else ()


def folder() -> Path:
    """Where the files are."""
    return store.home() / "measured"


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
