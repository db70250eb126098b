"""Oracles that are other people's checkers, where they are installed: ruff and mypy. Neither runs the text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from unmask.patching import reports
from unmask.patching.oracles.copies import tool
from unmask.patching.oracles.python import source_of, verdict
from unmask.types import Verdict, View, Violation

SECONDS = 120.0
RULES = ("E9", "F")  # syntax errors, and what pyflakes finds
MILD = {"F401": 0.5, "F841": 0.5}  # what is merely unused, as `python.Names` weighs it


@dataclass(frozen=True, slots=True)
class Ruff:
    """`ruff check` with these rules and no configuration file."""

    rules: tuple[str, ...] = RULES
    name: str = "ruff"
    partial: bool = False

    def check(self, view: View) -> Verdict:
        program = tool("ruff")
        if program is None:
            return Verdict("unknown", "ruff is not installed")
        path = view.path or "text.py"
        fixed = ["check", "--isolated", "--no-cache", "--quiet", "--exit-zero", "--output-format", "json"]
        printed, problem = run([program, *fixed, "--select", ",".join(self.rules), "--stdin-filename", path, "-"], view)
        return Verdict("unknown", problem) if problem else found(view, reports.ruff(printed), self.name, path)


@dataclass(frozen=True, slots=True)
class Mypy:
    """`mypy` on one file of a project, with the project's configuration. root: the project's folder; None: the file
    stands alone, without any configuration."""

    root: Path | None = None
    name: str = "mypy"
    partial: bool = False

    def check(self, view: View) -> Verdict:
        if find_spec("mypy") is None:
            return Verdict("unknown", "mypy is not installed")
        path = view.path or "text.py"
        with TemporaryDirectory(prefix="unmask-mypy-") as folder:
            shadow = Path(folder) / Path(path).name
            shadow.write_bytes(view.text.encode())
            where = ["--cache-dir", str(Path(folder) / "cache"), "-O", "json", "--show-error-end"]
            if self.root is None:
                name, more = shadow.name, ["--config-file=", "--ignore-missing-imports"]
            else:
                name, more = path, ["--shadow-file", path, str(shadow)]
            command = [sys.executable, "-m", "mypy", *where, *more, name]
            printed, problem = run(command, None, self.root or Path(folder))
        return Verdict("unknown", problem) if problem else found(view, reports.mypy(printed), self.name, name)


def run(command: Sequence[str], view: View | None, folder: Path | None = None) -> tuple[str, str]:
    """(what a tool printed, why it did not work)."""
    text = view.text.encode() if view is not None else b""
    try:
        done = subprocess.run(command, input=text, capture_output=True, cwd=folder, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{Path(command[0]).name} did not work: {error}"
    if done.returncode not in (0, 1):
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        return "", f"{Path(command[0]).name} did not work: {said[-1] if said else done.returncode}"
    return done.stdout.decode("utf-8", "replace"), ""


def found(view: View, told: Sequence[reports.Report], name: str, path: str) -> Verdict:
    source = source_of(view)
    here = [report for report in told if reports.same_file(report.file, path)]
    return verdict(
        [
            Violation(one.message, reports.place(source, one), one.code, name, severity=MILD.get(one.code, 1.0))
            for one in here
        ]
    )
