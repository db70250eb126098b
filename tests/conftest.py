"""What every test shares: the one real model, and reproducible hypothesis examples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run, and a failure that can be pasted into @reproduce_failure; no deadline, because a
# busy machine is not a bug.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "smollm2_gguf" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)
    # Files with long tests first, so that the last of several processes does not begin with them.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The SmolLM2-135M GGUF file, pulled into the cache folder on first use.

    A model that cannot be had is a failure, unless UNMASK_OFFLINE_OK=1 says that this machine has no network.
    """
    from unmask.model import store

    try:
        return store.resolve("smollm2-135m")
    except ConnectionError as error:
        if os.environ.get("UNMASK_OFFLINE_OK") == "1":
            pytest.skip(f"SmolLM2 cannot be pulled here, and UNMASK_OFFLINE_OK=1 allows that: {error}")
        raise


@pytest.fixture(scope="session", autouse=True)
def own_measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests measure is kept apart from what the user's models were measured at."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmask.engine.known.folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in a folder, with mask id, tokenizer and end token: everything runs on it, in milliseconds."""
    from tests.tinymodel import write_model

    return write_model(tmp_path_factory.mktemp("tiny"))
