"""Checkpoints of a run: safetensors for tensors, JSON for the rest, each folder whole or not at all.

<run>/run.json        what the run is: its settings and its model
<run>/steps/000200/   tensors.safetensors (weights, optimiser, average, generator), state.json (step, cursor, figures)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unmask.training.files import replace_folder, write_json

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

    def tensors(self) -> dict[str, Tensor]:
        file = self.folder / "tensors.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.offset_keys()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"checkpoint {self.folder} is broken: {error}; remove that folder to go on") from error


def begin(run: Path, identity: Mapping[str, Any]) -> None:
    """Claim a folder for a run, or check that it belongs to this one; ValueError names the first difference."""
    file = run / "run.json"
    if file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is not a run of unmask: {error}") from error
        if difference := first_difference(found, json.loads(json.dumps(dict(identity))), ""):
            raise ValueError(f"{run} belongs to another run: {difference}; give another folder, or the same settings")
        return
    if run.exists() and any(run.iterdir()):
        raise ValueError(f"{run} is not empty and holds no run (no run.json); give another folder")
    run.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(identity))


def first_difference(found: Any, ours: Any, where: str) -> str | None:
    if isinstance(found, dict) and isinstance(ours, dict):
        for key in [*found, *(key for key in ours if key not in found)]:
            name = f"{where}.{key}".lstrip(".")
            if key not in found or key not in ours:
                return f"{name} is only in {'its' if key in found else 'the new'} settings"
            if difference := first_difference(found[key], ours[key], name):
                return difference
        return None
    return None if found == ours else f"{where} was {found!r}, now {ours!r}"


def save(run: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep_last: int) -> Path:
    """Write a checkpoint, then remove those that are neither the best nor among the last."""
    folder = run / "steps" / f"{state['step']:06d}"
    with replace_folder(folder) as new:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, new / "tensors.safetensors")
        (new / "state.json").write_text(json.dumps({"version": VERSION, **state}, indent=1) + "\n")
    every = saved(run)
    keep = {item.step for item in every[-keep_last:]}
    if best := best_of(every):
        keep.add(best.step)
    for item in every:
        if item.step not in keep:
            shutil.rmtree(item.folder, ignore_errors=True)
    return folder


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
