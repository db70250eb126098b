"""The command line: one verb each. What a user got wrong is one line and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from unmask import __version__
from unmask.cli import batch, bench, chat, convert, demo, evaluate, fill, generate, patch, pull, roofline, serve, view
from unmask.cli.common import INTERRUPTED

app = typer.Typer(
    name="unmask",
    help="Convert, run and serve tri-mode diffusion language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo.demo, pull.pull, chat.chat, generate.generate, fill.fill, serve.serve, convert.convert):
    app.command()(command)
app.command("eval")(evaluate.evaluate)
app.command()(roofline.roofline)
app.command()(bench.bench)
app.command()(batch.batch)
app.command()(view.view)
app.command()(patch.patch)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unmask {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point of `unmask`. Exit codes: 0 done, 1 our fault, 2 a mistake in what was asked, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except TyperException as error:
        message = error.format_message()
    except BrokenPipeError:  # the reader has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        print("unmask: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        if os.environ.get("UNMASK_TRACEBACK"):
            raise
        message = str(error)
    if message:
        print(f"unmask: {' '.join(message.split())}", file=sys.stderr)
    return 2
