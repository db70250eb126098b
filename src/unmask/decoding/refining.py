"""Soft oracles: a judge looks at each finished draft before it is sent, and what it blames is written anew.

Around any strategy. In fastdiffuser the blamed slots of a block are masked again and denoised with all the others in
view; the other strategies go back to the first blamed token and on from another one. It ends: rounds are counted, and
a token that was blamed is banned at its place. The draft with the least faults is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from unmask.decoding.banned import Banned
from unmask.decoding.common import Strategy, block_size
from unmask.decoding.fastdiffuser import COMMITTED, close_at_stop, open_block, wants_seed
from unmask.types import Ask, Finding, Ids, Matcher, Outcome, Plan, Read, Request, Rows, Slot, State, Token, Trial, Try

# Tokens that are tried at one place before more of what stands before it is taken back as well (not in fastdiffuser).
TRIES = 3


@dataclass(frozen=True, slots=True)
class Refining:
    """A strategy whose tokens are held back until they were judged. `question` says when that is; while there is one,
    nothing else is needed."""

    inner: Strategy

    def start(self, request: Request) -> State:
        return self.inner.start(request)

    def need(self, state: State) -> Plan:
        plan = self.inner.need(state)
        return barring(state, plan) if diffuses(state) and state.trial.bans else plan

    def consume(self, state: State, plan: Plan, rows: Rows) -> tuple[State, Outcome]:
        after, outcome = self.inner.consume(state, plan, rows)
        trial = replace(after.trial, held=after.trial.held + outcome.emit, ended=outcome.finish)
        return replace(after, trial=trial), replace(outcome, emit=(), finish=None)


def barring(state: State, plan: Plan) -> Plan:
    """fastdiffuser's plan with the bans of all masked slots, of which the strategy minds the first alone."""
    place, reads = state.matcher, list[Read]()
    for read in plan.reads:
        if isinstance(place, Banned) and read.bans_mask:
            first = plan.spans[read.span].start + read.shift - len(state.request.prompt)
            free = read.allowed or (None,) * len(read.rows)
            bounds = (place.barred(first + row) for row in read.rows)
            read = replace(read, allowed=tuple(old or new for old, new in zip(free, bounds, strict=True)))
        reads.append(read)
    return replace(plan, reads=tuple(reads))


def question(state: State) -> Ask | None:
    """What the judge is to be asked now: about each finished block, in other modes about as many tokens, and about the
    whole. It depends on ids alone, so that modes that write the same ask the same."""
    trial, written = state.trial, len(state.output)
    if state.request.judge is None:
        return None
    upto = written if diffuses(state) else min(written, trial.asked + state.request.traits.block_size)
    if diffuses(state):
        due = written > trial.asked and state.end == state.block_start
    else:
        due = upto == trial.asked + state.request.traits.block_size
    if not due and trial.ended is None:
        return None
    return Ask(state.output[:upto], trial.sure, trial.ended is not None and upto == written)


def answer(state: State, ask: Ask, finding: Finding) -> tuple[State, Outcome]:
    """The state after the judge has spoken. keep: minus the rows of keys and values that no longer hold, which are
    written again where the state counts them as kept."""
    trial = state.trial
    ended = trial.ended if ask.complete else "stop" if finding.ended else None
    draft = Try(trial.held[: len(ask.output) - trial.sure], ended, finding)
    if finding.verdict.status == "violated":
        if trial.rounds < state.request.rounds and (finding.blamed or finding.missing):
            return again(state, draft)
        if trial.best is not None and trial.best.finding.score <= finding.score:
            draft = trial.best
    return accept(state, draft)


def accept(state: State, draft: Try) -> tuple[State, Outcome]:
    """Go on after a draft, or end with it; it is sent where that is certain."""
    trial, context = state.trial, len(state.request.context)
    stop = trial.sure + len(draft.tokens)
    output = state.output[: trial.sure] + tuple(token.id for token in draft.tokens)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(state.output, output, strict=False)))
    stands = min(state.kept, context + common) if common < stop or draft.ended is not None else state.kept
    drop = stands - state.kept
    if draft.ended is not None:
        trial = replace(trial, sure=stop, held=(), verdict=draft.finding.verdict)
        return replace(state, output=output, kept=stands, trial=trial), Outcome(drop, draft.tokens, finish=draft.ended)
    if common < stop:
        state, trial = go_back(state, output, ()), replace(trial, held=draft.tokens, ended=None)
    emit = draft.tokens if draft.finding.certain or not state.request.rounds else ()
    if emit:
        trial = Trial(stop, trial.held[len(emit) :], stop, trial.ended, all_rounds=trial.all_rounds)
    else:
        # A draft that has not ended is no rival of a longer one.
        best = trial.best if trial.best is not None and trial.best.ended is not None else None
        trial = replace(trial, asked=stop, best=best)
    return replace(unbound(state), trial=trial), Outcome(drop, emit)


