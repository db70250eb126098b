"""`unmask bench`: how quick every way to decode is here, beside its peers, and what `auto` should do."""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.common import DEFAULT_MODEL, err, out, pull_with_progress
from unmask.cli.evaluate import bar
from unmask.cli.flags import AdapterFolder, Exactness, flag, with_flags

if TYPE_CHECKING:
    from unmask.bench.plan import Text

HEADLINE, GRID, BOTH = "Suite headline", "Suite grid", "Both suites"
KINDS = ("code", "chat", "editing")
# Field of `bench.suites.Settings` -> flag.
SETTINGS: dict[str, Any] = {
    "rounds": flag(int, BOTH, "Samples of everything on each kind of prompt: medians of these.", "--rounds"),
    "tokens": flag(int, BOTH, "Most new tokens.", "--tokens", "-n"),
    "kinds": flag(list[str], BOTH, "code, chat or editing; all if not given. May be repeated.", "--kind"),
    "seed": flag(int, BOTH, "Which prompts are drawn.", "--seed"),
    "threads": flag(int, BOTH, "Of every peer; as many as there are processors to use if not given.", "--threads"),
    "keep": flag(bool, BOTH, "Leave what is recommended for mode auto, in the cache folder.", "--keep/--no-keep"),
    "rows": flag(
        list[str],
        HEADLINE,
        "Only this row, with the peers it needs: ar, ar-quantised, code, chat, code-transformers, auto, rows, floor,"
        " concurrent or memory. May be repeated.",
        "--row",
    ),
    "requests": flag(int, HEADLINE, "At a time, in the row about concurrent requests.", "--requests"),
    "context": flag(int, HEADLINE, "Rows that a timed forward sees.", "--context"),
    "modes": flag(
        list[str], GRID, "ar, linearspec, quadspec, adaptivespec, auto or fastdiffuser. May be repeated.", "--mode"
    ),
    "blocks": flag(list[int], GRID, "Draft block, or block of fastdiffuser. May be repeated.", "--block"),
    "thresholds": flag(list[float], GRID, "Confidence threshold of fastdiffuser. May be repeated.", "--threshold"),
    "batches": flag(list[int], GRID, "Requests at a time. May be repeated.", "--batch"),
    "dtypes": flag(list[str], GRID, "bfloat16 or float32. May be repeated.", "--dtype"),
    "quantize": flag(list[str], GRID, "int8, int4 or none. May be repeated.", "--quantize"),
}
# Fields of one suite only -> flag.
OWN = {
    HEADLINE: {"rows": "--row", "requests": "--requests", "context": "--context"},
    GRID: {
        "modes": "--mode",
        "blocks": "--block",
        "thresholds": "--threshold",
        "batches": "--batch",
        "dtypes": "--dtype",
        "quantize": "--quantize",
    },
}


@with_flags(settings=SETTINGS, loading={"adapter": AdapterFolder, "exactness": Exactness})
def bench(
    model: Annotated[
        str, typer.Argument(help="Short name, Hugging Face folder, .gguf file or hub id.")
    ] = DEFAULT_MODEL,
    suite: Annotated[str, typer.Option("--suite", help="headline or grid.")] = "headline",
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Write the JSON object here, and the picture beside it (.png).", show_default=False),
    ] = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
    settings: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
) -> None:
    """Measure how quick every way to decode is on this machine, greedily, one soon after the other.

    headline: every goal of the project in one run, beside transformers and llama.cpp where they are installed.

    grid: mode x block x threshold x requests at a time x dtype x quantisation.

    Both write down what mode auto should do here, and where AR is the quicker way.
    """
    from unmask.bench import suites
    from unmask.bench.tables import benchmark
    from unmask.evaluation.record import rounded, write

    suite_runs = {"headline": suites.run_headline, "grid": suites.run_grid}
    if suite not in suite_runs:
        raise ValueError(f"suite must be one of {', '.join(suite_runs)}, got {suite!r}")
    if file is not None and not file.parent.is_dir():
        raise FileNotFoundError(f"no folder {file.parent} to write {file.name} to")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in (settings or {}).items()}
    foreign = OWN[GRID if suite == "headline" else HEADLINE]
    if wrong := next((name for name in given if name in foreign), None):
        raise ValueError(f"{foreign[wrong]} does not apply to suite {suite!r}")
    everything: dict[str, Any] = {"model": model, "threads": processors(), **given}
    asked = suites.Settings(**everything)
    loading = loading or {}
    if loading.get("adapter") == "none":
        loading["adapter"] = False
    if model == DEFAULT_MODEL:
        pull_with_progress(model)
    texts = {kind: drawn(kind, asked.seed) for kind in asked.kinds}
    with bar() as progress:
        found = suite_runs[suite](asked, texts, loading, progress=progress)
    found = rounded({"model": Path(model).name, **circumstances(asked.threads), **found})
    if file is not None:
        write(file, found)
        picture(file.with_suffix(".png"), found)
    if as_object:
        print(json.dumps(found))
        return
    for table in benchmark(found):
        out.print(table)


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def drawn(kind: str, seed: int) -> list[Text]:
    """Prompts of a kind, the same that `unmask eval --suite starter` draws; ValueError for an unknown kind."""
    from unmask.bench.plan import Text
    from unmask.evaluation.prompts import draw, held_out_functions

    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    functions = held_out_functions() if kind == "editing" else []
    return [Text(one.kind, one.name, one.text, one.chat, one.stop) for one in draw(kind, seed, functions)]


def circumstances(threads: int) -> dict[str, Any]:
    """Date, machine, versions and command, as far as they are known before any model is loaded."""
    from unmask.engine.known import processor
    from unmask.evaluation.record import command

    versions = dict[str, str]()
    for name in ("unmask", "torch", "transformers", "xllamacpp"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "threads": threads, "python": platform.python_version()},
        "versions": versions,
        "command": command(sys.argv),
    }


def picture(file: Path, found: dict[str, Any]) -> None:
    """Speeds, where matplotlib is installed and there are any."""
    if not find_spec("matplotlib"):
        err.print("no picture: matplotlib is not installed (pip install 'unmask[eval]')", style="dim")
    elif found["medians"]:
        from unmask.bench.pictures import speeds

        speeds(found).savefig(file, dpi=110)
