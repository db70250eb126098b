"""What the data side hands to the trainer: one packed sequence of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sample:
    """One packed training sequence of L tokens.

    index: global sample number (with the run seed it decides the noise).
    ids int64 [L]; document int32 [L]: number of the document within the sample, -1 for padding; position int64 [L]:
    restarts at 0 per document; supervised bool [L]: loss is allowed here (answers only for chats; never padding).
    gap: bool [L], of a sample with gap layouts (`training.gaps`): the rows of a gap, up to the edge of its last block.
    """

    index: int
    ids: NDArray[np.int64]
    document: NDArray[np.int32]
    position: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    gap: NDArray[np.bool_] | None = None


class Stream(Protocol):
    """Samples in their one order, and a cursor that can be saved."""

    def next_samples(self, n: int) -> list[Sample]:
        """The next n samples; fewer, or none, at the end of the last epoch."""
        ...

    def state(self) -> dict[str, Any]:
        """The cursor, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...
