"""A runner without a model: a rule answers every plan, and every plan and every step is checked on the way.

Keys and values are stood for by what a row saw: a row that is kept must have seen exactly the true ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from unmask import visibility
from unmask.decoding import scratch_rows, strategy
from unmask.decoding.common import block_size
from unmask.types import Ids, Outcome, Plan, Read, Request, Row, Rows, SlotState, State, Token

Agrees = Literal["always", "never", "sometimes"]


@dataclass(frozen=True)
class Script:
    """A language model as a pure rule: `next_id` is its AR side, `guess` its diffusion side.

    agrees: how often a guess is what AR would say. A guess depends on all that a row sees and on nothing else.
    """

    vocab: int = 9
    salt: int = 0
    agrees: Agrees = "sometimes"

    def next_id(self, request: Request, ids: Ids, bans: Ids = ()) -> int:
        return ranked(self, ids, (*bans, *too_early(request, len(ids))))[0]

    def clean(self, request: Request, ids: Ids, read: Read) -> Row:
        """The row that saw exactly `ids`: the token after them."""
        token = self.next_id(request, ids)
        if read.top is None:
            return Row(token)
        logprob = -(hash((self.salt, ids)) % 64) / 8
        return Row(token, logprob=logprob, top=((token, logprob),)[: read.top])

    def guess(self, request: Request, known: dict[int, int], unknown: Ids, position: int, given: int = -1) -> Row:
        """What stands at `position`, knowing the tokens at some positions and that others are masked."""
        items = tuple(sorted(known.items()))
        mask = () if request.traits.mask_id is None else (request.traits.mask_id,)
        early = (len(request.prompt) + request.min_tokens, request.stop_ids)
        truth, wrong = ranked(self, rollout(self, items, position, early), (*mask, *too_early(request, position)))[:2]
        key = abs(hash((self.salt, position, items, unknown)))
        right = key % 2 if self.agrees == "sometimes" else self.agrees == "always"
        prob = (1 + key // 2 % 16) / 16
        second_prob = min(1 - prob, prob) * (key // 32 % 5) / 4
        first, second = (truth, wrong) if right else (wrong, truth)
        return Row(first, prob, second, second_prob, key // 256 % 16 / 32, abs(hash((key, given))) % 17 / 16)


def too_early(request: Request, position: int) -> Ids:
    return request.stop_ids if position - len(request.prompt) < request.min_tokens else ()


@lru_cache(maxsize=100_000)
def ranked(script: Script, ids: Ids, banned: Ids) -> Ids:
    """Allowed ids, best first."""
    first = hash((script.salt, ids)) % script.vocab
    order = [(first + i) % script.vocab for i in range(script.vocab)]
    return tuple(token for token in order if token not in banned)


@lru_cache(maxsize=100_000)
def rollout(script: Script, known: tuple[tuple[int, int], ...], position: int, early: tuple[int, Ids]) -> Ids:
    """The ids before `position`: AR's own, but for the tokens that are known. early: no such id before that place."""
    if position <= len(known) and known[position - 1][0] == position - 1:
        return tuple(token for _, token in known[:position])
    ids = rollout(script, known, position - 1, early)
    for place, token in known:
        if place == position - 1:
            return (*ids, token)
    return (*ids, ranked(script, ids, early[1] if position - 1 < early[0] else ())[0])


class Seen(NamedTuple):
    """What a row sees: tokens by position, positions that are masked, and positions seen twice."""

    known: dict[int, int]
    unknown: Ids
    twice: Ids


class Sight:
    """Resolves what each row of a plan sees."""

    def __init__(self, state: State, plan: Plan) -> None:
        self.starts = visibility.offsets(plan.spans)
        self.mask = visibility.mask(plan.spans, state.kept)
        self.keys = [(position, token, False) for position, token in enumerate(state.ids[: state.kept])]
        for span in plan.spans:
            masked = span.masked or (False,) * len(span.tokens)
            assert len(masked) == len(span.tokens) > 0
            self.keys += [(span.start + i, token, masked[i]) for i, token in enumerate(span.tokens)]
        self.cache: dict[bytes, Seen] = {}

    def __call__(self, span: int, row: int) -> Seen:
        columns = self.mask[self.starts[span] + row]
        if (found := self.cache.get(columns.tobytes())) is None:
            keys = [self.keys[column] for column in np.flatnonzero(columns)]
            known = {position: token for position, token, masked in keys if not masked}
            unknown = tuple(sorted(position for position, _, masked in keys if masked))
            twice = tuple(a for a, b in pairwise(sorted(position for position, _, _ in keys)) if a == b)
            # Seen twice is the same token twice.
            assert all(known.get(position) == token for position, token, masked in keys if not masked)
            assert not set(known) & set(unknown)
            found = self.cache[columns.tobytes()] = Seen(known, unknown, twice)
        return found


