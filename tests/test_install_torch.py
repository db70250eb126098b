"""Which torch the set-up picks, without installing one."""

from __future__ import annotations

import tomllib

import pytest

from scripts.install_torch import PYPROJECT, Choice, Wanted, available, choose, release, wanted

WANT = Wanted((2, 11), (2, 14))
REGISTRY = ["2.15.0", "2.14.1", "2.13.0", "2.12.1", "2.11.0", "2.10.0"]
RANGE = "torch>=2.11,<2.14"


@pytest.mark.parametrize(
    ("versions", "system", "gpu", "choice"),
    [
        pytest.param(REGISTRY, "Linux", False, Choice("uv", RANGE), id="registry-has-only-cuda"),
        pytest.param(REGISTRY, "Linux", True, Choice("pip", RANGE), id="gpu"),
        pytest.param(["2.13.0+cpu"], "Linux", True, Choice("pip", RANGE), id="gpu-before-cpu-build"),
        pytest.param(REGISTRY, "Darwin", False, Choice("pip", RANGE), id="macos"),
        pytest.param(REGISTRY, "Windows", False, Choice("pip", RANGE), id="windows"),
        pytest.param(
            [*REGISTRY, "2.12.1+cpu"], "Linux", False, Choice("pip", "torch==2.12.1+cpu"), id="local-cpu-wheel"
        ),
        pytest.param(
            ["2.9.1+cpu", "2.11.0+cpu", "2.14.0+cpu"], "Linux", False, Choice("pip", "torch==2.11.0+cpu"), id="range"
        ),
        pytest.param(["2.13.2+cpu", "2.13.10+cpu"], "Linux", False, Choice("pip", "torch==2.13.10+cpu"), id="newest"),
        pytest.param(["2.14.0+cpu", "2.13.0+cu130"], "Linux", False, Choice("uv", RANGE), id="no-build-that-fits"),
        pytest.param([], "Linux", False, Choice("uv", RANGE), id="pip-found-nothing"),
    ],
)
def test_choice(versions: list[str], system: str, gpu: bool, choice: Choice) -> None:
    assert choose(versions, system, gpu, WANT) == choice


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.13.0", (2, 13, 0)),
        ("2.13.0+cpu", (2, 13, 0)),
        ("2.14.0rc1", None),
        ("2.14.0.dev20260101+cpu", None),
        ("", None),
    ],
)
def test_release(version: str, numbers: tuple[int, ...] | None) -> None:
    assert release(version) == numbers


@pytest.mark.parametrize(
    ("version", "fits"), [("2.10.9", False), ("2.11.0", True), ("2.13.9+cpu", True), ("2.14.0", False)]
)
def test_range(version: str, fits: bool) -> None:
    assert (version in WANT) == fits


def test_range_is_the_one_the_package_asks_for() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    assert str(wanted(text)) in tomllib.loads(text)["project"]["dependencies"]


def test_a_package_without_a_range_is_refused() -> None:
    with pytest.raises(SystemExit, match="torch>=A,<B"):
        wanted('[project]\ndependencies = ["torch"]')


def test_versions_are_read_from_what_pip_prints() -> None:
    listing = "torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cpu, 2.13.0\n  INSTALLED: 2.13.0\n"
    assert available(listing) == ["2.15.0", "2.13.0+cpu", "2.13.0"]
    assert available("") == []
