"""Sizes to which rows and keys are padded, so that kernels which are compiled for a shape are compiled for few."""

from __future__ import annotations

from bisect import bisect_left

# Row counts of a forward, fine where a row costs time of its own.
ROWS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
# Of a request's rows in one product of attention, whose kernels are large: a megabyte for each shape.
FEW_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Key counts of one product of attention; longer contexts are taken in parts of the largest.
KEYS = (128, 256, 512)


def padded_rows(rows: int, sizes: tuple[int, ...] = ROWS) -> int:
    """The smallest of the sizes that holds them; a multiple of 128 above."""
    return sizes[bisect_left(sizes, rows)] if rows <= sizes[-1] else -(-rows // 128) * 128


def padded_keys(keys: int) -> int:
    """Whole parts of KEYS[-1] and the smallest count of `KEYS` that holds the rest."""
    whole = keys - keys % KEYS[-1]
    return whole if whole == keys else whole + KEYS[bisect_left(KEYS, keys - whole)]
