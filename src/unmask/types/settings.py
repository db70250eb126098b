"""What a checkpoint can do and what a caller may choose: traits, sampling, settings of the strategies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Ids = tuple[int, ...]
FinishReason = Literal["stop", "length", "cancelled"]

LONGEST_MATCH = 16  # tokens up to which repetitions are told apart (`Speculation.lookup`)
_SAMPLERS = "'confidence', 'margin' or 'entropy'"


def require(fine: bool, name: str, value: object, allowed: str) -> None:
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
    gap_end: token that ends a gap whose suffix is in view (`Request.room`); None: it has not learned to fill one.
    gap_room: the widest gap that it has learned, in positions. gap_causal: its causal rows have learned it too, so that
        AR and self-speculation fill gaps as well; gap_adapter: through an adapter of that name, on all of a gap's rows.
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
    gap_end: int | None = None
    gap_room: int = 0
    gap_causal: bool = False
    gap_adapter: str | None = None

    def __post_init__(self) -> None:
        require(self.block_size >= 1, "block_size", self.block_size, "at least 1")
        drafts = self.draft_block_size
        require(drafts is None or drafts >= 1, "draft_block_size", drafts, "at least 1")
        require(self.seed in ("block", "causal", "copy"), "seed", self.seed, "'block', 'causal' or 'copy'")
        require(self.context in ("causal", "block"), "context", self.context, "'causal' or 'block'")
        require(not (self.shift and self.seed == "causal"), "seed", self.seed, "'block' or 'copy' with shifted logits")
        fine = self.gap_end is None or (self.gap_room >= 1 and self.context == "causal" and not self.shift)
        require(fine, "gap_end", self.gap_end, "null without gap_room, causal context and unshifted logits")
        require(self.gap_causal or not self.gap_adapter, "gap_adapter", self.gap_adapter, "null without gap_causal")

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of all adapters that act somewhere, each once."""
        named = (self.draft_adapter, self.denoise_adapter, self.gap_adapter)
        return tuple(dict.fromkeys(name for name in named if name is not None))


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
        require(finite, "temperature and penalties", self, "finite numbers")
        require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or more")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        require(0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0")
        for token, bias in self.logit_bias:
            require(token >= 0 and not math.isnan(bias), "logit_bias", (token, bias), "a token id and a number")

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
        require(self.block_size >= 1, "block_size", self.block_size, "at least 1")
        require(threshold is None or 0 <= threshold <= 1, "confidence_threshold", threshold, "between 0 and 1")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.sampler in ("confidence", "margin", "entropy"), "sampler", self.sampler, _SAMPLERS)
        require(self.entropy_bound >= 0, "entropy_bound", self.entropy_bound, "0 or more")
        require(floor is None or 0 <= floor <= 1, "revision_threshold", floor, "between 0 and 1")
        require(self.max_revisions >= 0, "max_revisions", self.max_revisions, "0 or more")


@dataclass(frozen=True, slots=True)
class Speculation:
    """Settings of the self-speculative strategies.

    draft_block_size: the seed and the masks after it, as drafts were trained with; most tokens that a round emits.
        linearspec drafts from 3 on: the token after the seed is the verifier's own.
    draft_threshold: linearspec only; 0 fills the draft in one forward, otherwise as the diffusion threshold.
    alternatives: adaptivespec only; at most so many second-best tokens are verified beside the draft.
    lookup: linearspec and adaptivespec; so many tokens at the end that stood in the context before are worth a draft of
        what followed them, 16 tokens at most whatever the draft_block_size (0: never; at most LONGEST_MATCH).
    costs: measured (rows, seconds) of one forward, ascending; adaptivespec spends rows by it. draft_costs: likewise
        (rows, seconds) that so many rows add to a forward if a drafter acts on them.
    profile: prior acceptance of draft slot 1, 2, ... given that all before it were accepted.
    """

    draft_block_size: int = 16
    draft_threshold: float = 0.0
    alternatives: int = 2
    lookup: int = 2
    costs: tuple[tuple[int, float], ...] = ()
    draft_costs: tuple[tuple[int, float], ...] = ()
    profile: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(self.draft_block_size >= 1, "draft_block_size", self.draft_block_size, "at least 1")
        require(0 <= self.draft_threshold <= 1, "draft_threshold", self.draft_threshold, "between 0 and 1")
        require(self.alternatives >= 0, "alternatives", self.alternatives, "0 or more")
        require(0 <= self.lookup <= LONGEST_MATCH, "lookup", self.lookup, f"between 0 and {LONGEST_MATCH}")
        rows = [count for count, _ in self.costs]
        fine = rows == sorted(set(rows)) and all(seconds > 0 for _, seconds in self.costs)
        require(fine, "costs", self.costs, "(rows, seconds above 0), rows ascending")
        rows = [count for count, _ in self.draft_costs]
        fine = rows == sorted(set(rows)) and all(seconds >= 0 for _, seconds in self.draft_costs)
        require(fine, "draft_costs", self.draft_costs, "(rows, seconds of 0 or more), rows ascending")
