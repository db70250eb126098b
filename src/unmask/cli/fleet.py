"""`unmask serve --ray`: replicas of a model under Ray Serve, and this process as the one address in front of them."""

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
    from unmask.view.page import Page


def serve_fleet(
    model: str,
    loading: Mapping[str, Any],
    settings: Settings,
    page: Page | None,
    taken: socket.socket,
    bounds: tuple[int, int],
    cpus: float | None,
) -> None:
    """Serve until told to stop. loading: what each replica gives `LM.load`; bounds: fewest and most replicas."""
    if find_spec("ray") is None:
        raise ValueError("--ray needs Ray Serve: pip install 'unmask[ray]'")
    from unmask.lm.loading import device_of
    from unmask.server.cluster import Fleet, processors, started
    from unmask.server.door import create_door
    from unmask.server.run import Server

    least, most = bounds
    fleet = Fleet(
        loading={**loading, "name": checked(model, loading["tp"]), "adapter": adapter_of(loading.get("adapter"))},
        settings=settings,
        page=page,
        least=least,
        most=most,
        cpus=processors() / max(most, 1) if cpus is None else cpus,
        gpus=loading["tp"] if device_of(loading.get("device")).type == "cuda" else 0,
    )
    with ExitStack() as stack:
        stack.enter_context(taken)
        try:
            with quiet_spinner(f"Starting Ray and {least} replicas"):
                replicas = stack.enter_context(started(fleet))
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            print(f"unmask: the replicas did not start: {lines[-1] if lines else 'Ray says no more'}", file=sys.stderr)
            raise typer.Exit(1) from error
        number = f"{least} replicas" if most == least else f"{least} to {most} replicas"
        host, port = taken.getsockname()[:2]
        name = settings.names[0] if settings.names else Path(model).name
        text = f"Serving {name} at http://{f'[{host}]' if ':' in host else host}:{port}/v1 ({number}). Ctrl-C stops."
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
