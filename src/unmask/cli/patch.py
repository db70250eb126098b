"""`unmask patch`: mask what is wrong in a file, fill it, judge it in a copy, show or write what may stand."""

from __future__ import annotations

import json
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmask.cli.common import DEFAULT_MODEL, err, load_model, opened
from unmask.cli.constraining import CONSTRAINTS, constrained, declared, loaded
from unmask.cli.fill import FILLING
from unmask.cli.flags import DECODING, LOADING, Model, TraceFile, flag, with_flags

if TYPE_CHECKING:
    from unmask.patching import Mended, Patched
    from unmask.types import Oracle

ACCEPTED, REJECTED, _, UNSATISFIABLE, NO_VERIFIER, CHANGED = range(6)  # 2: a mistake in what was asked
WHERE, HOLDS, SEEN = "Where", "What has to hold", "What the model sees"
ASKED: dict[str, Any] = {
    "lines": flag(str, WHERE, "Whole lines: 12 or 12-15.", "--lines"),
    "range": flag(str, WHERE, "12:5-12:20, columns in characters from 1, the last left out.", "--range"),
    "symbol": flag(str, WHERE, "A class or function: Cls.meth, Cls.meth:body or Cls.meth:signature.", "--symbol"),
    "marker": flag(str, WHERE, "Text that stands in the file once.", "--marker"),
    "from_diagnostic": flag(
        str, WHERE, "What python (our own checks), ruff, mypy, pytest or a traceback says.", "--from-diagnostic"
    ),
    "code": flag(str, WHERE, "Only a diagnostic with this code.", "--select"),
    "max_faults": flag(
        int, WHERE, "With --from-diagnostic: so many faults at most, one after the other, are mended.", "--max"
    ),
    "grow": flag(str, WHERE, "The part may grow to the expr, stmt, block or def around it.", "--grow"),
    "candidates": flag(int, WHERE, "Fillings tried at each of these levels; 4.", "--candidates"),
    "constraint": flag(
        list[str],
        HOLDS,
        """As JSON: {"type": "calls", "must_not": ["eval"]}, layers, sqlalchemy, mypy ...""",
        "--constraint",
    ),
    "oracle": flag(list[str], HOLDS, "MODULE:FUNCTION that says what of the file may stand. Repeatable.", "--oracle"),
    "verify": flag(list[str], HOLDS, "A command that has to succeed in a copy of the root. Repeatable.", "--verify"),
    "root": flag(Path, HOLDS, "Folder that is copied for it; the project around the file if not given.", "--root"),
    "seconds": flag(float, HOLDS, "Processor time of a command; 60.", "--timeout"),
    "unconfined": flag(
        bool, HOLDS, "Run commands with your own rights, home folder and network, in the copy.", "--unconfined"
    ),
    "instruction": flag(str, SEEN, "What is wanted, as a comment above the part; it is not written.", "--instruction"),
    "context": flag(list[str], SEEN, "FILE or FILE:SYMBOL, seen before the file. Repeatable.", "--context"),
}
OWN_FILLING = {name: FILLING[name] for name in ("layout", "heal", "untrained")}
ROOTS = (".git", "pyproject.toml", "setup.py", "setup.cfg")


@with_flags(options=DECODING, loading=LOADING, constraint=CONSTRAINTS, filling=OWN_FILLING, asked=ASKED)
def patch(
    file: Annotated[Path, typer.Argument(help="Text file; Python files are checked for syntax, names and imports.")],
    options: dict[str, Any],
    loading: dict[str, Any],
    constraint: dict[str, Any],
    filling: dict[str, Any],
    asked: dict[str, Any],
    model: Model = DEFAULT_MODEL,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            help="What the tool printed: a file, or - for stdin. ruff and mypy are run if it is not given.",
            rich_help_panel=WHERE,
            show_default=False,
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Change the file, whole or not at all.")] = False,
    backup: Annotated[bool, typer.Option("--backup", help="With --write: keep the old one as FILE.orig.")] = False,
    trace: TraceFile = None,
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object, nothing else.")] = False,
) -> None:
    """Patch a part of a file. Prints the change as a unified diff; the file stays as it is unless --write is given.

    A filling is accepted if what was wrong is gone and nothing new is. Exit codes: 0 accepted, 1 nothing acceptable
    (the nearest candidate is shown, nothing is written), 2 a mistake in what was asked, 3 a constraint that cannot be
    kept, 4 a verifier that cannot be run, 5 the file has changed meanwhile.
    """
    from unmask.constraints import ConstraintError
    from unmask.patching import FileChangedError, Mended, VerifierError
    from unmask.patching.plain import as_object as plain
    from unmask.patching.plain import series_object, series_summary, summary

    if backup and not write:
        raise ValueError("--backup belongs to --write: without it the file stays as it is")
    given = dict(asked)
    given["verify"] = tuple(given.get("verify") or ())
    root = given.get("root") or root_of(file)
    own = [loaded(text) for text in given.pop("oracle", ())]
    given["oracles"] = (*oracles(given.pop("constraint", ()), path_in(root, file), root), *own)
    given["context"] = context(given.get("context") or (), root)
    given |= {"root": root, "report": None if report is None else read(report)}
    data, path, old = file.read_bytes(), path_in(root, file), None
    try:
        found = patched(model, loading, data, path, given | filling | constrained(options, constraint), trace)
        if write and found.accepted:
            old = found.write(file, backup)
    except FileChangedError as error:
        raise told(error, CHANGED) from None
    except ConstraintError as error:
        raise told(error, UNSATISFIABLE) from None
    except VerifierError as error:
        raise told(error, NO_VERIFIER) from None
    if as_object:
        made = series_object(found) if isinstance(found, Mended) else plain(found)
        print(json.dumps(made | {"written": write and found.accepted, "backup": None if old is None else old.name}))
    else:
        sys.stdout.write(found.diff)
        line = series_summary(found) if isinstance(found, Mended) else summary(found)
        if old is not None:
            line += f"; the old file is {old.name}"
        err.print(line, style="dim", markup=False, soft_wrap=True)
    raise typer.Exit(ACCEPTED if found.accepted else REJECTED)


