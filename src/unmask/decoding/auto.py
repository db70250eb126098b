"""Mode `auto`: pick the lossless strategy and its block size for one request, from measured forward times and the
acceptance seen so far. Never fastdiffuser: that changes the text, which is the user's choice to make.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unmask.decoding.adaptivespec import DEFAULT_ACCEPTANCE, price, reach, surcharge
from unmask.types import Request, Speculation, Traits

DRAFT_BLOCKS = (2, 4, 8, 16, 32)


def resolve(request: Request) -> Request:
    """The request with a concrete strategy. Its Speculation settings carry costs, profile and the largest block."""
    settings = request.settings if isinstance(request.settings, Speculation) else Speculation()
    strategy, block = choose(request.traits, settings)
    return replace(request, strategy=strategy, settings=replace(settings, draft_block_size=block))


def choose(traits: Traits, settings: Speculation) -> tuple[str, int]:
    """(strategy, draft block size) with the most expected tokens per time.

    adaptivespec is preferred unless linear rounds are clearly better: it contains AR and stops drafting by itself.
    """
    if traits.mask_id is None:
        return "ar", 1
    most = settings.draft_block_size
    linear = max(((linear_rate(settings, block), block) for block in DRAFT_BLOCKS if block <= most), default=(0.0, 1))
    if linear[0] > 1.1 * adaptive_rate(settings, most):
        return "linearspec", linear[1]
    return "adaptivespec", most


def padded(profile: Sequence[float], slots: int) -> list[float]:
    known = list(profile) or [DEFAULT_ACCEPTANCE]
    return [known[min(i, len(known) - 1)] for i in range(slots)]


def linear_rate(settings: Speculation, block: int) -> float:
    """Tokens per one-row forward time of rounds of `block`: a draft and a verify forward of that many rows each."""
    tokens = sum(reach(padded(settings.profile, block - 1)))
    return tokens / (2 * price(settings.costs, block) + surcharge(settings, block))


def adaptive_rate(settings: Speculation, most: int) -> float:
    """The better of AR and of one-forward rounds that draft anew for the likeliest half of all acceptances."""
    rates = [1.0]
    for block in DRAFT_BLOCKS:
        if block <= most:
            drafting = (block // 2 + 1) * (block + 1)
            time = price(settings.costs, block + drafting) + surcharge(settings, drafting)
            rates.append(sum(reach(padded(settings.profile, block - 1))) / time)
    return max(rates)
