"""The fewest tokens that end a text, found exactly where the search stays small."""

from __future__ import annotations

from unmask.constraints.columns import Column
from unmask.constraints.masks import Masks

MOST_EXPANDED = 300


def fewest(masks: Masks, start: Column, below: int) -> tuple[int, ...] | None:
    """Tokens to the nearest end, breadth first over columns; None where that takes `below` tokens or more, or where the
    search grows too large."""
    before = dict[Column, tuple[Column, int] | None]({start: None})
    layer, depth, expanded = [start], 0, 0
    while layer and depth < below:
        if ended := next((column for column in layer if column.accepting), None):
            return path_to(before, ended)
        following = list[Column]()
        for column in layer:
            expanded += 1
            if expanded > MOST_EXPANDED:
                return None
            for other, token in masks.targets(column).items():
                if other not in before:
                    before[other] = (column, token)
                    following.append(other)
        layer, depth = following, depth + 1
    return None


def path_to(before: dict[Column, tuple[Column, int] | None], column: Column) -> tuple[int, ...]:
    found = list[int]()
    while (step := before[column]) is not None:
        column, token = step
        found.append(token)
    return tuple(reversed(found))
