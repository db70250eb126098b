"""An oracle that is a command: it runs in a copy with the text in its place, and exit code 0 is its assent.

Start-up ("python -c 'import app'"), unit tests ("python -m pytest -x -q") and whatever else a user trusts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unmask.patching import reports
from unmask.patching.oracles.copies import check_name, limits_of, run_command
from unmask.patching.oracles.python import source_of
from unmask.patching.source import Source
from unmask.types import ByteSpan, Verdict, View, Violation

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command that has to succeed. file: where the text goes, inside a copy of `root` (None: an empty folder) and of
    `files`. seconds: of processor time. confined: in the sandbox (see `copies`).

    Blame: where the tracebacks in its output touch the text, the innermost place first.
    """

    command: str
    file: str
    root: Path | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    seconds: float = SECONDS
    confined: bool = True
    name: str = ""
    partial: bool = False

    def __post_init__(self) -> None:
        if not self.command.strip():
            raise ValueError("a command must not be empty")
        check_name(self.file)
        object.__setattr__(self, "name", self.name or self.command)

    def check(self, view: View) -> Verdict:
        data = view.text.encode()
        files = {**self.files, self.file: data}
        ended = run_command(self.command, files, limits_of(self.seconds), self.root, self.confined)
        if not ended.ran:
            return Verdict("unknown", f"{self.name} could not be run: {ended.why}")
        if ended.code == 0:
            return Verdict("satisfied")
        code = f"exit-{ended.code}" if ended.code is not None else "stopped"
        message = f"{self.name} failed"  # the same for every failure: what is to go is that it fails
        fault = Violation(
            message, ByteSpan(0, len(data)), code, self.name, blame(source_of(view), self.file, ended.output)
        )
        return Verdict("violated", last_line(ended.output, ended.why), (fault,))


def startup(module: str, file: str, root: Path | None = None, *, confined: bool = True) -> Command:
    """That a module can be imported."""
    return Command(f"python -c 'import {module}'", file, root, confined=confined, name=f"start-up of {module}")


def last_line(output: str, why: str) -> str:
    rows = [row.strip() for row in output.splitlines() if row.strip()]
    return ": ".join(part for part in (why, rows[-1] if rows else "") if part) or "failed without a word"


def blame(source: Source, file: str, output: str) -> tuple[ByteSpan, ...]:
    """Places of the text that the output of a failure points to."""
    found = list[ByteSpan]()
    for report in [*reports.traceback(output), *reports.pytest(output)]:
        if reports.same_file(report.file, file) and report.line <= len(source.rows):
            found.append(reports.place(source, report))
    return tuple(dict.fromkeys(found))
