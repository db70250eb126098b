"""What a viewer is told of a generation: frames with the draft that was checked, as plain data with a version.

The server's `unmask.frame` events and the files of `--trace` are made of the same parts (docs/viewer.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unmask.decoding import strategy
from unmask.engine.engine import Update
from unmask.types import Checked, Frame, Speculation, State, Token

FRAME_VERSION = 1  # grows when a reader of the old form would be wrong


def seen(before: State | None, update: Update) -> Frame | None:
    """The frame of a step with the draft that it checked; None where it changed no block and checked nothing.

    before: the state that the step began with; None: the step was the first one.
    """
    frame, after = update.outcome.frame, update.state
    draft = None if before is None else checked(before, update)
    if draft is None:
        return frame
    if frame is None:
        frame = Frame(after.stats.prefills + after.stats.nfe, after.end, ())
    return frame._replace(checked=draft)


def checked(before: State, update: Update) -> Checked | None:
    """The draft that a verify step checked. Its strategy is asked once more what it needed: it is pure."""
    emitted = update.state.output[len(before.output) :]
    if not emitted or not isinstance(before.request.settings, Speculation):
        return None
    verified = strategy(before.request.strategy).need(before).spans[0]
    ids = verified.tokens[len(before.ids) - before.kept :]  # what follows the ids that are certain
    if verified.full or not ids:
        return None
    accepted = next((i for i, (a, b) in enumerate(zip(ids, emitted, strict=False)) if a != b), len(ids))
    return Checked(before.end, ids, min(accepted, len(emitted)))


def frame_data(
    frame: Frame, token_text: Callable[[int], str], *, prompt_tokens: int, index: int = 0, dropped: int = 0
) -> dict[str, Any]:
    """A frame as plain data, in the documented form."""
    draft = frame.checked
    found: dict[str, Any] = {
        "version": FRAME_VERSION,
        "index": index,
        "step": frame.step,
        "prompt_tokens": prompt_tokens,
        "dropped": dropped,
        "slots": [
            {
                "position": frame.start + number,
                "id": slot.token,
                "token": token_text(slot.token),
                "state": slot.state.value,
                "confidence": slot.confidence,
                "step": slot.step,
                "revisions": slot.revisions,
            }
            for number, slot in enumerate(frame.slots)
        ],
    }
    if draft is not None:
        drafted = [{"position": draft.start + i, "id": id, "token": token_text(id)} for i, id in enumerate(draft.ids)]
        found["checked"] = {"accepted": draft.accepted, "draft": drafted}
    return found


def token_data(token: Token, token_text: Callable[[int], str]) -> dict[str, Any]:
    """A committed token as plain data, in the documented form."""
    return {
        "id": token.id,
        "token": token_text(token.id),
        "step": token.step,
        "confidence": token.confidence,
        "revisions": token.revisions,
    }
