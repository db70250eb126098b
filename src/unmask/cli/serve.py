"""`unmask serve`: the model behind OpenAI's HTTP routes, every mode per request."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.common import DEFAULT_MODEL, err, load_model
from unmask.cli.constraining import registered
from unmask.cli.flags import (
    MANY,
    MODEL,
    CpusPerReplica,
    Oracles,
    Processes,
    Replicas,
    ServedModel,
    ServedNames,
    with_decoding,
)
from unmask.cli.fleet import fleet_of, serve_fleet

if TYPE_CHECKING:
    from fastapi import FastAPI

SERVER, LIMITS = "Server", "Limits of the server"


@with_decoding
def serve(
    options: dict[str, Any],
    loading: dict[str, Any],
    model: ServedModel = DEFAULT_MODEL,
    name: ServedNames = None,
    tp: Processes = 1,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Accepted for old scripts; no code from a checkpoint is ever run.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on; 0.0.0.0 is every one.",
            rich_help_panel=SERVER,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            help="Port to listen on; 0 takes a free one.",
            rich_help_panel=SERVER,
        ),
    ] = 30000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="File with API keys, one a line. Also: UNMASK_API_KEYS, with commas.",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
    patch_check: Annotated[
        list[str] | None,
        typer.Option(
            "--patch-check",
            help="NAME=COMMAND that requests to /v1/patches may have a patch judged by, in the sandbox. Repeatable.",
            rich_help_panel=SERVER,
            show_default=False,
        ),
    ] = None,
    playground: Annotated[
        bool,
        typer.Option(
            "--playground/--no-playground",
            help="A page at / to try the model in a browser.",
            rich_help_panel=SERVER,
        ),
    ] = True,
    oracle: Oracles = None,
    log_format: Annotated[str, typer.Option("--log-format", help="text or json.", rich_help_panel=SERVER)] = "text",
    context: Annotated[
        int | None,
        typer.Option(
            "--max-context",
            help="Longest prompt plus output in tokens; the model's own if left out.",
            rich_help_panel=LIMITS,
            show_default=False,
        ),
    ] = None,
    concurrent: Annotated[
        int,
        typer.Option(
            "--max-concurrent", "--max-running-requests", help="Requests decoded at a time.", rich_help_panel=LIMITS
        ),
    ] = 64,
    queue: Annotated[
        int,
        typer.Option(
            "--max-queue",
            help="Requests that may wait; more get 429.",
            rich_help_panel=LIMITS,
        ),
    ] = 256,
    body: Annotated[
        int,
        typer.Option(
            "--max-body-bytes",
            help="Largest request body in bytes.",
            rich_help_panel=LIMITS,
        ),
    ] = 4 << 20,
    seconds: Annotated[
        float,
        typer.Option(
            "--request-seconds",
            help="Longest time for one request.",
            rich_help_panel=LIMITS,
        ),
    ] = 600.0,
    shutdown: Annotated[
        float,
        typer.Option("--shutdown-seconds", help="How long requests may run on after SIGTERM.", rich_help_panel=LIMITS),
    ] = 30.0,
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
            help="Run replicas of the model under Ray Serve: on the cluster of RAY_ADDRESS, else on this machine.",
            rich_help_panel=MANY,
        ),
    ] = False,
    replicas: Replicas = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            "--max-replicas",
            help="Add replicas under load, up to so many, and remove them again.",
            rich_help_panel=MANY,
            show_default=False,
        ),
    ] = None,
    cpus: CpusPerReplica = None,
) -> None:
    """Serve a model over HTTP, for OpenAI's clients. Decoding flags are defaults for requests that do not choose."""
    if not ray and (replicas != 1 or max_replicas is not None or cpus is not None):
        raise ValueError("--replicas, --max-replicas and --cpus-per-replica need --ray")
    if ray and oracle:
        raise ValueError("--oracle does not go with --ray: functions of this process are not sent to others")
    if trust_remote_code:
        err.print("--trust-remote-code: not needed; no code from a checkpoint is ever run here", style="dim")
    from unmask.server import Settings, create_app
    from unmask.server.auth import read_keys
    from unmask.server.logs import set_up
    from unmask.server.run import LOOPBACK, Server, take_socket
    from unmask.view import page as pages

    set_up(log_format)
    settings = Settings(
        names=tuple(name or ()),
        defaults=options,
        api_keys=read_keys(api_key_file, os.environ),
        max_context=context,
        max_queue=queue,
        body_bytes=body,
        request_seconds=seconds,
        shutdown_seconds=shutdown,
        patch_checks=named_commands(patch_check or ()),
        oracles=registered(oracle or ()),
    )
    taken = take_socket(host, port)  # before the model is loaded: a taken port should not cost a minute
    page = pages.playground() if playground else None
    if host not in LOOPBACK and not settings.api_keys:
        err.print(f"anyone who reaches {host} may use this server: it asks for no API key", style="yellow")
    loading |= {"max_live": concurrent, "max_tokens_cached": cached, "tp": tp}
    if ray:
        fleet = fleet_of(model, loading, settings, (replicas, max_replicas or replicas), cpus, page)
        serve_fleet(fleet, model, taken)
        return
    with taken:
        lm = load_model(model, **loading)
        app = create_app(lm, settings, page)
        server = Server(app, ready=lambda: err.print(greeting(app, taken.getsockname()), soft_wrap=True))
        try:
            server.run(sockets=[taken])
        finally:
            lm.close()
    if server.failed:
        print(f"unmask: {server.failed}; the server has ended", file=sys.stderr, flush=True)
        os._exit(1)  # a thread may be waiting for a GPU that waits for a process that is gone


def named_commands(given: Sequence[str]) -> dict[str, str]:
    """NAME=COMMAND, as a table."""
    found = dict[str, str]()
    for text in given:
        name, sign, command = text.partition("=")
        if not sign or not name.strip() or not command.strip():
            raise ValueError(f"--patch-check must be NAME=COMMAND, got {text!r}")
        found[name.strip()] = command.strip()
    return found


def greeting(app: FastAPI, address: tuple[Any, ...]) -> str:
    service = app.state.service
    host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    card = service.model_card(service.names[0])
    page = any(getattr(route, "path", None) == "/" for route in app.routes)
    return (
        f"Serving {', '.join(service.names)} at http://{host}:{address[1]}/v1"
        f" (mode {card['capabilities']['default_mode']}, {card['capabilities']['exactness']}). "
        + (f"Try it in a browser: http://{host}:{address[1]}/ " if page else "")
        + "Ctrl-C stops."
    )
