"""The log of a run: one JSON object a line, one line a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unmask.training.files import UNFINISHED, flush


class Log:
    """Appends to `file`; lines of steps after `step` are from before an interruption and are dropped."""

    def __init__(self, file: Path, step: int) -> None:
        kept = [line for line in read(file) if line["step"] <= step]
        new = file.with_name(UNFINISHED + file.name)
        new.write_text("".join(json.dumps(line) + "\n" for line in kept))
        flush(new)
        new.replace(file)
        self.file = file

    def write(self, figures: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All lines; a last one that was cut short by a kill is left out."""
    if not file.exists():
        return []
    lines = list[dict[str, Any]]()
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
