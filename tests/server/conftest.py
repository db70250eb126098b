"""A server and the same model alone beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Running, running
from unmask import LM
from unmask.server import Settings


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
