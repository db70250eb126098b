"""The words of the system: requests, states, spans, plans, rows, outcomes.

Plain frozen data, standard library only. Text, HTTP, pages and tensors are unknown here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

Ids = tuple[int, ...]
_SAMPLERS = "'confidence', 'margin' or 'entropy'"
FinishReason = Literal["stop", "length", "cancelled"]


def _require(fine: bool, name: str, value: object, allowed: str) -> None:
    if not fine:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a checkpoint was trained to do: properties, never code paths.

    mask_id: token id that stands for "unknown"; None for a model that only decodes AR.
    trained: it has learned to fill masks, itself or through its adapters. Every mode runs without that, to no use.
    draft_block_size: seed and masks that drafts were trained with; None: block_size.
    seed: where a draft sees the last certain token: as slot 0 of its own full span ("block"), only as the causal
        row before the masks ("causal"), or as both, a causal row and an adapter-on copy before the masks ("copy").
    context: later rows read a finished block as "causal" rows, or as full rows aligned to the block size ("block").
    shift: a block row predicts the token after it (as AR does) instead of its own position.
    draft_adapter, denoise_adapter: names of the adapters that act on draft rows and on denoise rows, if any.
    """

    mask_id: int | None = None
    trained: bool = False
    block_size: int = 32
    draft_block_size: int | None = None
    seed: Literal["block", "causal", "copy"] = "block"
    context: Literal["causal", "block"] = "causal"
    shift: bool = False
    draft_adapter: str | None = None
    denoise_adapter: str | None = None

    def __post_init__(self) -> None:
        _require(self.block_size >= 1, "block_size", self.block_size, "at least 1")
        drafts = self.draft_block_size
        _require(drafts is None or drafts >= 1, "draft_block_size", drafts, "at least 1")
        _require(self.seed in ("block", "causal", "copy"), "seed", self.seed, "'block', 'causal' or 'copy'")
        _require(self.context in ("causal", "block"), "context", self.context, "'causal' or 'block'")
        _require(not (self.shift and self.seed == "causal"), "seed", self.seed, "'block' or 'copy' with shifted logits")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How logits become a token (a *pick*). Temperature 0 is greedy.

    Penalties act in this order: repetition (over prompt and output, as in CTRL, arXiv 1909.05858), presence and
    frequency (over output, as in OpenAI's API), bias; then temperature, top_k, top_p, min_p; then keyed Gumbel noise.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        finite = all(
            math.isfinite(value) for value in (self.temperature, self.presence_penalty, self.frequency_penalty)
        )
        _require(finite, "temperature and penalties", self, "finite numbers")
        _require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0")
        for token, bias in self.logit_bias:
            _require(token >= 0 and not math.isnan(bias), "logit_bias", (token, bias), "a token id and a number")

    @property
    def penalised(self) -> bool:
        """Whether a pick depends on the tokens before it other than through the model."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, slots=True)
class Diffusion:
    """Settings of `fastdiffuser`.

    confidence_threshold: every slot at least this sure is placed, and always the surest one; None places an even
        share of the block per step instead. steps: after so many denoise steps all that is left is placed.
    sampler: what "sure" means: probability, margin over the runner-up, or low entropy. The entropy sampler ignores
        the threshold and places the largest set whose joint-entropy bound stays under `entropy_bound` (EB-Sampler,
        arXiv 2505.24857).
    seed_first: slot 0 of each block is the AR prediction (as in the published Nemotron-Labs-Diffusion code).
    revision_threshold: a placed token of the open block returns to masked when its probability falls below this;
        at most `max_revisions` times per slot, so a block always ends.
    """

    block_size: int = 32
    confidence_threshold: float | None = 0.9
    steps: int | None = None
    sampler: Literal["confidence", "margin", "entropy"] = "confidence"
    entropy_bound: float = 0.1
    seed_first: bool = False
    revision_threshold: float | None = None
    max_revisions: int = 1

    def __post_init__(self) -> None:
        threshold, floor = self.confidence_threshold, self.revision_threshold
        _require(self.block_size >= 1, "block_size", self.block_size, "at least 1")
        _require(threshold is None or 0 <= threshold <= 1, "confidence_threshold", threshold, "between 0 and 1")
        _require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1")
        _require(self.sampler in ("confidence", "margin", "entropy"), "sampler", self.sampler, _SAMPLERS)
        _require(self.entropy_bound >= 0, "entropy_bound", self.entropy_bound, "0 or more")
        _require(floor is None or 0 <= floor <= 1, "revision_threshold", floor, "between 0 and 1")
        _require(self.max_revisions >= 0, "max_revisions", self.max_revisions, "0 or more")


@dataclass(frozen=True, slots=True)
class Speculation:
    """Settings of the self-speculative strategies.

    draft_block_size: the seed and the masks after it, so one round emits 1 to draft_block_size tokens.
    draft_threshold: linearspec only; 0 fills the draft in one forward, otherwise as the diffusion threshold.
    alternatives: adaptivespec only; at most so many second-best tokens are verified beside the draft.
    costs: measured (rows, seconds) of one forward, ascending; adaptivespec spends rows by it.
    profile: prior acceptance of draft slot 1, 2, ... given that all before it were accepted.
    """

    draft_block_size: int = 16
    draft_threshold: float = 0.0
    alternatives: int = 2
    costs: tuple[tuple[int, float], ...] = ()
    profile: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _require(self.draft_block_size >= 1, "draft_block_size", self.draft_block_size, "at least 1")
        _require(0 <= self.draft_threshold <= 1, "draft_threshold", self.draft_threshold, "between 0 and 1")
        _require(self.alternatives >= 0, "alternatives", self.alternatives, "0 or more")
        rows = [count for count, _ in self.costs]
        fine = rows == sorted(set(rows)) and all(seconds > 0 for _, seconds in self.costs)
        _require(fine, "costs", self.costs, "(rows, seconds above 0), rows ascending")


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, as the decoder needs it: ids, limits, settings."""

    prompt: Ids
    max_tokens: int
    strategy: str = "ar"
    settings: Diffusion | Speculation | None = None
    sampling: Sampling = Sampling()
    traits: Traits = Traits()
    min_tokens: int = 0
    stop_ids: Ids = ()
    logprobs: int | None = None
    watch: bool = False
    prefill_chunk: int = 256

    def __post_init__(self) -> None:
        _require(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token long")
        _require(self.prefill_chunk >= 1, "prefill_chunk", self.prefill_chunk, "at least 1")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "between 0 and max_tokens")
        _require(self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs", self.logprobs, "between 0 and 20")


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


@dataclass(frozen=True, slots=True)
class Span:
    """Contiguous query rows under one visibility rule.

    tokens: ids of the rows; row r sits at absolute position start + r. masked: which rows stand for an unknown
    token, whatever their id (empty: none).
    full: every row of the span sees all of it; else row r sees rows 0..r.
    sees: (index of an earlier span of the plan, how many of its leading rows are visible).
    All rows see the whole kept context. adapter: name of the adapter that acts on these rows.
    """

    tokens: Ids
    start: int
    full: bool = False
    sees: tuple[tuple[int, int], ...] = ()
    adapter: str | None = None
    masked: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """Rows of one span to read back.

    shift: 1 where a row predicts the position after it, 0 where it predicts its own.
    given: per row, an id whose probability is wanted, or -1.
    detail: also compute probability and runner-up (a pass over the vocabulary more). entropy: in nats, with detail.
    top: so many log-probabilities, None for not even the picked token's.
    bans_mask: the mask id may not be picked (rows that stand for masked slots).
    """

    span: int
    rows: tuple[int, ...]
    shift: int = 1
    given: tuple[int, ...] = ()
    detail: bool = False
    entropy: bool = False
    top: int | None = None
    bans_mask: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run next for one request. `reads` come back in order, row by row.

    history: ids of the kept context, given only when the sampling penalties need them. note: the strategy's own, which
    its `consume` finds again here.
    """

    spans: tuple[Span, ...]
    reads: tuple[Read, ...]
    history: Ids = ()
    note: object = None

    @property
    def rows(self) -> int:
        return sum(len(span.tokens) for span in self.spans)


class Row(NamedTuple):
    """What came back for one row. Fields after `id` are there when the Read asked for them."""

    id: int
    prob: float = 0.0
    second: int = -1
    second_prob: float = 0.0
    entropy: float = 0.0
    given_prob: float = 0.0
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


Rows = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step settled. keep: leading rows of the plan whose KV stays."""

    keep: int = 0
    emit: tuple[Token, ...] = ()
    frame: Frame | None = None
    finish: FinishReason | None = None
