"""What a judge blames is written anew, in every mode: it ends, nothing sent is taken back, the best draft stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.decoding.requests import MASK_OUTSIDE, VOCAB, diffusing, scripts, speculative
from tests.decoding.scripted import Script, Sight, check_plan, run
from tests.decoding.scripted import answer as rows_of
from unmask.decoding import answer, question, strategy_of
from unmask.decoding.banned import Banned
from unmask.types import (
    Ask,
    ByteSpan,
    Diffusion,
    Finding,
    Ids,
    Outcome,
    Plan,
    Request,
    Row,
    State,
    Traits,
    Verdict,
    Violation,
    contains,
)

SATISFIED = Finding(Verdict("satisfied"))
NAMES = ("ar", "linearspec", "quadspec", "adaptivespec", "fastdiffuser")
requests = st.one_of(
    diffusing(),
    *(speculative(name) for name in NAMES[1:4]),
    speculative("linearspec").map(lambda r: replace(r, strategy="ar")),
)


def violated(blamed: Sequence[int] = (), missing: Sequence[int] = (), *, score: float = 1.0, **fields: Any) -> Finding:
    fault = Violation("fault", ByteSpan(0, 1), severity=score)
    return Finding(Verdict("violated", violations=(fault,)), tuple(blamed), tuple(missing), **fields)


@dataclass(frozen=True)
class Dislikes:
    """Blames every token of a set; certain: whether it may be believed before the end."""

    bad: frozenset[int]
    certain: bool = True
    vocab: int = VOCAB

    def judge(self, ask: Ask) -> Finding:
        places = [i for i, token in enumerate(ask.output) if token in self.bad]
        if not places:
            return replace(SATISFIED, certain=self.certain or ask.complete)
        open_places = [i for i in places if i >= ask.sure]
        return violated(open_places, score=len(places), certain=self.certain or ask.complete)


@dataclass(frozen=True)
class Whimsical:
    """Says anything at all, but the same to the same question."""

    salt: int
    vocab: int = VOCAB

    def judge(self, ask: Ask) -> Finding:
        key = abs(hash((self.salt, ask)))
        certain, ended = key % 3 > 0 or ask.complete, key // 3 % 23 == 0
        kind, places = key // 69 % 4, range(ask.sure, len(ask.output))
        if kind == 0:
            return replace(SATISFIED, certain=certain, ended=ended)
        if kind == 1:
            return Finding(Verdict("unknown", "no idea"), certain=certain, ended=ended)
        some = [i for i in places if hash((key, i)) % 3 == 0]
        others = [i for i in places if hash((key, i)) % 5 == 0]
        score = 1.0 + key // 276 % 4
        return violated(some, others if kind == 3 else (), score=score, certain=certain, ended=ended)


@dataclass(frozen=True)
class Trace:
    state: State
    outcomes: Sequence[Outcome]
    asked: Sequence[tuple[Ask, Finding]]

    @property
    def emitted(self) -> Ids:
        return tuple(token.id for outcome in self.outcomes for token in outcome.emit)


def obedient_rows(script: Script, state: State, plan: Plan, sight: Sight) -> Iterator[Row]:
    """What the model says, but only what is allowed."""
    rows = rows_of(script, state, plan, sight)
    for read in plan.reads:
        for allowed in read.allowed or (None,) * len(read.rows):
            row = next(rows)
            if read.top:
                row = row._replace(top=row.top or ((row.id, -0.1), (row.second, -2.0)))
            if allowed is not None and not contains(allowed, row.id):
                order = [(row.id + i) % VOCAB for i in range(1, VOCAB)]
                mask = (state.request.traits.mask_id,) if read.bans_mask else ()
                banned = {*mask, *(state.request.stop_ids if len(state.output) < state.request.min_tokens else ())}
                row = row._replace(id=next(i for i in order if contains(allowed, i) and i not in banned))
            yield row


def judged(request: Request, script: Script, most: int = 20_000) -> Trace:
    how, outcomes, asked = strategy_of(request), list[Outcome](), list[tuple[Ask, Finding]]()
    assert request.judge is not None
    state = how.start(request)
    while not outcomes or outcomes[-1].finish is None:
        assert len(outcomes) < most, "it does not end"
        if ask := question(state):
            finding = request.judge.judge(ask)
            asked.append((ask, finding))
            after, outcome = answer(state, ask, finding)
            assert after.kept <= len(after.request.context) + len(after.output)
            assert outcome.keep <= 0
            assert state.output[: ask.sure] == after.output[: ask.sure], "what was sent was taken back"
        else:
            plan = how.need(state)
            sight = Sight(state, plan)
            check_plan(state, plan, sight)
            after, outcome = how.consume(state, plan, tuple(obedient_rows(script, state, plan, sight)))
            assert outcome.emit == ()
            assert outcome.finish is None
            assert after.kept == state.kept + outcome.keep
        state = after
        outcomes.append(outcome)
    return Trace(state, outcomes, asked)


def with_judge(request: Request, judge: Any, rounds: int) -> Request:
    """min_tokens: left out, since the script knows no places but those of a plain run."""
    return replace(request, judge=judge, rounds=rounds, min_tokens=0, watch=False, logprobs=None)


@settings(max_examples=40)
@given(requests, scripts)
def test_a_judge_that_is_content_changes_nothing(request: Request, script: Script) -> None:
    request = replace(request, min_tokens=0)
    trace, plain = judged(with_judge(request, Dislikes(frozenset()), 3), script), run(request, script)
    assert trace.emitted == trace.state.output == plain.output
    assert trace.outcomes[-1].finish == plain.outcomes[-1].finish
    assert trace.state.stats == plain.state.stats
    assert trace.state.trial.verdict == Verdict("satisfied")


@settings(max_examples=40)
@given(requests, scripts, st.integers(0, 10_000), st.integers(0, 6))
def test_it_ends_and_what_is_sent_is_the_output(request: Request, script: Script, salt: int, rounds: int) -> None:
    trace = judged(with_judge(request, Whimsical(salt), rounds), script)
    assert trace.emitted == trace.state.output
    assert len(trace.emitted) <= request.max_tokens
    sends = sum(1 for outcome in trace.outcomes if outcome.emit)
    assert trace.state.trial.all_rounds <= rounds * max(sends, 1)


@settings(max_examples=40)
@given(requests, scripts, st.sets(st.integers(0, VOCAB - 1), max_size=2).map(frozenset), st.booleans())
def test_what_is_disliked_goes_away(request: Request, script: Script, bad: frozenset[int], certain: bool) -> None:
    """A token that is banned at its place leaves seven others: with rounds enough nothing bad is left."""
    bad -= set(request.stop_ids)
    trace = judged(with_judge(request, Dislikes(bad, certain), 10_000), script)
    assert not bad & set(trace.emitted)
    assert trace.state.trial.verdict == Verdict("satisfied")


@settings(max_examples=40)
@given(st.sampled_from(NAMES[1:4]).flatmap(speculative), scripts, st.integers(0, 10_000), st.integers(0, 4))
@example(Request((1,), 3, "quadspec", traits=Traits(VOCAB)), Script(agrees="always"), 0, 2)
def test_self_speculation_equals_ar_under_a_judge(request: Request, script: Script, salt: int, rounds: int) -> None:
    request = with_judge(request, Whimsical(salt), rounds)
    found, ar = judged(request, script), judged(replace(request, strategy="ar"), script)
    assert found.emitted == ar.emitted
    assert found.asked == ar.asked
    assert found.outcomes[-1].finish == ar.outcomes[-1].finish


@settings(max_examples=40)
@given(requests, scripts, st.integers(0, 10_000), st.integers(1, 4))
def test_of_whole_drafts_the_best_is_kept(request: Request, script: Script, salt: int, rounds: int) -> None:
    class AtTheEnd(Whimsical):
        def judge(self, ask: Ask) -> Finding:
            if not ask.complete:
                return replace(SATISFIED, certain=False)
            return replace(super().judge(ask), ended=False)

    trace = judged(with_judge(request, AtTheEnd(salt), rounds), script)
    assert sum(1 for outcome in trace.outcomes if outcome.emit) <= 1
    wholes = [(ask.output, finding) for ask, finding in trace.asked if ask.complete]
    last = wholes[-1][1]
    if last.verdict.status == "violated":
        best = min((finding.score, i) for i, (_, finding) in enumerate(wholes) if finding.verdict.status == "violated")
        assert trace.emitted == wholes[best[1]][0]
    else:
        assert trace.emitted == wholes[-1][0]


def test_fastdiffuser_masks_the_blamed_slots_and_no_others() -> None:
    """Five slots placed at once; the middle one is blamed: four stay, one forward more mends it."""
    judge = Dislikes(frozenset({2}))
    diffusion = Diffusion(block_size=5, confidence_threshold=0.0)
    request = Request((1,), 5, "fastdiffuser", diffusion, traits=Traits(MASK_OUTSIDE), judge=judge, rounds=1)
    how = strategy_of(request)
    state = how.start(request)
    rows = tuple(Row(id, 0.5, 0, 0.1, top=((id, -0.7), (7, -1.0))) for id in (3, 4, 2, 5, 6))
    state, outcome = how.consume(state, how.need(state), rows)
    assert outcome.emit == ()
    ask = question(state)
    assert ask == Ask((3, 4, 2, 5, 6), 0, True)
    state, outcome = answer(state, ask, judge.judge(ask))
    assert outcome == Outcome(0)
    plan = how.need(state)
    assert plan.spans[-1].tokens == (3, 4, MASK_OUTSIDE, 5, 6)
    assert isinstance(state.matcher, Banned)
    (allowed,) = plan.reads[0].allowed
    assert allowed is not None
    assert not contains(allowed, 2)
    state, outcome = how.consume(state, plan, (Row(7, 0.5, 0, 0.1, top=((2, -0.1), (7, -1.0))),))
    ask = question(state)
    assert ask == Ask((3, 4, 7, 5, 6), 0, True)
    state, outcome = answer(state, ask, judge.judge(ask))
    assert [token.id for token in outcome.emit] == [3, 4, 7, 5, 6]
    assert [token.revisions for token in outcome.emit] == [0, 0, 1, 0, 0]
    assert outcome.finish == "length"
    assert state.stats.revisions == 1


def test_without_progress_the_hole_grows_and_where_something_is_missing_all_after_it_is_written_anew() -> None:
    diffusion = Diffusion(block_size=8, confidence_threshold=0.0)
    request = Request((1,), 8, "fastdiffuser", diffusion, traits=Traits(MASK_OUTSIDE), judge=Whimsical(0), rounds=3)
    how = strategy_of(request)
    state = how.start(request)

    def masked_after(finding: Finding) -> list[int]:
        nonlocal state
        plan = how.need(state)
        rows = tuple(Row(3, 0.5, 0, 0.1, top=((3, -0.7), (4, -1.0), (5, -2.0))) for _ in plan.reads[0].rows)
        state, _ = how.consume(state, plan, rows)
        ask = question(state)
        assert ask is not None
        state, _ = answer(state, ask, finding)
        return [i for i, slot in enumerate(state.block) if slot.state.value == "masked"]

    assert masked_after(violated([4])) == [4]
    assert masked_after(violated([4])) == [3, 4, 5]
    assert masked_after(violated([], [6], score=0.5)) == [6, 7]


@pytest.mark.parametrize("name", ["ar", "adaptivespec"])
def test_ar_goes_back_to_the_first_blamed_token(name: str) -> None:
    script, request = Script(agrees="always"), Request((1, 2, 3), 12, name, traits=Traits(MASK_OUTSIDE))
    plain = run(request, script)
    bad = plain.output[7]
    first = plain.output.index(bad)
    trace = judged(replace(request, judge=Dislikes(frozenset({bad})), rounds=100), script)
    assert trace.emitted[:first] == plain.output[:first]
    assert bad not in trace.emitted
    assert trace.state.stats.revisions >= 12 - first


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=6), st.integers(0, 3))
def test_a_banned_place_is_free_but_for_its_bans(bans: list[tuple[int, int]], at: int) -> None:
    place = Banned(None, tuple(bans), at, 9)
    here = {id for i, id in bans if i == at}
    allowed = place.allowed(5)
    assert {id for id in range(16) if contains(allowed, id)} == set(range(9)) - here
    assert not set(place.ending(5, 3)) & here
    after = place.take(1, 5)
    assert after is not None
    assert after.at == at + 1
    choices = [[(id, -float(id)) for id in range(9)]] * 2
    way = place.fill(choices, (), 5, len(choices))
    assert way == tuple(min(set(range(9)) - {id for i, id in bans if i == at + n}) for n in range(2))
