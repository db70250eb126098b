"""`unmask batch`: a file of requests in OpenAI's batch format becomes a file of replies, which a kill does not harm."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unmask.cli.common import DEFAULT_MODEL, INTERRUPTED, err, load_model
from unmask.cli.common import opened as trace_file
from unmask.cli.constraining import registered
from unmask.cli.flags import (
    MANY,
    CpusPerReplica,
    Oracles,
    Processes,
    Replicas,
    ServedModel,
    ServedNames,
    TraceFile,
    with_decoding,
)
from unmask.cli.fleet import fleet_of, need

if TYPE_CHECKING:
    from unmask.server.batch import Summary
    from unmask.server.batch_ask import Answering
    from unmask.server.batch_files import Results
    from unmask.server.cluster import Fleet

BROKEN, SOME_FAILED = 1, 3
LIMITS = "Limits"


@with_decoding
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Requests, one JSON object a line.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Replies, one line each, in the order they are done.")],
    options: dict[str, Any],
    loading: dict[str, Any],
    errors: Annotated[
        Path | None,
        typer.Option("--errors", help="Where lines go that went wrong; to OUT if not given.", show_default=False),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="Ask a running `unmask serve` at this URL instead of loading a model; sends a key of UNMASK_API_KEYS.",
            show_default=False,
        ),
    ] = None,
    model: ServedModel = DEFAULT_MODEL,
    name: ServedNames = None,
    tp: Processes = 1,
    oracle: Oracles = None,
    concurrent: Annotated[
        int, typer.Option("--max-concurrent", help="Requests decoded at a time.", rich_help_panel=LIMITS)
    ] = 64,
    cached: Annotated[
        int | None,
        typer.Option(
            "--max-tokens-cached",
            help="Rows of key/value memory over all requests.",
            rich_help_panel=LIMITS,
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Answer with replicas of the model on Ray Data: on the cluster of RAY_ADDRESS, else on this machine.",
            rich_help_panel=MANY,
        ),
    ] = False,
    replicas: Replicas = 1,
    cpus: CpusPerReplica = None,
    trace: TraceFile = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object with the numbers at the end.")] = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format, as `unmask serve` would. Run again, it goes on.

    Exit codes: 0 all went well, 3 all is done but some lines went wrong, 130 stopped by a signal before the end, 1 the
    model or the server cannot go on.
    Decoding flags are defaults for requests that do not choose.
    """
    from unmask.server import Settings
    from unmask.server.auth import read_keys
    from unmask.server.batch import summary_of
    from unmask.server.batch_ask import BrokenOffError, InProcess, OverHttp
    from unmask.server.batch_files import opened

    own = (model != DEFAULT_MODEL, name, tp != 1, oracle, cached, ray, options, loading)
    if server is not None and any(own):
        raise ValueError("--server has its own model and defaults: leave flags of the model and of decoding out")
    if not ray and (replicas != 1 or cpus is not None):
        raise ValueError("--replicas and --cpus-per-replica need --ray")
    if ray and oracle:
        raise ValueError("--oracle does not go with --ray: functions of this process are not sent to others")
    if trace is not None and (ray or server is not None):
        raise ValueError("--trace needs the model in this process: it goes neither with --server nor with --ray")
    loading |= {"max_live": concurrent, "max_tokens_cached": cached, "tp": tp}
    settings = Settings(names=tuple(name or ()), defaults=options, oracles=registered(oracle or ()))
    with opened(source, out, errors) as found:
        summary = summary_of(found)
        if summary.left:  # a model takes seconds to load
            try:
                if server is not None:
                    keys = read_keys(None, os.environ)
                    summary = answered(OverHttp(server, concurrent, keys), source, found)
                elif ray:
                    need("ray", "pandas", "pyarrow")
                    fleet = fleet_of(model, loading, settings, (replicas, replicas), cpus)
                    summary = answered_on_ray(fleet, source, found)
                else:
                    record = trace_file(trace)
                    lm = load_model(model, **loading)
                    lm.trace = record
                    try:
                        summary = answered(InProcess(lm, settings), source, found)
                    finally:
                        lm.close()
            except BrokenOffError as error:
                err.print(f"unmask: {error}; the same command goes on with what is left", markup=False, soft_wrap=True)
                raise typer.Exit(BROKEN) from None
    if as_object:
        print(json.dumps(asdict(summary) | {"left": summary.left}))
    else:
        err.print(sentence(summary), soft_wrap=True)
    if summary.left:
        raise typer.Exit(INTERRUPTED)
    if summary.failed + summary.failed_before:
        raise typer.Exit(SOME_FAILED)


def answered(asking: Answering, source: Path, found: Results) -> Summary:
    """Run the batch; SIGINT and SIGTERM let what runs end, once more drops it."""
    from unmask.server.batch import Batch
    from unmask.server.batch_files import requests

    with shown(found) as told:
        running = Batch(asking, requests(source), found, told)

        def stop() -> None:
            if not running.summary.stopped:
                err.print("stopping: what runs may end (once more drops it)", style="dim")
            running.stop()

        with on_signals(stop):
            return asyncio.run(running.run())


def answered_on_ray(fleet: Fleet, source: Path, found: Results) -> Summary:
    """Run the batch with replicas; SIGINT and SIGTERM drop what runs."""
    from unmask.server.batch import gathered
    from unmask.server.batch_files import requests
    from unmask.server.batch_ray import results
    from unmask.server.cluster import connected

    def stop() -> None:
        raise KeyboardInterrupt

    lines = [asked for asked in requests(source) if asked.key not in found.done]
    # What Ray has to say is not for stdout, where a program may read the numbers.
    with redirect_stdout(sys.stderr), connected(), shown(found) as told, on_signals(stop):
        return gathered(results(fleet, lines), found, told)


@contextmanager
def shown(found: Results) -> Iterator[Callable[[Summary], None]]:
    """A bar on a terminal, and what is to be called with the numbers after every line."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("Answering", total=found.total, completed=len(found.done))

        def told(summary: Summary) -> None:
            failed = f", {summary.failed} went wrong" if summary.failed else ""
            done = summary.lines - summary.left
            progress.update(task, completed=done, description=f"Answering{failed}")

        yield told


@contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` for SIGINT and SIGTERM instead of ending the process."""
    before = {sign: signal.signal(sign, lambda *_: stop()) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def sentence(summary: Summary) -> str:
    """What became of the batch, in one line."""
    parts = [f"{summary.succeeded} answered"]
    if summary.failed:
        parts.append(f"{summary.failed} went wrong")
    if summary.skipped:
        wrong = f", {summary.failed_before} of them wrongly" if summary.failed_before else ""
        parts.append(f"{summary.skipped} done before{wrong}")
    if summary.left:
        parts.append(f"{summary.left} left: run the same command to go on")
    speed = f", {summary.completion_tokens / summary.seconds:.1f} tokens/s" if summary.completion_tokens else ""
    return f"{', '.join(parts)} ({summary.completion_tokens} tokens in {summary.seconds:.1f} s{speed})"
