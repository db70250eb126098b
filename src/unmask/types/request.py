"""One generation: the request, all that its strategy remembers, and the tokens and frames that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from unmask.types.settings import Diffusion, Ids, Sampling, Speculation, Traits, require


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, as the decoder needs it: ids, limits, settings."""

    prompt: Ids
    max_tokens: int
    strategy: str = "ar"
    settings: Diffusion | Speculation | None = None
    sampling: Sampling = field(default_factory=Sampling)
    traits: Traits = field(default_factory=Traits)
    min_tokens: int = 0
    stop_ids: Ids = ()
    logprobs: int | None = None
    watch: bool = False
    prefill_chunk: int = 256

    def __post_init__(self) -> None:
        require(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token long")
        require(self.prefill_chunk >= 1, "prefill_chunk", self.prefill_chunk, "at least 1")
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "between 0 and max_tokens")
        require(self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs", self.logprobs, "between 0 and 20")


class SlotState(Enum):
    """masked: unknown. tentative: placed, may be revised. committed: fixed for good. frozen: given, or past the end."""

    MASKED = "masked"
    TENTATIVE = "tentative"
    COMMITTED = "committed"
    FROZEN = "frozen"


class Slot(NamedTuple):
    """One position of the open block."""

    token: int
    state: SlotState
    confidence: float = 0.0
    revisions: int = 0
    step: int = 0
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Token(NamedTuple):
    """One emitted token. `logprob` is the model's own: before penalties, bias, temperature and truncation.

    AR and self-speculation: log p(token | all before it), from the causal row that chose or verified it.
    fastdiffuser: log p(token | block as it stood) at the step that placed it. `step` counts forwards of the request.
    """

    id: int
    step: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    confidence: float | None = None
    revisions: int = 0


class Frame(NamedTuple):
    """What a viewer sees after a step: the open block (or draft) at absolute position `start`."""

    step: int
    start: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one request.

    prefills: forwards whose rows were all prompt rows; prefill_tokens: tokens they emitted (AR's first one).
    nfe: all other forwards: drafts, verifies, denoises and commits alike. rows: query rows over all forwards.
    rounds: verify steps among them. revisions: placed tokens that returned to masked.
    """

    prefills: int = 0
    prefill_tokens: int = 0
    nfe: int = 0
    rows: int = 0
    rounds: int = 0
    revisions: int = 0


class Draft(NamedTuple):
    """One drafted token, with what the draft thought of it and its runner-up."""

    token: int
    prob: float
    second: int
    second_prob: float


@dataclass(frozen=True, slots=True)
class State:
    """All that a strategy remembers. `kept` counts the KV rows of prompt + output that are written.

    block: slots of the open block (fastdiffuser) or of the draft being filled (linearspec), the first of them at
    absolute position block_start. draft: what the next verify step checks (quadspec, adaptivespec).
    memory: (accepted, tried) counts that adaptivespec learns from, in the order its module defines.
    """

    request: Request
    kept: int = 0
    output: Ids = ()
    block: tuple[Slot, ...] = ()
    block_start: int = 0
    block_step: int = 0
    draft: tuple[Draft, ...] = ()
    memory: tuple[tuple[float, float], ...] = ()
    stats: Stats = Stats()

    @property
    def ids(self) -> Ids:
        """Prompt and output, by absolute position."""
        return self.request.prompt + self.output

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self.request.max_tokens - len(self.output)