def again(state: State, draft: Try) -> tuple[State, Outcome]:
    """Take back what is blamed, and more of it if the last round has not helped."""
    trial, finding, request = state.trial, draft.finding, state.request
    better = trial.best is None or finding.score < trial.best.finding.score
    first, before = min(*finding.blamed[:1], *finding.missing[:1], request.max_tokens), len(state.output)
    if diffuses(state):
        width = 0 if better else 2 * trial.width + 1
        begin, stop = block_of(request, first)
        stop = min(stop, trial.sure + len(draft.tokens))
        bans = (*((i, id) for i, id in trial.bans if begin <= i < stop), *blamed(draft, trial.sure, begin, stop))
        masked = widened(finding, begin, stop, width)
        after, taken = remasked(state, begin, stop, masked, bans), len(masked) + before - stop
    else:
        width = 0 if first > trial.first else trial.width
        if sum(1 for i, _ in trial.bans if i == max(trial.sure, first - width)) >= TRIES:
            width = 2 * width + 1
        begin = max(trial.sure, first - width)
        bans = (*((i, id) for i, id in trial.bans if i <= begin), (begin, state.output[begin]))
        after, taken = go_back(state, state.output[:begin], bans), before - begin
    trial = replace(
        trial,
        held=trial.held[: begin - trial.sure],
        asked=min(trial.asked, begin),
        ended=None,
        rounds=trial.rounds + 1,
        all_rounds=trial.all_rounds + 1,
        first=first,
        width=width,
        bans=bans,
        best=draft if better else trial.best,
    )
    stats = replace(
        state.stats,
        revisions=state.stats.revisions + taken,
        prefill_tokens=min(state.stats.prefill_tokens, begin),
    )
    return replace(after, trial=trial, stats=stats), Outcome(after.kept - state.kept)


def go_back(state: State, output: Ids, bans: tuple[tuple[int, int], ...]) -> State:
    """The state as it would go on after another output, fresh but for its counters and what it has learned."""
    request = state.request
    place = bound(request, output, bans)
    state = replace(state, output=output, matcher=place, way=(), block=(), draft=(), block_step=0)
    if not diffuses(state):
        return replace(state, kept=len(request.context) + len(output) - 1)
    state = open_block(state, state.end)
    row = state.block_start + len(request.suffix)
    if wants_seed(state):
        # The row that predicts the seed has to be read: the last one, or the last block where blocks are read whole.
        row = row - 1 if request.traits.context == "causal" else (row - 1) // block_size(request) * block_size(request)
    return replace(state, kept=min(state.kept, row))


def remasked(state: State, begin: int, stop: int, masked: Ids, bans: tuple[tuple[int, int], ...]) -> State:
    """fastdiffuser's state with the block of output[begin:stop] open again, all of it placed but for `masked`."""
    trial = state.trial
    after = go_back(state, state.output[:begin], bans)
    if state.request.constraint is not None and begin in masked and wants_seed(after):
        return after  # a seed is placed at once: under a constraint it may not suit what stands behind it
    old = trial.held[begin - trial.sure : stop - trial.sure]
    block, first = list(after.block), after.end - after.block_start
    for i, token in enumerate(old):
        slot = block[first + i]
        block[first + i] = slot._replace(revisions=token.revisions + 1) if begin + i in masked else placed(token)
    if state.request.constraint is not None:
        # What stood there obeys the constraint, so it is a way through the block until a better one is found.
        after = replace(after, way=tuple(token.id for token in old))
    after = replace(after, block=close_at_stop(after, block))
    if wants_seed(after):
        return after
    return replace(after, kept=min(state.kept, after.block_start + len(state.request.suffix)))


def placed(token: Token) -> Slot:
    return Slot(token.id, COMMITTED, token.confidence or 0.0, token.revisions, token.step, token.logprob, token.top)


def widened(finding: Finding, begin: int, stop: int, width: int) -> Ids:
    """Indices in output[begin:stop] that are masked again: the blamed ones, what comes after a place where something is
    missing, and `width` tokens on each side."""
    found = {i for at in finding.blamed if at < stop for i in range(max(begin, at - width), min(stop, at + width + 1))}
    for at in finding.missing[:1]:
        found |= set(range(max(begin, at - width), stop))
    return tuple(sorted(found))


def blamed(draft: Try, sure: int, begin: int, stop: int) -> list[tuple[int, int]]:
    """One ban for each run of blamed tokens, which is enough for it not to come again: the token that was least certain
    among them. Where something is missing, what stands there instead."""
    runs = list[list[int]]()
    for i in (i for i in draft.finding.blamed if begin <= i < stop):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    least = [min(run, key=lambda i: draft.tokens[i - sure].confidence or 0.0) for run in runs]
    places = sorted({*least, *(i for i in draft.finding.missing if begin <= i < stop)})
    return [(i, draft.tokens[i - sure].id) for i in places]


def block_of(request: Request, index: int) -> tuple[int, int]:
    """First output index of the block that holds output token `index`, and the one after its last."""
    size, prompt = block_size(request), len(request.prompt)
    first = prompt % size if request.traits.context == "block" else 0  # slots of the first block that are prompt
    begin = (index + first) // size * size - first
    return max(begin, 0), begin + size


def bound(request: Request, output: Sequence[int], bans: tuple[tuple[int, int], ...]) -> Matcher | None:
    """Where the text stands after some tokens, under its hard constraint and the bans."""
    place = request.constraint
    for i, token in enumerate(output if place is not None else ()):
        assert place is not None
        place = place.take(token, request.max_tokens - i)
    if not bans or request.judge is None:
        return place
    return Banned(place, bans, len(output), request.judge.vocab)


def unbound(state: State) -> State:
    """The state without its bans, which are behind it."""
    if not isinstance(state.matcher, Banned):
        return state
    inner = state.matcher.inner
    return replace(state, matcher=inner, way=() if inner is None else state.way)


def diffuses(state: State) -> bool:
    return state.request.strategy == "fastdiffuser"
