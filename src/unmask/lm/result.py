"""What a generation gives back: pieces of text while it runs, and the whole with its numbers at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmask.types import FinishReason, Frame, Ids, State, Stats, Token, Verdict


@dataclass(frozen=True, slots=True)
class Numbers:
    """How a generation went, counted and timed.

    nfe: forwards after prefill, every one counted (drafts, verifies, denoises, commits); prefills: those before.
    tokens: emitted ones; prefill_tokens: those among them that a prefill forward gave (the first one of AR).
    rounds: verify steps. revisions: placed tokens that were taken back. refinement_rounds: times that oracles had some
    written anew. rows: query rows over all forwards.
    seconds: from submission to the end; first_token_seconds: to the first emitted token.
    """

    nfe: int
    prefills: int
    tokens: int
    prefill_tokens: int
    rounds: int
    revisions: int
    rows: int
    refinement_rounds: int
    seconds: float
    first_token_seconds: float

    @classmethod
    def total(cls, several: Sequence[Numbers]) -> Numbers:
        """Of several generations one after another."""
        sums = {name: sum(getattr(one, name) for one in several) for name in cls.__slots__}
        return cls(**sums | {"first_token_seconds": several[0].first_token_seconds})

    @property
    def tpf(self) -> float:
        """Tokens per forward after prefill; 1 for AR. 0 where all tokens came from the prefill."""
        return (self.tokens - self.prefill_tokens) / self.nfe if self.nfe else 0.0

    @property
    def tpf_total(self) -> float:
        """Tokens per forward, prefills counted."""
        return self.tokens / max(self.nfe + self.prefills, 1)

    @property
    def acceptance_length(self) -> float | None:
        """Tokens per verify step, the verifier's own included: 1 for AR; None for fastdiffuser."""
        return (self.tokens - self.prefill_tokens) / self.rounds if self.rounds else None

    @property
    def tokens_per_second(self) -> float:
        """Tokens over the whole time, prefill included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first forward that emitted any, over the time after it."""
        rest = self.seconds - self.first_token_seconds
        return (self.tokens - self.prefill_tokens) / rest if rest > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished generation.

    text: without special tokens and without the stop string. token_ids: with the token that ended it, cut after the
    token that completed a stop string. tokens: the same with step, log-probability, confidence, revisions.
    mode: as asked; strategy: what `auto` made of it. constraint: whether the text obeys what it had to, judged at
    the end by code that had no part in making it; violations of soft ones are in bytes of the text.
    """

    text: str
    token_ids: Ids
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    stats: Numbers
    prompt_ids: Ids
    mode: str
    strategy: str
    stopped_by: str | None = None
    constraint: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain, with the tokens committed since the last piece (not always its very tokens:
    half a character or a possible stop string is held back)."""

    text: str
    tokens: tuple[Token, ...]


Event = Piece | Frame | Generation


def numbers_of(state: State, tokens: int, seconds: float, first: float) -> Numbers:
    stats: Stats = state.stats
    return Numbers(
        nfe=stats.nfe,
        prefills=stats.prefills,
        tokens=tokens,
        prefill_tokens=stats.prefill_tokens,
        rounds=stats.rounds,
        revisions=stats.revisions,
        rows=stats.rows,
        refinement_rounds=state.trial.all_rounds,
        seconds=seconds,
        first_token_seconds=first,
    )
