"""README and docs are true: commands run, numbers are those of benchmarks/results/, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from scripts.readme import PARTS, filled
from unmask.cli import app, run

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = {"generate": ["-n", "8"], "demo": ["-n", "4"]}  # what is added so that a test need not wait for long texts
RUNS = {"generate", "pull", "demo"}


def blocks(page: Path, language: str) -> list[str]:
    flags = re.MULTILINE | re.DOTALL
    # What stands in four ticks was printed by a model, and is not to be run.
    text = re.sub(r"^````.*?^````", "", page.read_text(encoding="utf-8"), flags=flags)
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=flags)


def commands() -> list[list[str]]:
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("unmask ")]
    return [list(line) for line in dict.fromkeys(tuple(line[1:]) for line in words)]


@pytest.mark.parametrize("page", PARTS)
def test_numbers_are_those_of_results(page: str) -> None:
    assert filled(page) == (ROOT / page).read_text(encoding="utf-8"), "run  python scripts/readme.py"


def test_what_is_not_measured_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scripts.readme.RESULTS", tmp_path)
    for page, parts in PARTS.items():
        assert filled(page).count("Not measured yet: there is no ") == len(parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in commands() if words[0] in RUNS], ids=" ".join)
def test_commands_run(
    words: list[str],
    smollm2_gguf: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # what a command writes is not for the repository
    assert run([*words, *SHORT.get(words[0], [])]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", [words for words in commands() if words[0] not in RUNS], ids=" ".join)
def test_commands_that_take_too_long_are_understood(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    context = group.commands[words[0]].make_context(words[0], words[1:])  # raises for a flag or value that is not known
    assert not context.args


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_data_is_what_it_says(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, smollm2_gguf: Path) -> None:
    for block in blocks(page, "python"):
        if "http" not in block and "{server}" not in block:  # what talks to a server is run by tests/server
            exec(compile(block, str(page), "exec"), {})