def check_plan(state: State, plan: Plan, sight: Sight) -> None:
    request = state.request
    traits = request.traits
    assert plan.history == (state.ids[: state.kept] if request.sampling.penalised else ())
    assert state.kept + plan.rows <= len(request.prompt) + request.max_tokens + scratch_rows(request)
    own = traits.denoise_adapter if request.strategy == "fastdiffuser" else traits.draft_adapter
    for s, span in enumerate(plan.spans):
        clean = not span.full or (traits.context == "block" and not any(span.masked))
        assert span.adapter is None or not clean
        for row in range(1 if span.full else len(span.tokens)):
            seen = sight(s, row)
            last = span.start + (len(span.tokens) - 1 if span.full else row)
            assert sorted(set(seen.known) | set(seen.unknown)) == list(range(last + 1)), "a gap, or the future"
            if clean:
                assert not seen.unknown, "a causal row sees a mask"
                assert not seen.twice, "a causal row sees a copy"
            else:
                assert span.adapter == own
                assert seen.twice == ((span.start,) if copies(request, span.masked) else ())
    for read in plan.reads:
        assert read.rows
        assert all(0 <= row < len(plan.spans[read.span].tokens) for row in read.rows)
        assert len(read.given) in (0, len(read.rows))


def copies(request: Request, masked: tuple[bool, ...]) -> bool:
    return request.strategy != "fastdiffuser" and request.traits.seed == "copy" and not masked[0]


def answer(script: Script, state: State, plan: Plan, sight: Sight) -> Iterator[Row]:
    """What the model says for the rows that are read, with no more than was asked for."""
    for read in plan.reads:
        span = plan.spans[read.span]
        for row, given in zip(read.rows, read.given or (-1,) * len(read.rows), strict=True):
            seen, position = sight(read.span, row), span.start + row + read.shift
            if not seen.unknown and not read.bans_mask:
                assert read.shift == 1
                assert len(seen.known) == position
                yield script.clean(state.request, tuple(seen.known[i] for i in range(position)), read)
                continue
            assert read.bans_mask
            assert read.shift == state.request.traits.shift
            assert position in seen.unknown or given == seen.known[position], "a row that no slot waits for"
            full = script.guess(state.request, seen.known, seen.unknown, position, given)
            yield full._replace(
                prob=full.prob if read.detail else 0.0,
                second=full.second if read.detail else -1,
                second_prob=full.second_prob if read.detail else 0.0,
                entropy=full.entropy if read.entropy else 0.0,
                given_prob=full.given_prob if given >= 0 else 0.0,
            )


def check_step(state: State, plan: Plan, after: State, outcome: Outcome, sight: Sight) -> None:
    request, step = state.request, state.stats.prefills + state.stats.nfe + 1
    assert after.request == request
    assert after.kept == state.kept + outcome.keep <= len(after.ids)
    assert after.output == state.output + tuple(token.id for token in outcome.emit)
    assert all(token.step <= step for token in outcome.emit)
    assert after.stats.prefills + after.stats.nfe == step
    assert after.stats.rows == state.stats.rows + plan.rows
    size = block_size(request) if request.traits.context == "block" and request.strategy == "fastdiffuser" else 1
    rows = [(s, row) for s, span in enumerate(plan.spans) for row in range(len(span.tokens))]
    for position, (s, row) in enumerate(rows[: outcome.keep], start=state.kept):
        span = plan.spans[s]
        assert span.start + row == position
        assert span.adapter is None
        # A row of a block that was whole when it was written has seen all of its block.
        upto = (position // size + 1) * size
        assert sight(s, row).known == dict(enumerate(after.ids[:upto])), "a kept row has seen other ids"
        assert not sight(s, row).unknown
    stopped = [
        i for i, token in enumerate(after.output, start=1) if token in request.stop_ids and i > request.min_tokens
    ]
    assert stopped in ([], [len(after.output)]), "nothing follows a stop id"
    finish = "stop" if stopped else "length" if len(after.output) == request.max_tokens else None
    assert outcome.finish == finish
    assert request.watch or outcome.frame is None
    if frame := outcome.frame:
        settled = zip(frame.slots, after.ids[frame.start :], strict=False)
        assert all(slot.token == token for slot, token in settled if slot.state is SlotState.COMMITTED)


@dataclass(frozen=True)
class Trace:
    """One request from start to end."""

    state: State
    plans: Sequence[Plan]
    outcomes: Sequence[Outcome]

    @property
    def output(self) -> Ids:
        return self.state.output

    @property
    def nfe(self) -> int:
        return self.state.stats.nfe

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(token for outcome in self.outcomes for token in outcome.emit)


def run(request: Request, script: Script, kept: int = 0, most: int = 3000) -> Trace:
    """Drive a request to its end. kept: leading prompt rows that are in the cache already. most: forwards allowed."""
    how = strategy(request.strategy)
    state = replace(how.start(request), kept=kept)
    plans, outcomes = list[Plan](), list[Outcome]()
    while not outcomes or outcomes[-1].finish is None:
        assert len(plans) < most, "it does not end"
        plan = how.need(state)
        sight = Sight(state, plan)
        check_plan(state, plan, sight)
        after, outcome = how.consume(state, plan, tuple(answer(script, state, plan, sight)))
        check_step(state, plan, after, outcome, sight)
        state = after
        plans.append(plan)
        outcomes.append(outcome)
    return Trace(state, plans, outcomes)


def feed(state: State, *rows: Row) -> tuple[State, Outcome]:
    """One step with hand-written rows."""
    how = strategy(state.request.strategy)
    return how.consume(state, how.need(state), rows)


def picks(*ids: int, prob: float = 0.0) -> Rows:
    return tuple(Row(id, prob) for id in ids)
