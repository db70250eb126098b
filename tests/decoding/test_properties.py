"""What holds for every model, draft, request and checkpoint: no id but AR's, counted forwards, an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.decoding.requests import (
    MASK_OUTSIDE,
    block_sizes,
    costs,
    diffusing,
    limits,
    probabilities,
    scripts,
    speculations,
    speculative,
    traits,
)
from tests.decoding.scripted import Script, run
from unmask.decoding import auto, strategy
from unmask.types import Diffusion, Request, Speculation, Traits

SPECULATIVE = st.sampled_from(["linearspec", "quadspec", "adaptivespec"]).flatmap(speculative)
PERFECT, HOPELESS = Script(agrees="always"), Script(agrees="never")


def plain(name: str, max_tokens: int, settings: Diffusion | Speculation) -> Request:
    return Request((1, 2, 3), max_tokens, name, settings, traits=Traits(MASK_OUTSIDE))


def ceil(a: int, b: int) -> int:
    return -(-a // b)


@given(SPECULATIVE, scripts, st.one_of(st.none(), st.integers(0, 1)))
def test_self_speculation_emits_what_ar_emits(request: Request, script: Script, logprobs: int | None) -> None:
    request = replace(request, logprobs=logprobs)
    found, ar = run(request, script), run(replace(request, strategy="ar"), script)
    assert found.output == ar.output
    assert found.outcomes[-1].finish == ar.outcomes[-1].finish
    assert [(token.logprob, token.top) for token in found.tokens] == [(token.logprob, token.top) for token in ar.tokens]


@given(diffusing(), scripts)
def test_seeded_blocks_of_one_are_ar(request: Request, script: Script) -> None:
    settings = Diffusion(block_size=1, seed_first=True)
    found = run(replace(request, settings=settings), script)
    ar = run(replace(request, strategy="ar"), script)
    assert (found.output, found.nfe) == (ar.output, ar.nfe)


@given(speculative("adaptivespec"), scripts)
def test_adaptivespec_never_spends_a_forward_without_a_token(request: Request, script: Script) -> None:
    request = replace(request, prefill_chunk=max(request.prefill_chunk, 2))
    trace = run(request, script)
    assert trace.nfe <= len(trace.output)
    assert all(outcome.emit for plan, outcome in zip(trace.plans, trace.outcomes, strict=True) if plan.reads)


@given(diffusing(), scripts, st.integers(0, 3), probabilities)
def test_revision_comes_to_an_end(request: Request, script: Script, most: int, threshold: float) -> None:
    assert isinstance(request.settings, Diffusion)
    settings = replace(request.settings, revision_threshold=threshold, max_revisions=most)
    trace = run(replace(request, settings=settings), script)
    assert all(token.revisions <= most for token in trace.tokens)


@pytest.mark.parametrize("name", ["fastdiffuser", "linearspec", "quadspec", "adaptivespec"])
def test_a_model_without_a_mask_token_cannot_draft(name: str) -> None:
    with pytest.raises(ValueError, match="mode 'ar' only; name one with mask_id="):
        run(Request((1, 2), 5, name), PERFECT)


# Forward counts. The published loops spend 2 forwards on a block that is placed at once: a denoise and a commit. Ours
# rides the commit on the next block's first denoise and never commits the last block.


@given(st.integers(1, 100), block_sizes, scripts)
def test_threshold_0_takes_one_forward_per_block(max_tokens: int, size: int, script: Script) -> None:
    blocks = ceil(max_tokens, size)
    fused, last = blocks - 1, 1
    trace = run(plain("fastdiffuser", max_tokens, Diffusion(size, 0.0)), script)
    assert trace.nfe == 2 * blocks - fused - last == blocks


@given(st.integers(1, 100), block_sizes, scripts)
def test_threshold_0_with_seeds_takes_two(max_tokens: int, size: int, script: Script) -> None:
    # The seed needs the commit's own row before the denoise can start, so only the prompt's and the last are saved.
    blocks = ceil(max_tokens, size)
    nothing_but_seed = blocks if size == 1 else int(max_tokens % size == 1)
    trace = run(plain("fastdiffuser", max_tokens, Diffusion(size, 0.0, seed_first=True)), script)
    assert trace.nfe == 2 * blocks - 1 - nothing_but_seed


@given(st.integers(1, 60), block_sizes, scripts, st.booleans())
def test_no_threshold_takes_a_forward_per_token(max_tokens: int, size: int, script: Script, seeded: bool) -> None:
    trace = run(plain("fastdiffuser", max_tokens, Diffusion(size, None, seed_first=seeded)), script)
    assert trace.nfe == max_tokens - seeded


@given(st.integers(1, 100), block_sizes)
def test_linearspec_with_a_perfect_draft(max_tokens: int, size: int) -> None:
    rounds, rest = divmod(max_tokens - 1, size)
    trace = run(plain("linearspec", max_tokens, Speculation(size, lookup=0)), PERFECT)
    assert trace.nfe == (max_tokens - 1 if size == 1 else 2 * rounds + min(rest, 2))


@pytest.mark.parametrize(("max_tokens", "size"), [(2, 2), (3, 2), (20, 3), (30, 32)])
def test_linearspec_with_a_hopeless_draft(max_tokens: int, size: int) -> None:
    trace = run(plain("linearspec", max_tokens, Speculation(size, lookup=0)), HOPELESS)
    assert trace.nfe == max_tokens - 1  # never worse than AR: a draft forward emits a token too
    assert all(len(outcome.emit) <= 1 for outcome in trace.outcomes)


@given(st.integers(3, 60), st.integers(2, 20))
def test_quadspec_with_a_perfect_draft(max_tokens: int, size: int) -> None:
    trace = run(plain("quadspec", max_tokens, Speculation(size)), PERFECT)
    assert trace.nfe == 1 + ceil(max_tokens - 1, size)


@pytest.mark.parametrize(("max_tokens", "size"), [(3, 2), (4, 2), (20, 3), (30, 20)])
def test_quadspec_with_a_hopeless_draft(max_tokens: int, size: int) -> None:
    trace = run(plain("quadspec", max_tokens, Speculation(size)), HOPELESS)
    assert [len(outcome.emit) for outcome in trace.outcomes] == [1] * max_tokens


@given(st.integers(1, 40), st.integers(2, 32), scripts)
def test_adaptivespec_is_ar_where_rows_cost_what_forwards_cost(max_tokens: int, size: int, script: Script) -> None:
    settings = Speculation(size, costs=((1, 1.0), (2, 2.0)))
    trace = run(plain("adaptivespec", max_tokens, settings), script)
    assert trace.state.stats.rows == len((1, 2, 3)) + max_tokens - 1


@pytest.mark.parametrize("size", [2, 3, 4, 8, 16])
def test_adaptivespec_is_quadspec_where_rows_are_free(size: int) -> None:
    free = Speculation(size, alternatives=0, lookup=0, costs=((1, 1.0), (2, 1.0)))
    for max_tokens in (1, 2, 3, 20, 50):
        adaptive = run(plain("adaptivespec", max_tokens, free), PERFECT)
        quad = run(plain("quadspec", max_tokens, free), PERFECT)
        # Its groups come in a few sizes, so the end of a request can take a forward or two more.
        assert quad.nfe <= adaptive.nfe <= quad.nfe + 2


def test_adaptivespec_stops_drafting_where_it_never_helps() -> None:
    settings = Speculation(alternatives=0, lookup=0, costs=((1, 1.0), (11, 2.0)))
    plans = run(plain("adaptivespec", 200, settings), HOPELESS).plans
    assert all(plan.rows > 1 for plan in plans[:5])
    late = [plan.rows > 1 for plan in plans[-100:]]
    assert 0 < sum(late) < 20, "it does not stop, or never tries again"


def test_free_alternatives_save_forwards_where_the_runner_up_is_right() -> None:
    free = Speculation(8, lookup=0, costs=((1, 1.0), (2, 1.0)))
    with_them = run(plain("adaptivespec", 60, free), HOPELESS)
    without = run(plain("adaptivespec", 60, replace(free, alternatives=0)), HOPELESS)
    assert without.nfe == 60
    assert with_them.nfe < 50


@pytest.mark.parametrize(
    ("name", "script"), [("quadspec", PERFECT), ("adaptivespec", PERFECT), ("adaptivespec", HOPELESS)]
)
def test_the_largest_plans_fit_the_scratch_rows(name: str, script: Script) -> None:
    for settings in (None, Speculation(16), Speculation(32, alternatives=31, costs=((1, 1.0), (2, 1.0)))):
        request = Request((1,), 70, name, settings, traits=Traits(MASK_OUTSIDE), prefill_chunk=1)
        assert len(run(request, script).output) == 70  # `run` compares every plan with scratch_rows


@given(st.integers(1, 64), costs, st.lists(probabilities, max_size=4).map(tuple), traits())
@example(1, ((1, 2.0), (2, 1.0)), (1.0,), Traits(MASK_OUTSIDE))
def test_auto_never_picks_what_it_thinks_is_slower_than_ar(
    most: int, table: tuple[tuple[int, float], ...], profile: tuple[float, ...], checkpoint: Traits
) -> None:
    settings = Speculation(most, costs=table, profile=profile)
    name, block = auto.choose(checkpoint, settings)
    assert 1 <= block <= most
    if name == "linearspec":
        assert auto.linear_rate(settings, block) > 1
        assert auto.linear_rate(settings, block) > auto.adaptive_rate(settings, most)
    else:
        assert (name, block) == ("adaptivespec", most)


@given(limits(), scripts, speculations(), traits())
def test_auto_is_a_strategy_that_runs(fields: dict, script: Script, settings: Speculation, checkpoint: Traits) -> None:
    request = Request(**fields, strategy="auto", settings=settings, traits=checkpoint)
    assert run(auto.resolve(request), script).output == run(replace(request, strategy="ar"), script).output


def test_auto_decodes_ar_without_a_mask_token() -> None:
    resolved = auto.resolve(Request((1,), 5, "auto"))
    assert resolved.strategy == "ar"
    assert run(resolved, PERFECT).nfe == 4


def test_a_strategy_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="one of ar, fastdiffuser, linearspec, quadspec, adaptivespec, got 'eagle'"):
        strategy("eagle")
