"""A picture of a run, from its log: losses and held-out figures over tokens. Needs matplotlib (the extra `eval`)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask.training.log import read

LOSSES = {"ar": "ar_count", "draft": "draft_weight", "denoise": "denoise_weight"}  # sum in the log -> what divides it
POINTS = 400  # a longer curve is drawn as means of so many groups of steps


def plot_run(run_folder: str | Path, out_png: str | Path) -> Path:
    """Draw the run in `run_folder` (its log.jsonl) and write a PNG.

    Left: the losses of training, nats per token or per unit of weight, and AR NLL and NELBO on held-out samples. Right:
    tokens per round expected from the acceptance profile of held-out samples, where these were measured.
    Raises ModuleNotFoundError without matplotlib, ValueError for a run that has logged nothing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read(Path(run_folder) / "log.jsonl")
    if not lines:
        raise ValueError(f"{run_folder} has no steps in its log.jsonl: there is nothing to draw")
    measured = [line for line in lines if line.get("eval")]
    figure = Figure(figsize=(11 if measured else 6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    for name, divisor in LOSSES.items():
        kept = [line for line in lines if line.get(divisor) and line.get(name)]
        if kept:
            axes[0].plot(*thinned(tokens(kept), [line[name] / line[divisor] for line in kept]), label=name, linewidth=1)
    for key, label in (("ar_nll", "AR, held out"), ("nelbo", "NELBO, held out")):
        if kept := [line for line in measured if key in line["eval"]]:
            axes[0].plot(tokens(kept), [line["eval"][key] for line in kept], "o--", markersize=3, label=label)
    axes[0].set(title="losses", ylabel="nats per token")
    if measured:
        axes[1].plot(tokens(measured), [line["eval"].get("tokens_per_round") for line in measured], "o-", markersize=3)
        axes[1].set(title="expected tokens per round, held out", ylabel="tokens")
    for axis in axes:
        axis.set_xlabel("clean tokens seen, millions")
        axis.grid(alpha=0.3)
    if axes[0].lines:
        axes[0].legend()
    figure.savefig(out_png, dpi=120)
    return Path(out_png)


def can_plot() -> bool:
    return find_spec("matplotlib") is not None


def tokens(lines: Sequence[dict[str, Any]]) -> list[float]:
    return [line["tokens"] / 1e6 for line in lines]


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of neighbouring points, at most POINTS of them."""
    size = -(-len(x) // POINTS)
    groups = range(0, len(x), size)
    return tuple([sum(part := v[i : i + size]) / len(part) for i in groups] for v in (x, y))  # type: ignore[return-value]
