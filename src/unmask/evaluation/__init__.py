"""What a model can do, measured: suites by name, each from a loaded model to plain numbers and tables."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unmask.evaluation.suite import Suite

# Name -> module, which is loaded when it is asked for.
SUITES = {
    "diffusion": "unmask.evaluation.diffusion",
    "starter": "unmask.evaluation.starter",
    "humaneval": "unmask.evaluation.humaneval",
    "infill": "unmask.evaluation.infill",
    "patch": "unmask.evaluation.patches",
    "light": "unmask.evaluation.light",
    "decay": "unmask.evaluation.decay.suite",
    "revision": "unmask.evaluation.revision",
    "schemas": "unmask.evaluation.schemas.suite",
}


def check_suite(name: str) -> str:
    """The name; ValueError, naming those there are, for any other."""
    if name not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {name!r}")
    return name


def suite_of(name: str) -> Suite:
    """The suite of that name; ValueError as `check_suite`."""
    suite: Suite = import_module(SUITES[check_suite(name)]).SUITE
    return suite
