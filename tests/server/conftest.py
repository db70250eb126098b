"""A server and the same model alone beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Running, running
from unmask import LM
from unmask.server import Settings


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """`unmask serve` sends its log to this test's stderr, which is closed when others log."""
    loggers = [logging.getLogger(name) for name in ("unmask.server", "uvicorn")]
    before = [(one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, (handlers, propagate, level) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture(scope="package")
def alone(tiny_folder: Path) -> LM:
    """The served model, for single runs: what a server says is held against it."""
    return LM.load(tiny_folder, dtype="float32", exactness="exact")


@pytest.fixture(scope="package")
def shared(tiny_folder: Path) -> Iterator[Running]:
    with running(tiny_folder, Settings(names=("tiny", "other"))) as server:
        yield server


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    """A server that must be idle again after every test."""
    yield shared
    shared.idle()
