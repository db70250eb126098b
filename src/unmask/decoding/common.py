"""What all strategies share: context spans, prefill, noting a step's result, and the group of masks that drafts.

A strategy is `start(request)`, `need(state) -> Plan`, `consume(state, plan, rows) -> (State, Outcome)`: pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

from unmask.types import (
    FinishReason,
    Frame,
    Ids,
    IdSet,
    Matcher,
    Outcome,
    Plan,
    Read,
    Request,
    Row,
    Rows,
    Span,
    Speculation,
    State,
    Token,
    Traits,
)

Sees = tuple[tuple[int, int], ...]


class Strategy(Protocol):
    """One way to decode. `consume` gets the plan that `need` made for the same state."""

    def start(self, request: Request) -> State: ...
    def need(self, state: State) -> Plan: ...
    def consume(self, state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]: ...


def context_spans(request: Request, ids: Ids, start: int, stop: int) -> tuple[Span, ...]:
    """Spans that write the KV of ids[start:stop] as later rows expect to read it.

    ids, start, stop: in the order of rows (`State.ids`). One causal span, or one for each side of a gap, seeing those
    before it; or, where the checkpoint's finished blocks are full (and the request decodes blocks), one full span per
    block of the request's size, aligned to position 0, each seeing those before it.
    """
    if request.traits.context == "causal" or request.strategy != "fastdiffuser":
        edges = [start, *(row for row in request.jumps if start < row < stop), stop]
        return tuple(
            causal_span(request, ids[a:b], request.position(a), tuple((j, edges[j + 1] - edges[j]) for j in range(i)))
            for i, (a, b) in enumerate(pairwise(edges))
            if b > a
        )
    size, spans = block_size(request), list[Span]()
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        spans.append(
            Span(ids[start:end], start, full=True, sees=tuple((i, len(s.tokens)) for i, s in enumerate(spans)))
        )
        start = end
    return tuple(spans)


def causal_span(request: Request, tokens: Ids, start: int, sees: Sees = ()) -> Span:
    """Rows as AR has them."""
    return Span(tokens, start, sees=sees, adapter=request.causal_adapter)


def block_size(request: Request) -> int:
    return getattr(request.settings, "block_size", request.traits.block_size)


def prefill(state: State, upto: int) -> Plan | None:
    """The next prompt chunk, if the rows up to `upto` are too many for one forward beside other rows.

    A gap's context is always written first, but for the row that predicts the gap: what comes then is contiguous.
    """
    chunk = state.request.prefill_chunk
    if state.request.suffix and state.kept < len(state.request.context) - 1:
        stop = min(state.kept + chunk, len(state.request.context) - 1)
        return make_plan(state, context_spans(state.request, state.ids, state.kept, stop), ())
    if state.request.traits.context == "block":
        chunk = max(chunk // block_size(state.request), 1) * block_size(state.request)
    if upto - state.kept <= chunk:
        return None
    return make_plan(state, context_spans(state.request, state.ids, state.kept, state.kept + chunk), ())


def make_plan(state: State, spans: tuple[Span, ...], reads: tuple[Read, ...]) -> Plan:
    history = state.ids[: state.kept] if state.request.sampling.penalised else ()
    return Plan(spans, reads, history)


def read_causal(request: Request, span: int, rows: Sequence[int], allowed: tuple[IdSet, ...] = ()) -> Read:
    """Rows that predict the token after them, as AR does; they give the log-probabilities of emitted tokens."""
    return Read(span, tuple(rows), shift=1, top=request.logprobs, allowed=allowed)


def places(state: State, tokens: Sequence[int]) -> list[Matcher]:
    """Where a constrained text stands before each of `tokens` and after the last, up to the first that may not come or
    would end it: what a verifier says there is enough. Without a constraint, nothing."""
    found = [] if state.matcher is None else [state.matcher]
    for i, token in enumerate(tokens if found else ()):
        after = found[-1].take(token, state.remaining - i)
        if after is None or after.over(state.remaining - i - 1):
            break
        found.append(after)
    return found


def allowed_at(state: State, found: Sequence[Matcher]) -> tuple[IdSet, ...]:
    """What may be picked at each of the `places` that follow the output."""
    return tuple(place.allowed(state.remaining - i) for i, place in enumerate(found))


def group(traits: Traits, seed: int, at: int, masks: int, before: Sees, seed_row: tuple[int, int]) -> Span:
    """A full span of `masks` unknown tokens after the token `seed`, which sits at position `at`.

    before: rows visible ahead of the seed; seed_row: (span, leading rows) that make the causal row of the seed visible
    as well. How the masks see the seed is the checkpoint's `traits.seed`.
    """
    unknown = (mask_id(traits),) * masks
    with_seed = (*(pair for pair in before if pair[0] != seed_row[0]), seed_row)
    if traits.seed == "causal":
        return Span(unknown, at + 1, True, with_seed, traits.draft_adapter, (True,) * masks)
    sees = with_seed if traits.seed == "copy" else tuple(pair for pair in before if pair[1])
    return Span((seed, *unknown), at, True, sees, traits.draft_adapter, (False,) + (True,) * masks)


def group_rows(traits: Traits, masks: Sequence[int]) -> tuple[int, ...]:
    """Rows of a `group` that predict its masks number `masks` (0 is the first after the seed)."""
    first = (0 if traits.seed == "causal" else 1) - traits.shift
    return tuple(first + mask for mask in masks)


def read_group(
    traits: Traits, span: int, masks: Sequence[int], follows: tuple[int | tuple[int, int], ...] = ()
) -> Read:
    rows, shift = group_rows(traits, masks), int(traits.shift)
    return Read(span, rows, shift=shift, detail=True, bans_mask=True, follows=follows)


def mask_id(traits: Traits) -> int:
    if traits.mask_id is None:
        raise ValueError("this model has no mask token, so it decodes in mode 'ar' only; name one with mask_id=...")
    return traits.mask_id


def speculation(state: State) -> Speculation:
    """The settings of a self-speculative request; the defaults where it has none."""
    return state.request.settings if isinstance(state.request.settings, Speculation) else Speculation()


def token_of(row: Row, step: int, confidence: float | None = None) -> Token:
    return Token(row.id, step, row.logprob, row.top, confidence)


def settle(
    state: State,
    plan: Plan,
    *,
    keep: int,
    emit: Sequence[Token] = (),
    round: bool = False,
    frame: Frame | None = None,
    **changes: Any,
) -> tuple[State, Outcome]:
    """The state after a step that keeps `keep` leading rows and emits `emit`, cut where the request ends.

    changes: other fields of the state. A finished request keeps no row beyond its own ids.
    """
    request = state.request
    tokens = list(emit[: state.remaining])
    finish: FinishReason | None = "length" if len(tokens) == state.remaining else None
    for i, token in enumerate(tokens):
        if token.id in request.stop_ids and len(state.output) + i >= request.min_tokens:
            tokens, finish = tokens[: i + 1], "stop"
            break
    prompt_only = all(request.given(span.start + len(span.tokens) - 1) for span in plan.spans)
    stats = replace(
        state.stats,
        prefills=state.stats.prefills + prompt_only,
        prefill_tokens=state.stats.prefill_tokens + (len(tokens) if prompt_only else 0),
        nfe=state.stats.nfe + (not prompt_only),
        rows=state.stats.rows + plan.rows,
        rounds=state.stats.rounds + (round and not prompt_only),
        revisions=state.stats.revisions + changes.pop("revisions", 0),
    )
    matcher = state.matcher
    if matcher is not None:
        matcher, tokens, ended = obeying(matcher, tokens, state.remaining)
        finish = "stop" if ended else finish
    output = state.output + tuple(token.id for token in tokens)
    if finish:
        keep = min(keep, len(request.context) + len(output) - state.kept)
    after = replace(state, kept=state.kept + keep, output=output, stats=stats, matcher=matcher, **changes)
    return after, Outcome(keep, tuple(tokens), frame if request.watch else None, finish)


def obeying(place: Matcher, tokens: Sequence[Token], budget: int) -> tuple[Matcher, list[Token], bool]:
    """(where the text stands then, tokens up to its end, whether it has ended).

    Picks are among what was allowed, unless logits were no numbers; then the text takes the shortest way out.
    """
    kept = list[Token]()
    for token in tokens:
        after = place.take(token.id, budget - len(kept))
        if after is None:
            token = Token(place.ending(budget - len(kept), 1)[0], token.step)
            after = place.take(token.id, budget - len(kept))
            assert after is not None
            tokens = tokens[: len(kept)]  # the others followed a token that is not there
        kept.append(token)
        place = after
        if len(kept) > len(tokens) or place.over(budget - len(kept)):
            break
    return place, kept, place.over(budget - len(kept))


def step_of(state: State) -> int:
    """Number of the forward that is being consumed, counting from 1."""
    return state.stats.prefills + state.stats.nfe + 1
