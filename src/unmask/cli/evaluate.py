"""`unmask eval`: what a model can do, as tables or as JSON; two results side by side."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unmask.cli.common import DEFAULT_MODEL, err, load_model, out
from unmask.cli.convert import make_starter_corpus
from unmask.cli.flags import DECODING, LOADING, flag, with_flags

if TYPE_CHECKING:
    from unmask.evaluation.suite import Suite

DEFAULT_SUITE = "diffusion"
ROWS_CACHED = 4096  # of key/value memory, for each request at a time
DIFFUSION, STARTER, LIGHT = "Suite diffusion", "Suite starter", "Suite light"
GAPS, RUN = "Suites diffusion and infill (of models that have learned gaps)", "Suites humaneval, infill and patch"
INFILL, DECAY, SHOTS = "Suite infill", "Suite decay", "Suites decay and revision"
TOGETHER = "Suites humaneval, decay and revision"
MANY = "All suites but diffusion"
# Field of a suite's settings -> flag; those of decoding are shared (`max_tokens`, `seed`, `draft_block_size`).
SETTINGS: dict[str, Any] = {
    "limit": flag(int, MANY, "Only the first so many prompts of each kind, or tasks.", "--limit"),
    "data": flag(list[str], GAPS, "Held-out text, as for convert; starter if not given. May be repeated.", "--data"),
    "against": flag(str, DIFFUSION, "The model it was made from, for the change of AR.", "--against"),
    "samples": flag(int, GAPS, "Held-out sequences.", "--samples"),
    "length": flag(int, GAPS, "Tokens of a sequence.", "--length"),
    "points": flag(int, GAPS, "Noise levels per block.", "--points"),
    "batch": flag(int, DIFFUSION, "Sequences of a forward.", "--batch"),
    "prompts": flag(int, DIFFUSION, "Texts continued in every mode; 0 for none.", "--prompts"),
    "part": flag(str, STARTER, "all, speculation or fastdiffuser; AR is always run.", "--part"),
    "check_data": flag(
        list[str], STARTER, "Training data (JSON lines) to look for the prompts in. May be repeated.", "--check-data"
    ),
    "budget": flag(int, LIGHT, "States of a block that the search for its shortest schedule asks about.", "--budget"),
    "tier": flag(str, DECAY, "a: a little language; b: Python functions; c: backends with SQLAlchemy.", "--tier"),
    "orders": flag(int, DECAY, "Orders of the rules per task, 1 to 3.", "--orders"),
    "levels": flag(list[int], DECAY, "How many rules are active; repeated, ascending.", "--levels"),
    "at_once": flag(int, TOGETHER, "Answers in hand at once: one batch, and no speed of any of them.", "--at-once"),
    "shots": flag(int, SHOTS, "Examples before a task; 0 for a model that was trained on them.", "--shots"),
    "modes": flag(list[str], DECAY, "Modes that are compared; repeated.", "--modes"),
    "enforcements": flag(
        list[str], DECAY, "prompt, best-of-n, mask, remask, mask+remask or patch; repeated.", "--enforce"
    ),
    "candidates": flag(
        int,
        "Suites infill and patch",
        "Fillings of a line or fault; the likeliest counts, or the first that may stand.",
        "--candidates",
    ),
    "multi": flag(int, INFILL, "Runs of several lines to fill in beside single ones; 0 for none.", "--multi"),
    "seconds": flag(float, RUN, "Processor time of an answer's test.", "--seconds"),
    "memory": flag(int, RUN, "MiB of an answer's test.", "--memory"),
}
# Settings that do not change what a sample is: a run with others of these goes on with the samples that are there.
NARROWING = ("limit", "multi", "part", "check_data", "orders", "levels", "modes", "enforcements", "at_once")


@with_flags(settings=SETTINGS, options=DECODING, loading=LOADING)
def evaluate(
    model: Annotated[
        str, typer.Argument(help="Short name, Hugging Face folder, .gguf file or hub id.", show_default=DEFAULT_MODEL)
    ] = "",
    named: Annotated[str, typer.Option("--model", help="The same, as a flag.", show_default=False)] = "",
    suite: Annotated[str, typer.Option("--suite", help="What to measure, see above.", show_default=DEFAULT_SUITE)] = "",
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write the JSON object here, and the samples beside it (.jsonl). The same command again goes on.",
            show_default=False,
        ),
    ] = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Measure nothing: two results of --out side by side.", show_default=False),
    ] = None,
    curve: Annotated[
        list[Path] | None,
        typer.Option(
            "--curve",
            help="Measure nothing: score over speed from results of starter or humaneval. May be repeated.",
            show_default=False,
        ),
    ] = None,
    settings: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
) -> None:
    """Measure a model, one suite at a time.

    diffusion: AR perplexity, NELBO, masked accuracy, acceptance.

    starter: real greedy decoding of code, chat and editing prompts in every mode.

    humaneval: pass@1, the answers run in a sandbox.

    infill: what a suffix is worth, and lines of HumanEval filled in.

    patch: faults put into sound functions, and how they are mended.

    light: tokens per forward under a perfect oracle, beside what each mode reaches.

    decay: DecayBench, answers under more and more rules, by mode and enforcement.

    revision: chains of steps by AR, diffusion, and diffusion that takes tokens back.

    schemas: JSON under 60 JSON Schemas, in every mode and without a constraint.
    """
    if compare is not None or curve:
        if compare and curve:
            raise ValueError("--compare and --curve are two commands: give one of them")
        if model or named or suite or settings or options or loading:
            raise ValueError("--compare and --curve measure nothing: leave the model, --suite and flags of suites out")
    if compare is not None:
        show_comparison(*compare, file, as_object)
        return
    if curve:
        show_curve(curve, file, as_object)
        return
    from unmask.evaluation import suite_of
    from unmask.evaluation.record import rounded, write
    from unmask.evaluation.suite import Job, settings_and_options
    from unmask.training.machine import prepare_memory

    if model and named:
        raise ValueError(f"the model is given twice: {model!r} and --model {named!r}")
    name, suite = model or named or DEFAULT_MODEL, suite or DEFAULT_SUITE
    chosen = suite_of(suite)
    given = {**(settings or {}), **(options or {})}
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    own, decoding = settings_and_options(chosen, suite, given)
    loading = loading or {}
    rows = rows_file(file, [name, suite, loading, {k: v for k, v in given.items() if k not in NARROWING}])
    prepare_memory()
    if "starter" in getattr(own, "data", ()):
        make_starter_corpus()
    loading = {"exactness": chosen.exactness, "max_tokens_cached": ROWS_CACHED * getattr(own, "at_once", 1), **loading}
    lm = load_model(name, **loading)

    def other(title: str) -> Any:
        return load_model(title, **loading | {"adapter": "none"})

    try:
        with bar() as progress:
            found = rounded(chosen.run(Job(lm, own, rows, decoding, progress, other, loading.get("adapter"))))
    except KeyboardInterrupt:
        if rows.exists():
            err.print(f"samples so far: {rows}; the same command goes on", style="dim", markup=False, soft_wrap=True)
        raise
    if file is not None:
        write(file, found)
        draw(chosen, found, file.with_suffix(".png"))
    if as_object:
        print(json.dumps(found))
        return
    for table in chosen.tables(found):
        out.print(table)
    if rows.exists():
        err.print(f"samples: {rows}", style="dim", soft_wrap=True)


def rows_file(file: Path | None, of: list[Any]) -> Path:
    """Where the samples are kept: beside the results, or in the cache folder under what they are of."""
    if file is not None:
        if not file.parent.is_dir():
            raise FileNotFoundError(f"no folder {file.parent} to write {file.name} to")
        if file.suffix == ".jsonl":
            raise ValueError(f"--out is for the JSON object, the samples go beside it: give another ending than {file}")
        return file.with_suffix(".jsonl")
    from unmask.model import store

    number = zlib.crc32(json.dumps(of, sort_keys=True, default=str).encode())
    return store.home() / "evaluations" / f"{of[1]}-{Path(of[0]).name}-{number:08x}.jsonl"


def draw(suite: Suite, found: dict[str, Any], file: Path) -> None:
    """The suite's picture, if it has one for this and matplotlib is there."""
    if suite.picture is not None and find_spec("matplotlib"):
        figure = suite.picture(found)
        if figure is not None:
            figure.savefig(file, dpi=110)


def show_comparison(before: Path, after: Path, file: Path | None, as_object: bool) -> None:
    from unmask.evaluation import compare
    from unmask.evaluation.record import rounded, write

    found = rounded(compare.compare(before, after))
    if file is not None:
        write(file, found)
    if as_object:
        print(json.dumps(found))
        return
    for table in compare.tables(found):
        out.print(table)


def show_curve(files: list[Path], file: Path | None, as_object: bool) -> None:
    from unmask.evaluation import curve
    from unmask.evaluation.record import rounded, write

    found = rounded(curve.curves(files))
    if file is not None:
        write(file, found)
        if find_spec("matplotlib"):
            curve.picture(found).savefig(file.with_suffix(".png"), dpi=110)
    if as_object:
        print(json.dumps(found))
        return
    for table in curve.tables(found):
        out.print(table)


@contextmanager
def bar() -> Iterator[Any]:
    """A progress bar on a terminal; gives a function (what, done, total) that moves it."""
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
