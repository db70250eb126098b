"""Replicas of a model under Ray, for `unmask serve --ray` and `unmask batch --ray`."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unmask.cli.common import err, pull_with_progress, quiet_spinner

if TYPE_CHECKING:
    from unmask.server import Settings
    from unmask.server.cluster import Fleet
    from unmask.view.page import Page


def fleet_of(
    model: str,
    loading: Mapping[str, Any],
    settings: Settings,
    bounds: tuple[int, int],
    cpus: float | None,
    page: Page | None = None,
) -> Fleet:
    """The replicas, checked here. loading: what each gives `LM.load`; bounds: fewest and most of them.

    ValueError or OSError, in one line, before a replica would fail.
    """
    need("ray")
    from unmask.lm.loading import device_of
    from unmask.server.cluster import Fleet, processors

    least, most = bounds
    return Fleet(
        loading={**loading, "name": checked(model, loading["tp"]), "adapter": adapter_of(loading.get("adapter"))},
        settings=settings,
        page=page,
        least=least,
        most=most,
        cpus=processors() / max(most, 1) if cpus is None else cpus,
        gpus=loading["tp"] if device_of(loading.get("device")).type == "cuda" else 0,
    )


def need(*modules: str) -> None:
    """ValueError where one of them is not installed."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise ValueError(f"--ray needs {', '.join(missing)}: pip install 'unmask[ray]'")


def serve_fleet(fleet: Fleet, model: str, taken: socket.socket) -> None:
    """Serve until told to stop: replicas under Ray Serve, and this process as the one address in front of them."""
    from unmask.server.cluster import started, told_by
    from unmask.server.door import create_door
    from unmask.server.run import Server

    with ExitStack() as stack:
        stack.enter_context(taken)
        try:
            with quiet_spinner(f"Starting Ray and {fleet.least} replicas"):
                replicas = stack.enter_context(started(fleet))
        except RuntimeError as error:
            print(f"unmask: the replicas did not start: {told_by(error)}", file=sys.stderr)
            raise typer.Exit(1) from error
        least, most, settings = fleet.least, fleet.most, fleet.settings
        number = f"{least} replicas" if most == least else f"{least} to {most} replicas"
        host, port = taken.getsockname()[:2]
        name = settings.names[0] if settings.names else Path(model).name
        at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        page = f" Try it in a browser: {at}/" if fleet.page else ""
        text = f"Serving {name} at {at}/v1 ({number}).{page} Ctrl-C stops."
        Server(create_door(replicas, settings), ready=lambda: err.print(text, soft_wrap=True)).run(sockets=[taken])


def checked(model: str, tp: int) -> str:
    """The model's name, absolute if it is a path. ValueError or OSError, in one line, before a replica would fail."""
    from unmask.model import sharding, store
    from unmask.model.checkpoint import open_checkpoint

    if any(known.name == model and not known.present for known in store.models()):
        pull_with_progress(model)
    sharding.check(open_checkpoint(store.resolve(model)).config, tp)
    path = Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def adapter_of(given: str | None) -> str | bool | None:
    if given is None:
        return None
    return False if given == "none" else str(Path(given).expanduser().resolve())
