"""A headless Chromium for tests of the pages. Without one they are skipped, with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # its event loop has to be gone before other tests run theirs
def chromium() -> Iterator[Any]:
    """A browser, driven by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev`)")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium-headless-shell)")
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not work for root, as in most containers; the pages are ours.
        browser = driver.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Where screenshots go: into docs/images where UNMASK_SCREENSHOTS=1 asks for them, else nowhere that stays."""
    return Path(__file__).parents[2] / "docs" / "images" if os.environ.get("UNMASK_SCREENSHOTS") == "1" else tmp_path
