"""Checkpoints of a run: safetensors for tensors, JSON for the rest, each folder whole or not at all.

<run>/run.json        what the run is: its settings and its model
<run>/steps/000200/   state.json (step, cursor, figures) and tensors.safetensors (weights, optimiser, average,
                      generator); of a sharded run a file per process instead, each with its rows of every tensor
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.training.files import UNFINISHED, close_folder, explained, open_folder, replace_folder, write_json

VERSION = 1


@dataclass(frozen=True, slots=True)
class Saved:
    """One checkpoint. state: step, elapsed seconds, cursor of the data, measured figures."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def score(self) -> float | None:
        """What is minimised on held-out data, where it was measured."""
        return self.state.get("score")

    def tensors(self) -> Mapping[str, Tensor]:
        """Whole tensors by name, each read when it is asked for. ValueError where the files are broken."""
        return Tensors(self.folder, self.state.get("parts", 1))


class Tensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint; one that lies in several files, in rows, is put together when it is asked for."""

    def __init__(self, folder: Path, parts: int) -> None:
        self.folder, self.where = folder, dict[str, list[Any]]()
        files = sorted(folder.glob("tensors*.safetensors"))
        if len(files) != parts:
            there = f"{len(files)} of {parts} files of tensors are there"
            raise ValueError(f"checkpoint {folder} is broken: {there}; remove that folder to go on")
        for file in files:
            with self.readable():
                opened = safe_open(file, framework="pt")
                for name in opened.offset_keys():  # type: ignore[no-untyped-call]
                    self.where.setdefault(name, []).append(opened)

    def __getitem__(self, name: str) -> Tensor:
        with self.readable():
            parts = [opened.get_tensor(name) for opened in self.where[name]]
            return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)

    @contextmanager
    def readable(self) -> Iterator[None]:
        try:
            yield
        except (SafetensorError, OSError) as error:
            raise ValueError(f"checkpoint {self.folder} is broken: {error}; remove that folder to go on") from error


def begin(run: Path, identity: Mapping[str, Any], free: Collection[str] = (), defaults: Any = None) -> None:
    """Claim a folder for a run, or check that it belongs to this one; ValueError names the first difference.

    free: names ("settings.save_every") whose values may differ. defaults: of settings that an older run did not have.
    """
    file = run / "run.json"
    if file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not a run of unmask: {error}") from error
        found = completed(found, json.loads(json.dumps(defaults or {})))
        if difference := first_difference(found, json.loads(json.dumps(dict(identity))), "", free):
            raise ValueError(f"{run} belongs to another run: {difference}; give another folder, or the same settings")
        return
    if run.exists() and any(run.iterdir()):
        raise ValueError(f"{run} is not empty and holds no run (no run.json); give another folder")
    run.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(identity))


def completed(found: Any, defaults: Any) -> Any:
    """`found`, with what only the defaults have."""
    if not (isinstance(found, dict) and isinstance(defaults, dict)):
        return found
    return defaults | {key: completed(value, defaults.get(key)) for key, value in found.items()}


def first_difference(found: Any, ours: Any, where: str, free: Collection[str] = ()) -> str | None:
    if where in free:
        return None
    if isinstance(found, dict) and isinstance(ours, dict):
        for key in [*found, *(key for key in ours if key not in found)]:
            name = f"{where}.{key}".lstrip(".")
            if key not in found or key not in ours:
                return f"{name} is only in {'its' if key in found else 'the new'} settings"
            if difference := first_difference(found[key], ours[key], name, free):
                return difference
        return None
    return None if found == ours else f"{where} was {found!r}, now {ours!r}"


def save(run: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep_last: int) -> Path:
    """Write a checkpoint, then remove those that are neither the best nor among the last."""
    folder = folder_of(run, state)
    with replace_folder(folder) as new:
        write_tensors(new / "tensors.safetensors", tensors)
        write_state(new, state)
    forget(run, keep_last)
    return folder


def save_part(
    run: Path,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep_last: int,
    place: tuple[int, int],
    anyone: Callable[[bool], bool],
) -> Path:
    """As `save`, called by all processes of a sharded run on one file system: each writes its rows of the tensors.

    place: (rank, processes). anyone: whether it was given True in any process. All processes return, or all raise.
    """
    folder, (rank, world) = folder_of(run, state), place
    new = folder.with_name(UNFINISHED + folder.name)

    def together(action: Callable[[], object]) -> None:
        failed: BaseException | None = None
        try:
            action()
        except Exception as error:
            failed = explained(error, folder)
        if anyone(failed is not None):
            if rank == 0:
                shutil.rmtree(new, ignore_errors=True)
            raise failed or OSError(f"{folder} was not written: another process could not write its part")

    def finish() -> None:
        write_state(new, {**state, "parts": world})
        close_folder(new, folder)
        forget(run, keep_last)

    def others() -> None:
        """Have nothing to do."""

    together((lambda: open_folder(folder)) if rank == 0 else others)
    together(lambda: write_tensors(new / f"tensors-{rank + 1:05d}-of-{world:05d}.safetensors", tensors))
    together(finish if rank == 0 else others)
    return folder


def folder_of(run: Path, state: Mapping[str, Any]) -> Path:
    return run / "steps" / f"{state['step']:06d}"


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    (folder / "state.json").write_text(json.dumps({"version": VERSION, **state}, indent=1) + "\n")


def forget(run: Path, keep_last: int) -> None:
    """Remove all checkpoints but the best and the last ones."""
    every = saved(run)
    keep = {item.folder for item in every[-keep_last:]}
    if best := best_of(every):
        keep.add(best.folder)
    for other in (run / "steps").iterdir():  # what a kill has left half written or half removed is here as well
        if other not in keep:
            shutil.rmtree(other, ignore_errors=True)


def saved(run: Path) -> list[Saved]:
    """All whole checkpoints of a run, in the order of their steps."""
    found = list[Saved]()
    for file in sorted((run / "steps").glob("[0-9]*/state.json")):
        try:
            state = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"checkpoint {file.parent} is broken: {error}; remove that folder to go on") from error
        if state.get("version") != VERSION:
            raise ValueError(f"checkpoint {file.parent} has version {state.get('version')}, expected {VERSION}")
        found.append(Saved(file.parent, state))
    return sorted(found, key=lambda item: item.step)


def best_of(every: list[Saved]) -> Saved | None:
    """The one with the lowest score; None where none was measured."""
    return min((item for item in every if item.score is not None), key=lambda item: item.score or 0.0, default=None)
