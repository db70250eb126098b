"""`unmask view`: traces of generations as one HTML page that replays them, side by side."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from unmask.cli.common import out


def view(
    traces: Annotated[
        list[Path], typer.Argument(help="Files of --trace, or saved streams of a server; several stand side by side.")
    ],
    page: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the page goes; beside the first trace.", show_default=False),
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Make a page that replays generations step by step. It is one file and needs no network."""
    from unmask.view.replay import replay

    target = traces[0].with_suffix(".html") if page is None else page
    if target in traces:
        raise ValueError(f"--out {target} is one of the traces: name another file")
    target.write_text(replay(traces), encoding="utf-8")
    out.print(str(target), markup=False, soft_wrap=True)
    if opens and not webbrowser.open(target.resolve().as_uri()):
        raise OSError(f"no browser could be opened; the page is {target}")
