"""How a request is decoded: pure strategies, one module each, found here by name. No tensors below this door."""

from __future__ import annotations

from types import ModuleType

from unmask.decoding import adaptivespec, ar, auto, fastdiffuser, linearspec, quadspec
from unmask.decoding.common import Strategy, block_size, context_spans
from unmask.decoding.lookup import LOOKUP_LENGTH
from unmask.decoding.refining import Refining, answer, question
from unmask.types import Request, Speculation

STRATEGIES: dict[str, ModuleType] = {
    "ar": ar,
    "fastdiffuser": fastdiffuser,
    "linearspec": linearspec,
    "quadspec": quadspec,
    "adaptivespec": adaptivespec,
}

__all__ = [
    "STRATEGIES",
    "Strategy",
    "answer",
    "auto",
    "context_spans",
    "question",
    "scratch_rows",
    "strategy",
    "strategy_of",
]


def strategy(name: str) -> Strategy:
    """The strategy of that name; ValueError naming those there are."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    return STRATEGIES[name]


def strategy_of(request: Request) -> Strategy:
    """How a request is decoded: its strategy, whose tokens are held back where a judge looks at them first."""
    plain = strategy(request.strategy)
    return plain if request.judge is None else Refining(plain)


def scratch_rows(request: Request) -> int:
    """Most rows of one plan beyond the ids that the request may ever keep."""
    if request.strategy == "fastdiffuser" and request.room:
        return block_size(request)  # the last block of a gap is whole, however few of its tokens are wanted
    if request.strategy in ("ar", "fastdiffuser", "linearspec"):
        return 1  # linearspec may run its seed twice
    settings = request.settings if isinstance(request.settings, Speculation) else Speculation()
    block = settings.draft_block_size
    looks = request.strategy != "quadspec" and settings.lookup and block > 1
    longest = max(block, LOOKUP_LENGTH + 1) if looks else block
    alternatives = min(settings.alternatives, block)
    # A group, of a seed and masks, for each of `longest` acceptances; a row and a group for each alternative.
    return (longest + alternatives) * (block + 1) + alternatives
