"""An app under uvicorn: the socket is taken first, the first signal lets requests finish, the second one does not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

log = logging.getLogger("unmask.server")
LINGER = 2.0  # seconds that an ended request has to say so to its client
INTERRUPTED = 130
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def take_socket(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; OSError, in one line, where the address cannot be had."""
    if not 0 <= port <= 65535:  # the system would take it modulo 65536
        raise ValueError(f"port must be between 0 and 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot serve on host {host!r}, port {port}: {error}") from None
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise OSError(f"cannot serve on {host} port {port}: {error.strerror or error}") from None
    return taken


class Server(uvicorn.Server):
    """uvicorn with our ending: SIGTERM and SIGINT alike drain at first, and end the process at once when repeated.

    A drained server ends with exit code 0: `handle_exit` notes no signal that uvicorn would raise again.
    """

    def __init__(self, app: FastAPI, ready: Callable[[], None] = lambda: None) -> None:
        """ready: called once requests are let in."""
        self.ready = ready
        self.failed: str | None = None  # why it ended, where that was no wish of anybody's
        self.loop: asyncio.AbstractEventLoop | None = None
        self.service = app.state.service
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(self.service.settings.shutdown_seconds + LINGER) + 1,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.service.on_loss(self.fail)
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        name = signal.Signals(sig).name
        if self.should_exit:
            log.warning(f"{name} again: stopping at once")
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(INTERRUPTED)  # the engine's thread may be in a long forward, which nothing else can end
        log.info(f"{name}: no new requests; {len(self.service.calls)} may finish (once more stops at once)")
        self.stop()

    def fail(self, why: str) -> None:
        """End because the model cannot go on, from any thread: what runs is answered with an error, at once."""
        self.failed, self.should_exit = why, True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.service.break_off)

    def stop(self) -> None:
        """Begin to end, from any thread."""
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.service.drain)
