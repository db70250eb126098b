"""One generation: the request, all that its strategy remembers, and the tokens and frames that come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from unmask.types.constraint import Matcher
from unmask.types.oracle import Finding, Judge, Verdict
from unmask.types.settings import Diffusion, FinishReason, Ids, Sampling, Speculation, Traits, require


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, as the decoder needs it: ids, limits, settings.

    room: above 0, the output fills a gap of so many positions between the prompt and `suffix`. It ends at an end token
        (`Traits.gap_end`, among stop_ids) or at max_tokens; a block that reaches further has end tokens there at once.
    constraint: the place before the first token of a constrained text, which fits max_tokens and may end at stop_ids.
    judge: looks at what is written before it is sent (`decoding.refining`); what it blames is written anew, in so many
        `rounds` at most.
    """

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
    suffix: Ids = ()
    room: int = 0
    constraint: Matcher | None = None
    judge: Judge | None = None
    rounds: int = 0

    def __post_init__(self) -> None:
        require(len(self.prompt) >= 1, "prompt", self.prompt, "at least one token long")
        require(self.prefill_chunk >= 1, "prefill_chunk", self.prefill_chunk, "at least 1")
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, "between 0 and max_tokens")
        require(self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs", self.logprobs, "between 0 and 20")
        require(self.rounds >= 0, "rounds", self.rounds, "0 or more")
        free = self.constraint is None or not self.min_tokens
        require(free, "min_tokens", self.min_tokens, "0 beside a constraint, which says itself when a text may end")
        fits = self.room >= self.max_tokens or (self.room == 0 and not self.suffix)
        require(fits, "room", self.room, f"at least max_tokens ({self.max_tokens}), or 0 without a suffix")
        plain = not self.room or (self.traits.context == "causal" and self.traits.gap_end is not None)
        require(plain, "room", self.room, "0 for a checkpoint that has not learned to fill gaps")

    @property
    def context(self) -> Ids:
        """Prompt and suffix in the order of their rows: the suffix comes before the last token of the prompt, so that
        the row which predicts the first token of the gap has both sides in view. Without a suffix, the prompt."""
        return (*self.prompt[:-1], *self.suffix, self.prompt[-1]) if self.suffix else self.prompt

    @property
    def causal_adapter(self) -> str | None:
        """The adapter that acts on its causal rows."""
        return self.traits.gap_adapter if self.room else None

    @property
    def jumps(self) -> tuple[int, ...]:
        """Rows at which positions do not go on from the row before: the first of the suffix, and the one after it."""
        first = len(self.prompt) - 1
        return (first, first + len(self.suffix)) if self.suffix else ()

    def position(self, row: int) -> int:
        """Absolute position of a row of context and output. The suffix sits `room` positions after the prompt."""
        suffix, first = len(self.suffix), len(self.prompt) - 1
        if row < first or not suffix:
            return row
        return row + 1 + self.room if row < first + suffix else row - suffix

    def given(self, position: int) -> bool:
        """Whether prompt or suffix has a token at that position."""
        after = position - len(self.prompt) - self.room
        return position < len(self.prompt) or 0 <= after < len(self.suffix)


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


class Checked(NamedTuple):
    """A draft that a verifier checked: its ids, the first of them for absolute position `start`; so many leading ones
    were accepted."""

    start: int
    ids: Ids
    accepted: int


class Frame(NamedTuple):
    """What a viewer sees after a step: the open block (or draft) at absolute position `start`, and what was checked."""

    step: int
    start: int
    slots: tuple[Slot, ...]
    checked: Checked | None = None


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
    """One drafted token, with what the draft thought of it and its runner-up.

    matched: so many tokens before it stood before a token like it earlier in the context; 0: it is a model's draft.
    """

    token: int
    prob: float
    second: int
    second_prob: float
    matched: int = 0


class Try(NamedTuple):
    """A draft that was judged: its tokens after the sure ones, how it ended, if it did, and what was found."""

    tokens: tuple[Token, ...]
    ended: FinishReason | None
    finding: Finding


@dataclass(frozen=True, slots=True)
class Trial:
    """What is being judged of a request that has a judge.

    sure: output tokens that have been sent. held: those after them. asked: so many output tokens were looked at.
    ended: why nothing more will be written, where that is so. rounds: spent since tokens were last sent; all_rounds:
    over the whole request. first: index of the first token that was blamed last. width: tokens beside the blamed ones
    that are written anew with them. bans: (index in the output, id) that was blamed. best: the
    draft with the least faults. verdict: on the whole, at the end.
    """

    sure: int = 0
    held: tuple[Token, ...] = ()
    asked: int = 0
    ended: FinishReason | None = None
    rounds: int = 0
    all_rounds: int = 0
    first: int = -1
    width: int = 0
    bans: tuple[tuple[int, int], ...] = ()
    best: Try | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All that a strategy remembers. `kept` counts the KV rows of context + output that are written.

    block: slots of the open block (fastdiffuser) or of the draft being filled (linearspec), the first of them at
    absolute position block_start. draft: what the next verify step checks (quadspec, adaptivespec).
    memory: (accepted, tried) counts that linearspec and adaptivespec learn from, in the order their modules define.
    matcher: where the output stands in a constrained text. way: tokens for the slots of the open block that are not
    emitted yet, as far as any are placed, with which the text stays within its constraint.
    trial: of a request with a judge; its output then holds tokens that are not emitted yet, and may be taken back.
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
    matcher: Matcher | None = None
    way: Ids = ()
    trial: Trial = Trial()

    @property
    def ids(self) -> Ids:
        """Context and output, in the order of their rows: by absolute position, but for a request with a suffix."""
        return self.request.context + self.output

    @property
    def place(self) -> int:
        """Absolute position of the next row to be kept."""
        return self.request.position(self.kept)

    @property
    def end(self) -> int:
        """Absolute position of the next token of the output."""
        return len(self.request.prompt) + len(self.output)

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self.request.max_tokens - len(self.output)
