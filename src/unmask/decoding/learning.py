"""How likely a drafted token is to be accepted, learned as a request goes.

What is known is (accepted, tried) counts by kind of draft, which fade: of what was looked up, by how many tokens before
it matched; of what a model drafted, by its confidence. A prior is worth a few trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from unmask.types import Draft, Rows

Counts = tuple[tuple[float, float], ...]

CONFIDENCE_BINS = 8
PRIOR_WEIGHT = 3.0
FADE = 0.98
DEFAULT_ACCEPTANCE = 0.7
# Prior acceptance of a token that was looked up, by how many tokens before it matched: 1, 2, ...; the last: or more.
LOOKUP_PRIOR = (0.3, 0.45, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
# A state's memory begins with the counts of what was looked up; then come those that are a strategy's own.
LOOKUPS = len(LOOKUP_PRIOR)


def trusts(memory: Counts, drafted: Sequence[Draft]) -> list[float]:
    """Probability of each drafted token to be accepted if all before it were."""
    return [estimate(memory[kind_of(draft)], prior_of(draft)) for draft in drafted]


def prior_of(draft: Draft) -> float:
    return LOOKUP_PRIOR[min(draft.matched, LOOKUPS) - 1] if draft.matched else draft.prob


def kind_of(draft: Draft) -> int:
    """Place in the memory of what is known about drafts like this one."""
    return min(draft.matched, LOOKUPS) - 1 if draft.matched else LOOKUPS + bin_of(draft.prob)


def bin_of(prob: float) -> int:
    return min(int(prob * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)


def estimate(count: tuple[float, float], prior: float) -> float:
    """What a trial brings, from (won, tried) counts and a prior worth PRIOR_WEIGHT trials."""
    return (count[0] + PRIOR_WEIGHT * prior) / (count[1] + PRIOR_WEIGHT)


def reach(probabilities: Sequence[float]) -> list[float]:
    """P(the first j are all accepted), j = 0, 1, ..."""
    return list(accumulate(probabilities, lambda a, b: a * b, initial=1.0))


def padded(profile: Sequence[float], slots: int) -> list[float]:
    """Acceptance of so many slots; those beyond the profile are as its last."""
    known = list(profile) or [DEFAULT_ACCEPTANCE]
    return [known[min(i, len(known) - 1)] for i in range(slots)]


def faded(memory: Counts) -> Counts:
    return tuple((won * FADE, tried * FADE) for won, tried in memory)


def counted(memory: Counts, place: int, won: float, tried: float) -> Counts:
    """The memory with more trials in one place."""
    before = memory[place]
    return (*memory[:place], (before[0] + won, before[1] + tried), *memory[place + 1 :])


def judged(memory: Counts, drafted: Sequence[Draft], accepted: int) -> Counts:
    """The memory after a verification: each token up to the first rejection is one trial of its kind."""
    for i, draft in enumerate(drafted[: accepted + 1]):
        memory = counted(memory, kind_of(draft), i < accepted, 1.0)
    return memory


def accepted_run(drafted: Sequence[int], rows: Rows) -> int:
    """How many leading drafted tokens the verifier picked too."""
    accepted = 0
    while accepted < len(drafted) and rows[accepted].id == drafted[accepted]:
        accepted += 1
    return accepted
