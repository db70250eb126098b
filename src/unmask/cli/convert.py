"""`unmask convert`: train an autoregressive model into a tri-mode one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from filelock import FileLock
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from unmask.cli.common import DEFAULT_MODEL, err, out

if TYPE_CHECKING:
    from unmask.training.loop import Trainer
    from unmask.training.settings import TrainConfig


def convert(
    model: Annotated[
        str, typer.Argument(help="Short name, Hugging Face folder, .gguf file or hub id.")
    ] = DEFAULT_MODEL,
    folder: Annotated[Path, typer.Option("--out", help="Folder to write: an adapter, or a whole model.")] = Path(
        "converted"
    ),
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="Text, folder, JSONL, parquet, hf:org/name; starter. May be repeated.", show_default=False
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="tiny, adapter, joint, joint-8b, drafter or filler.")
    ] = "adapter",
    method: Annotated[
        str | None, typer.Option("--method", help="adapter (the base stays as it is) or joint.", show_default=False)
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            help="convert; drafter: drafts for a joint model; filler: gaps for a frozen one.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Budget in steps.", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Budget in minutes.", show_default=False)] = None,
    block_size: Annotated[
        int | None, typer.Option("--block-size", help="Tokens denoised together.", show_default=False)
    ] = None,
    infill: Annotated[
        float | None,
        typer.Option(
            "--infill",
            help="Share of the samples that have a gap, so that `unmask fill` can be used.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, as in --set optimiser.lr=3e-4.", show_default=False),
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option("--held-out", help="Data to measure on.", show_default=False)
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Adapter folder that the new one begins as.", show_default=False)
    ] = None,
    mask_id: Annotated[
        int | None, typer.Option("--mask-id", help="Token that stands for 'unknown'.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder of checkpoints; OUT.run if not given.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files in the run's folder, too (extra: train).")
    ] = False,
    as_objects: Annotated[bool, typer.Option("--json", help="One JSON object per step, nothing else.")] = False,
) -> None:
    """Convert an autoregressive model. The same command again goes on from the last checkpoint."""
    from unmask.training.convert import PLOT, Conversion, figures_line
    from unmask.training.convert import convert as run_conversion
    from unmask.training.packing import Data
    from unmask.training.tensorboard import Board

    gaps = [] if infill is None else [f"infill.share={infill}"]
    config = settings_of(recipe, method, stage, steps, minutes, block_size, [*gaps, *(settings or [])])
    what = Conversion(
        model=model,
        data=Data(tuple(data or ["starter"]), held_out=tuple(held_out or ())),
        config=config,
        out=folder,
        run=run or folder.with_name(folder.name + ".run"),
        mask_id=mask_id,
        overwrite=overwrite,
        start=start,
    )
    board = Board(what.run / "tensorboard") if tensorboard else None
    speaks = int(os.environ.get("RANK", "0")) == 0  # under torchrun, one process tells what all of them do
    if "starter" in what.data.sources:
        make_starter_corpus()
    with bar(config, quiet=as_objects or not speaks) as shown:

        def progress(figures: dict[str, Any]) -> None:
            if board:
                board(figures)
            if as_objects:
                print(json.dumps(figures), flush=True)
            else:
                shown(figures, figures_line(figures))

        try:
            report = run_conversion(what, progress, stop_on_signal)
        except (FloatingPointError, ImportError) as error:  # the loss is not a number; an extra is missing
            raise ValueError(str(error)) from error
        finally:
            if board:
                board.close()
    if not speaks:
        return
    if as_objects:
        print(json.dumps({"reason": report.reason, "step": report.step, "tokens": report.tokens, "out": str(folder)}))
        return
    plot = what.run / PLOT
    shows = f"; {plot} shows the run" if plot.exists() else ""
    out.print(
        f"{report.reason}: {report.step} steps, {report.tokens} tokens; {folder} is written{shows}", soft_wrap=True
    )


def settings_of(
    recipe: str,
    method: str | None,
    stage: str | None,
    steps: int | None,
    minutes: float | None,
    block_size: int | None,
    changes: list[str],
) -> TrainConfig:
    """A recipe with what was asked for instead of its own numbers."""
    from unmask.training.recipes import RECIPES
    from unmask.training.settings import from_json, to_json

    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    if steps is not None and minutes is not None:
        raise ValueError("give steps or minutes, not both")
    if stage in ("drafter", "filler") and recipe == "adapter":
        recipe = stage
    if method == "joint" and recipe == "adapter":
        recipe = "joint"
    budget = {"steps": steps, "minutes": minutes} if steps is not None or minutes is not None else {}
    raw = to_json(RECIPES[recipe](**budget))
    raw |= {name: value for name, value in (("method", method), ("stage", stage)) if value is not None}
    if block_size is not None:
        raw["blocks"]["size"] = block_size
    for change in changes:
        name, _, text = change.partition("=")
        *parents, last = name.split(".")
        place: Any = raw
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place or not text:
            raise ValueError(f"--set takes NAME=VALUE, as in optimiser.lr=3e-4; got {change!r}")
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return from_json(raw)


def make_starter_corpus() -> None:
    """Build it where it is missing. Of several processes (torchrun, two runs at once) one does, the others wait."""
    from unmask.training.corpus import build_corpus, default_folder

    folder = default_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "train.jsonl").exists():
            err.print("Building the starter corpus from sources that packages ship")
            build_corpus(None, lambda line: err.print(line, style="dim"))


def stop_on_signal(trainer: Trainer) -> None:
    """The first Ctrl-C or SIGTERM ends the run after its step, with a checkpoint; the second one at once."""

    def stop(number: int, frame: Any) -> None:
        trainer.stop()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextmanager
def bar(config: TrainConfig, quiet: bool) -> Iterator[Any]:
    """A progress bar over the steps or the minutes; gives a function that moves it."""
    if quiet:
        yield None
        return
    total = config.steps or (config.minutes or 0) * 60
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def move(figures: dict[str, Any], line: str) -> None:
            done = figures["step"] if config.steps else figures["seconds"]
            progress.update(task, completed=done, description=line)
            if "eval" in figures or not err.is_terminal:
                progress.console.print(line, markup=False, soft_wrap=True)

        yield move
