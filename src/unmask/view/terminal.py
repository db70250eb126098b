"""Denoising in a terminal: the text that is certain, then the open block with its slots coloured by confidence."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text

from unmask.types import Frame, Slot, SlotState

MASK = "░"
# From unsure to sure; the same steps as a heat map, readable on dark and light backgrounds.
SHADES = ("red", "dark_orange", "yellow3", "green3")


def style_of(slot: Slot) -> str:
    """How a slot looks: masks dim, placed tokens by confidence, fixed ones bold."""
    if slot.state is SlotState.MASKED:
        return "dim"
    if slot.state is SlotState.FROZEN:
        return "dim strike"
    shade = SHADES[min(int(max(slot.confidence, 0.0) * len(SHADES)), len(SHADES) - 1)]
    return shade if slot.state is SlotState.TENTATIVE else f"bold {shade}"


def block_text(frame: Frame, token_text: Callable[[int], str]) -> Text:
    """The open block of a frame as coloured text; one mask sign per unknown token."""
    text = Text()
    for slot in frame.slots:
        if slot.state is SlotState.MASKED:
            text.append(f" {MASK}", style_of(slot))
        elif slot.state is not SlotState.FROZEN:
            text.append(token_text(slot.token), style_of(slot))
    return text


def screen(text: str, frame: Frame | None, shown: int, token_text: Callable[[int], str], lines: int) -> Text:
    """What to show now: the last `lines` lines of the certain text, then the block's slots that are not part of it.

    shown: tokens of prompt and output that `text` stands for, so that slots are not shown twice.
    """
    whole = Text(text)
    if frame is not None:
        rest = frame.slots[max(0, shown - frame.start) :]
        whole.append_text(block_text(frame._replace(slots=rest), token_text))
    split = whole.split("\n", allow_blank=True)
    return Text("\n").join(split[-lines:])
