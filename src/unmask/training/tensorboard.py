"""TensorBoard event files of a run: a `Progress` callback, so that the loop does not know of them (extra `train`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask.training.plot import LOSSES


class Board:
    """Writes what a step logged to `folder`: losses/*, train/*, and heldout/* where something was measured.

    Losses are nats per token or per unit of weight. Events of steps that a resumed run does again are dropped. Raises
    ValueError where the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise ValueError("tensorboard event files need the extra 'train': pip install 'unmask[train]'")
        self.folder = folder
        self.writer: Any = None  # made at the first step, which only the first of several processes is told of

    def __call__(self, figures: dict[str, Any]) -> None:
        step = figures["step"]
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in scalars(figures).items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def scalars(figures: dict[str, Any]) -> dict[str, float]:
    """What a step logged, as named numbers."""
    found = {"losses/total": figures["loss"]}
    found |= {f"losses/{name}": figures[name] / figures[by] for name, by in LOSSES.items() if figures[by]}
    train = ("lr", "norm", "tokens", "tokens_per_second", "mfu")
    found |= {f"train/{name}": figures[name] for name in train if name in figures}
    measured = figures.get("eval") or {}
    found |= {f"heldout/{name}": value for name, value in measured.items() if isinstance(value, int | float)}
    places = enumerate(measured.get("acceptance", []), 1)
    return found | {f"acceptance/slot {place:02}": value for place, value in places}
