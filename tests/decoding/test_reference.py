"""The state machines give the ids and the forward counts of the papers' loops, on any model, draft and limit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.decoding import reference
from tests.decoding.requests import diffusing, limits, scripts, speculative
from tests.decoding.scripted import Script, run
from unmask.types import Request


@given(limits(), scripts)
def test_ar(fields: dict, script: Script) -> None:
    request = Request(**fields)
    trace = run(request, script)
    assert (trace.output, trace.nfe) == reference.ar(request, script)


@given(diffusing(), scripts)
def test_fastdiffuser(request: Request, script: Script) -> None:
    trace = run(request, script)
    assert (trace.output, trace.nfe) == reference.fastdiffuser(request, script)


@given(speculative("linearspec", lookup=0), scripts)
def test_linearspec(request: Request, script: Script) -> None:
    trace = run(request, script)
    assert (trace.output, trace.nfe) == reference.linearspec(request, script)


@given(speculative("quadspec"), scripts)
def test_quadspec(request: Request, script: Script) -> None:
    trace = run(request, script)
    assert (trace.output, trace.nfe) == reference.quadspec(request, script)


@given(st.sampled_from(["ar", "linearspec", "quadspec", "adaptivespec", "fastdiffuser"]), scripts, st.data())
def test_a_prefix_that_is_cached_already_changes_no_id(strategy: str, script: Script, data: st.DataObject) -> None:
    request = Request(**data.draw(limits()))
    if strategy != "ar":
        request = data.draw(diffusing() if strategy == "fastdiffuser" else speculative(strategy))
    if request.traits.context == "block":
        request = replace(request, traits=replace(request.traits, context="causal"))
    kept = data.draw(st.integers(0, len(request.prompt) - 1))
    assert run(request, script, kept).output == run(request, script).output
