"""What every suite is: settings with defaults, a run from a loaded model to plain numbers, tables, perhaps a picture.

A suite module ends with `SUITE = Suite(...)` and has a line in `evaluation.SUITES`. Its settings are a dataclass whose
fields are the flags of `unmask eval` that it takes (dashes for underscores); any other flag is refused for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from unmask.lm import LM, Options, options_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (what is done, how much of it, of how much)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Job:
    """One run of a suite. rows: the file of its samples, one a line, read first if it is there (see `rows.Rows`).

    options: of `LM.generate`, those that the user has set, for a suite that decodes as it is told. load: another model
    by its name. adapter: the folder that was asked for.
    """

    lm: LM
    settings: Any
    rows: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = lambda what, done, total: None
    load: Callable[[str], LM] = LM.load
    adapter: str | None = None


@dataclass(frozen=True)
class Suite:
    """settings: its dataclass. decodes: it takes the options of `LM.generate`. exactness: what it loads a model with
    unless told otherwise. picture: drawn beside the numbers where matplotlib is installed."""

    settings: type
    run: Callable[[Job], dict[str, Any]]
    tables: Callable[[dict[str, Any]], Iterable[Table]]
    decodes: bool = False
    exactness: str | None = None
    picture: Callable[[dict[str, Any]], Figure | None] | None = None


def settings_and_options(suite: Suite, name: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(settings, options of generation) from the flags that were set; ValueError for a flag of other suites."""
    own = {item.name for item in fields(suite.settings)}
    decoding = {item.name for item in fields(Options)} if suite.decodes else set[str]()
    if foreign := [key for key in given if key not in own | decoding]:
        raise ValueError(f"--{foreign[0].replace('_', '-')} does not apply to suite {name!r}")
    options = {key: value for key, value in given.items() if key not in own}
    options_of(options)
    return suite.settings(**{key: value for key, value in given.items() if key in own}), options
