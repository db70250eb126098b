"""README and docs are true: commands run, numbers are those of benchmarks/results/, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scripts.readme import filled
from unmask.cli import run

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = {"generate": ["-n", "8"], "demo": ["-n", "4"]}  # what is added so that a test need not wait for long texts
RUNS = {"generate", "pull", "demo"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("unmask ")]
    return [line[1:] for line in words]


def test_readme_is_made_from_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text) == text, "run  python scripts/readme.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_run(words: list[str], smollm2_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb = words[0]
    arguments = [*words, *SHORT.get(verb, [])] if verb in RUNS else [verb, "--help"]
    assert run(arguments) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, smollm2_gguf: Path) -> None:
    for block in blocks(page, "python"):
        if "http" not in block:  # what talks to a server is run by tests/server
            exec(compile(block, str(page), "exec"), {})
