"""Mode `auto`: pick the lossless strategy and its block size for one request, from measured forward times and the
acceptance seen so far. Never fastdiffuser: that changes the text, which is the user's choice to make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from unmask.decoding.adaptivespec import price, surcharge
from unmask.decoding.learning import padded, reach
from unmask.decoding.linearspec import round_tokens
from unmask.types import Request, Speculation, Traits

DRAFT_BLOCKS = (2, 4, 8, 16, 32)
LOSSLESS = ("ar", "linearspec", "quadspec", "adaptivespec")


@dataclass(frozen=True, slots=True)
class Advice:
    """What `unmask bench` found best on this machine for this model.

    strategy, draft_block_size: the lossless way that lost least against the best of each kind of prompt. profile:
    acceptance of draft slot 1, 2, ... given that all before it were accepted; empty: not measured. ar_from: from so
    many requests at a time on AR was the quickest; None: it never was.
    """

    strategy: str
    draft_block_size: int
    profile: tuple[float, ...] = ()
    ar_from: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in LOSSLESS:
            raise ValueError(f"strategy must be one of {', '.join(LOSSLESS)}, got {self.strategy!r}")
        if self.draft_block_size < 1 or (self.ar_from is not None and self.ar_from < 1):
            raise ValueError(
                f"draft_block_size and ar_from must be at least 1, got {self.draft_block_size} and {self.ar_from}"
            )
        if not all(0 <= share <= 1 for share in self.profile):
            raise ValueError(f"profile must hold shares between 0 and 1, got {self.profile}")


def resolve(request: Request, advice: Advice | None = None, others: int = 0) -> Request:
    """The request with a concrete strategy. Its Speculation settings carry costs, profile and the largest block.

    advice: goes before the estimates made here. others: requests that are running or waiting already.
    """
    settings = request.settings if isinstance(request.settings, Speculation) else Speculation()
    if advice and request.traits.mask_id is not None:
        strategy, block = advised(advice, settings.draft_block_size, others)
    else:
        strategy, block = choose(request.traits, settings)
    return replace(request, strategy=strategy, settings=replace(settings, draft_block_size=block))


def advised(advice: Advice, most: int, others: int) -> tuple[str, int]:
    """(strategy, draft block size) by what was measured; never a larger block than the request asks for."""
    if advice.strategy == "ar" or (advice.ar_from is not None and others + 1 >= advice.ar_from):
        return "ar", 1
    return advice.strategy, min(advice.draft_block_size, most)


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


def linear_rate(settings: Speculation, block: int) -> float:
    """Tokens per one-row forward time of rounds of `block`: AR's step with a draft behind it, and a verify forward."""
    time = price(settings.costs, block + 1) + surcharge(settings, block) + price(settings.costs, max(block - 1, 1))
    return round_tokens(settings, block) / time


def adaptive_rate(settings: Speculation, most: int) -> float:
    """The better of AR and of one-forward rounds that draft anew for the likeliest half of all acceptances."""
    rates = [1.0]
    for block in DRAFT_BLOCKS:
        if block <= most:
            drafting = (block // 2 + 1) * (block + 1)
            time = price(settings.costs, block + drafting) + surcharge(settings, drafting)
            rates.append(sum(reach(padded(settings.profile, block - 1))) / time)
    return max(rates)
