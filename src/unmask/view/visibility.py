"""Who sees whom in a forward of each mode and in training: plans of the real strategies, drawn by the real rule.

Drawing needs matplotlib (the extra `eval`), which is imported when one is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unmask.decoding import strategy
from unmask.training.layout import double, spans
from unmask.training.sample import Sample
from unmask.training.settings import Blocks, TrainConfig
from unmask.types import Diffusion, Plan, Request, Row, Span, Speculation, Traits
from unmask.visibility import mask, offsets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLOCK, PROMPT, MASK = 4, 5, 0
TRAITS = Traits(mask_id=MASK, block_size=BLOCK, trained=True)
SPECULATION = Speculation(draft_block_size=BLOCK, lookup=0)
# Colours of what a row sees, for rows of causal spans, of full spans, and of what is kept from before.
CAUSAL, FULL, KEPT = "#2f6fb3", "#d9822b", "#b9c1cb"


@dataclass(frozen=True, slots=True)
class View:
    """One forward. kept: rows of key/value memory that it finds, and all its rows see."""

    title: str
    spans: tuple[Span, ...]
    kept: int = 0


def views() -> list[View]:
    """A forward of each kind, from what the strategies themselves ask for."""
    prompt = strategy("ar").need(strategy("ar").start(request("ar", None)))
    diffusion = Diffusion(block_size=BLOCK, confidence_threshold=0.9)
    return [
        View("prefill: the prompt, causal", prompt.spans),
        forward("ar: one token", "ar", None, 3),
        forward("fastdiffuser: denoise a block", "fastdiffuser", diffusion, 1),
        forward("fastdiffuser: commit a block,\ndenoise the next", "fastdiffuser", diffusion, BLOCK),
        forward("linearspec: draft", "linearspec", SPECULATION, 1),
        forward("linearspec: verify", "linearspec", SPECULATION, 2),
        forward("quadspec: verify, and draft for\nevery possible acceptance", "quadspec", SPECULATION, 2),
        View("training: clean tokens, then their\nnoised blocks", training()),
    ]


def request(name: str, settings: Diffusion | Speculation | None) -> Request:
    return Request(tuple(range(1, PROMPT + 1)), 40, strategy=name, settings=settings, traits=TRAITS)


def forward(title: str, name: str, settings: Diffusion | Speculation | None, after: int) -> View:
    """The forward that a strategy asks for after so many others, in all of which the picks were unsure and agreed."""
    way = strategy(name)
    state = way.start(request(name, settings))
    for _ in range(after):
        plan = way.need(state)
        state, _ = way.consume(state, plan, tuple(Row(9, 0.5, 8, 0.1) for _ in range(reads(plan))))
    return View(title, way.need(state).spans, state.kept)


def reads(plan: Plan) -> int:
    return sum(len(read.rows) for read in plan.reads)


def training() -> tuple[Span, ...]:
    """The doubled sequence of one document of three blocks."""
    length = 3 * BLOCK
    ids, row = np.arange(1, length + 1, dtype=np.int64), np.arange(length, dtype=np.int64)
    sample = Sample(0, ids, np.zeros(length, np.int32), row, np.ones(length, np.bool_))
    blocks = Blocks(size=BLOCK, draft_size=BLOCK, full_share=0.0, first_share=0.0)
    return spans(double([sample], TrainConfig(steps=1, length=length, batch=1, blocks=blocks), MASK), None)


def shades(view: View) -> NDArray[np.int64]:
    """int64 [rows, kept + rows]: 0 not seen, 1 seen by a causal row, 2 by a row of a full span, 3 what was kept."""
    seen = mask(view.spans, view.kept).astype(np.int64)
    for top, span in zip(offsets(view.spans), view.spans, strict=False):
        seen[top : top + len(span.tokens)] *= 2 if span.full else 1
    seen[:, : view.kept] = 3
    return seen


def picture(shown: Sequence[View] | None = None) -> Figure:
    """All views side by side: a line is a row that asks, a column is a row that may be seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = views() if shown is None else shown
    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(2, -(-len(shown) // 2), squeeze=False)
    for axis, view in zip(axes.flat, shown, strict=False):
        draw(axis, view)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    names = ((CAUSAL, "seen by a causal row"), (FULL, "seen by a row of a full span"), (KEPT, "kept from before"))
    figure.legend(
        handles=[Patch(color=color, label=name) for color, name in names], loc="outside lower center", ncols=3
    )
    return figure


def draw(axis: Axes, view: View) -> None:
    from matplotlib.colors import ListedColormap

    cells = shades(view)
    axis.imshow(cells, cmap=ListedColormap(["white", CAUSAL, FULL, KEPT]), vmin=0, vmax=3, aspect="equal")
    for edge in offsets(view.spans)[1:-1]:
        axis.axhline(edge - 0.5, color="black", linewidth=0.8)
        axis.axvline(view.kept + edge - 0.5, color="black", linewidth=0.8)
    axis.set_title(view.title, fontsize=9)
    tokens = ["░" if masked else "" for span in view.spans for masked in (span.masked or (False,) * len(span.tokens))]
    places = [str(span.start + row) for span in view.spans for row in range(len(span.tokens))]
    axis.set_yticks(range(len(cells)), [f"{a}{b}" for a, b in zip(tokens, places, strict=True)], fontsize=6)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(cells.shape[1]) - 0.5, minor=True)
    axis.set_yticks(np.arange(cells.shape[0]) - 0.5, minor=True)
    axis.grid(which="minor", color="#dddddd", linewidth=0.3)
    axis.tick_params(which="minor", length=0)