def patched(
    model: str, loading: dict[str, Any], data: bytes, path: str, given: dict[str, Any], trace: Path | None
) -> Patched | Mended:
    """The patch, or those of `--max`. The selector and the verifiers are tried before a model is loaded, so that a
    mistake costs nothing."""
    from unmask.lm.patching import fills_of
    from unmask.patching import Asked, series_of, task_of

    most = given.pop("max_faults", None)
    own = {name: given.pop(name) for name in list(given) if name in Asked.__slots__}
    how = {name: given.pop(name) for name in OWN_FILLING if name in given}
    task = task_of(data, path, Asked(**own)) if most is None else series_of(data, path, Asked(**own), most)
    record = opened(trace)
    lm = load_model(model, **loading)
    lm.trace = record
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        fills = fills_of(lm, given, **how)
    for note in notes:
        err.print(f"unmask: {note.message}", style="yellow", markup=False, soft_wrap=True)
    return task.run(fills)


def oracles(given: Sequence[str], path: str, root: Path) -> tuple[Oracle, ...]:
    """Those of patches, and the soft constraints of generation."""
    from unmask.lm.patching import about_written
    from unmask.lm.soft import constraint_of, is_oracle
    from unmask.patching.oracles.specs import FIELDS, oracle_of

    made: list[Oracle] = []
    for one in map(declared, given):
        found = oracle_of(one, path, root) if one.get("type") in FIELDS else constraint_of(one)
        if not is_oracle(found):
            raise ValueError(
                f"--constraint {one.get('type')!r:.80} is no check of a file; it may have a flag of its own"
            )
        made.append(about_written(found))
    return tuple(made)


def told(error: Exception, code: int) -> typer.Exit:
    print(f"unmask: {' '.join(str(error).split())}", file=sys.stderr)
    return typer.Exit(code)


def read(report: str) -> str:
    return sys.stdin.read() if report == "-" else Path(report).read_text(encoding="utf-8", errors="replace")


def context(wanted: Sequence[str], root: Path) -> dict[str, str]:
    """Texts by name; where two would have one name, the later one has its path as it was given."""
    found = dict[str, str]()
    for given in wanted:
        name, text = seen(given, root)
        found[name if found.get(name, text) == text else given] = text
    return found


def seen(text: str, root: Path) -> tuple[str, str]:
    """(name, text) of FILE or FILE:SYMBOL. The name is relative to the root, or that of the file alone."""
    from unmask.patching.select import symbol
    from unmask.patching.source import Source
    from unmask.patching.tree import whole_row

    path, _, wanted = (text, "", "") if Path(text).is_file() else text.partition(":")
    file = Path(path)
    source = Source.of(file.read_bytes(), f"--context {path}")
    place, base = file.resolve(), root.resolve()
    name = place.relative_to(base).as_posix() if place.is_relative_to(base) else file.name
    if not wanted:
        return name, source.text
    try:
        return f"{name}: {wanted}", textwrap.dedent(source.inside(whole_row(source, symbol(source, wanted))))
    except ValueError as error:
        raise ValueError(f"--context {text}: {error}") from None


def root_of(file: Path) -> Path:
    """The nearest folder above a file that looks like a project; the file's own folder where none does."""
    folder = file.resolve().parent
    return next((one for one in (folder, *folder.parents) if any((one / name).exists() for name in ROOTS)), folder)


def path_in(root: Path, file: Path) -> str:
    place, base = file.resolve(), root.resolve()
    if not place.is_relative_to(base):
        raise ValueError(f"--root {root} does not hold {file}")
    return place.relative_to(base).as_posix()
