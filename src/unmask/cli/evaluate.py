"""`unmask eval`: what a model can do, as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from unmask.cli.common import DEFAULT_MODEL, err, load_model, out
from unmask.cli.convert import make_starter_corpus
from unmask.cli.flags import AdapterFolder, Device, Dtype, Exactness, MaskId


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Short name, Hugging Face folder, .gguf file or hub id.")
    ] = DEFAULT_MODEL,
    suite: Annotated[str, typer.Option("--suite", help="What to measure: diffusion.")] = "diffusion",
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="Held-out text, as for convert; starter if not given. May be repeated.", show_default=False
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="The model it was made from, for the change of AR.", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Held-out sequences.")] = 32,
    length: Annotated[int, typer.Option("--length", help="Tokens of a sequence.")] = 256,
    points: Annotated[int, typer.Option("--points", help="Noise levels per block.")] = 8,
    batch: Annotated[int, typer.Option("--batch", help="Sequences of a forward.")] = 4,
    prompts: Annotated[int, typer.Option("--prompts", help="Texts continued in every mode; 0 for none.")] = 4,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="New tokens of each.")] = 64,
    adapter: AdapterFolder = None,
    mask_id: MaskId = None,
    dtype: Dtype = None,
    device: Device = None,
    exactness: Exactness = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
    file: Annotated[
        Path | None, typer.Option("--out", help="Write the JSON object here too.", show_default=False)
    ] = None,
) -> None:
    """Measure a model: AR perplexity, NELBO, masked accuracy, acceptance, tokens per forward in each mode."""
    from unmask.evaluation import check_suite, diffusion
    from unmask.evaluation.tables import tables
    from unmask.training.machine import prepare_memory

    check_suite(suite)
    settings = diffusion.Settings(
        samples=samples, length=length, points=points, batch=batch, prompts=prompts, max_tokens=max_tokens
    )
    if file is not None and not file.parent.is_dir():
        raise FileNotFoundError(f"no folder {file.parent} to write {file.name} to")
    prepare_memory()
    sources = data or ["starter"]
    if "starter" in sources:
        make_starter_corpus()
    chosen: dict[str, Any] = {"dtype": dtype, "device": device, "exactness": exactness}
    chosen |= {"max_tokens_cached": 1024 + 2 * (settings.prompt_tokens + max_tokens)}
    lm = load_model(model, adapter=adapter, mask_id=mask_id, **chosen)
    source = load_model(against, adapter="none", **chosen) if against else None
    with bar() as progress:
        found = diffusion.evaluate(lm, sources, settings, source, progress)
    found["adapter"] = adapter
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_object:
        print(json.dumps(found))
        return
    for table in tables(found):
        out.print(table)


@contextmanager
def bar() -> Iterator[Any]:
    """A progress bar on a terminal; gives a function (what, done, total) that moves it."""
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
