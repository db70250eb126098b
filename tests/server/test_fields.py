"""Names of fields: aliases mean what they stand for, nothing unknown or unsupported passes, nothing is ignored."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase

from unmask.lm import Options
from unmask.server.asking import NOT_OPTIONS, RENAMED, options_for
from unmask.server.errors import ApiError
from unmask.server.fields import ALIASES, REFUSED
from unmask.server.schema import ChatBody, CompletionBody, parse
from unmask.types import Traits

TRAITS = Traits(mask_id=1, trained=True, block_size=8)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]}
LINEAR = {"generation_mode": "self-speculation", "spec_variant": "linearspec"}
DIFFUSION = {"generation_mode": "fastdiffuser"}
SCHEMA = {"type": "integer"}
BY_SCHEMA: dict[str, Any] = {"constraints": [{"type": "json_schema", "schema": SCHEMA}]}
# Alias -> [(a value of it, what it is the same as)]. The rest of the body makes the mode fit.
SAME: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "max_completion_tokens": [(5, {"max_tokens": 5})],
    "max_new_tokens": [(5, {"max_tokens": 5})],
    "max_gen_toks": [(5, {"max_tokens": 5})],
    "mode": [("ar", {"generation_mode": "ar"})],
    "dllm_algorithm": [
        ("FastDiffuser", DIFFUSION),
        ("LowConfidence", DIFFUSION),
        ("EBSampling", DIFFUSION | {"sampler": "entropy"}),
        ("LinearSpec", LINEAR),
    ],
    "max_steps": [(4, {"steps": 4})],
    "gamma": [(0.2, {"sampler": "entropy", "entropy_bound": 0.2})],
    "threshold": [(0.7, {"confidence_threshold": 0.7})],
    "canvas_length": [(16, {"block_size": 16})],
    "max_denoising_steps": [(4, {"steps": 4})],
    "diffusion_sampler": [
        ("entropy_bound", {"sampler": "entropy"}),
        ("entropy", {"sampler": "entropy"}),
        ("confidence", {"sampler": "confidence"}),
    ],
    "diffusion_entropy_bound": [(0.3, {"entropy_bound": 0.3})],
    "diffusion_confidence_threshold": [(0.7, {"confidence_threshold": 0.7})],
    "dllm_block_length": [(16, {"block_size": 16})],
    "dllm_denoising_steps": [(4, {"steps": 4})],
    "dllm_confidence_threshold": [(0.7, {"confidence_threshold": 0.7})],
    "dllm_unmasking_strategy": [
        ("low_confidence_dynamic", {"sampler": "confidence"}),
        ("low_confidence_static", {"sampler": "confidence", "schedule": True}),
    ],
    "generation_algorithm": [
        ("ar_native", {"generation_mode": "ar"}),
        ("ar", {"generation_mode": "ar"}),
        ("nemotron", DIFFUSION),
        ("linear_spec", LINEAR),
    ],
    "linear_speculation": [(True, LINEAR), (False, {})],
    "block_length": [(16, {"block_size": 16})],
    "remasking": [
        ("low_confidence", {"sampler": "confidence"}),
        ("top_k_margin", {"sampler": "margin"}),
        ("entropy", {"sampler": "entropy"}),
    ],
    "diffusion_block_size": [(16, {"block_size": 16})],
    "diffusion_steps": [(4, {"steps": 4})],
    "response_format": [
        ({"type": "text"}, {}),
        ({"type": "json_object"}, {"constraints": [{"type": "json_object"}]}),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, BY_SCHEMA),
    ],
    "structured_outputs": [
        ({"json": SCHEMA, "regex": None}, BY_SCHEMA),
        ({"json_object": True}, {"constraints": [{"type": "json_object"}]}),
        ({"regex": "a+"}, {"constraints": [{"type": "regex", "pattern": "a+"}]}),
        ({"choice": ["a", "b"]}, {"constraints": [{"type": "choice", "values": ["a", "b"]}]}),
        ({"grammar": 'start: "a"'}, {"constraints": [{"type": "grammar", "text": 'start: "a"'}]}),
    ],
    "guided_json": [(SCHEMA, BY_SCHEMA), ('{"type": "integer"}', BY_SCHEMA)],
    "guided_regex": [("a+", {"constraints": [{"type": "regex", "pattern": "a+"}]})],
    "guided_choice": [(["a", "b"], {"constraints": [{"type": "choice", "values": ["a", "b"]}]})],
    "guided_grammar": [('root ::= "a"', {"constraints": [{"type": "grammar", "text": 'root ::= "a"'}]})],
    "json_schema": [('{"type": "integer"}', BY_SCHEMA)],
    "regex": [("a+", {"constraints": [{"type": "regex", "pattern": "a+"}]})],
    "ebnf": [('root ::= "a"', {"constraints": [{"type": "grammar", "text": 'root ::= "a"', "syntax": "gbnf"}]})],
    "grammar": [('root ::= "a"', {"constraints": [{"type": "grammar", "text": 'root ::= "a"', "syntax": "gbnf"}]})],
}
CASES = [(name, value, meaning) for name, cases in SAME.items() for value, meaning in cases]


def options(body: dict[str, Any], defaults: dict[str, Any] | None = None) -> Options:
    return options_for(parse(CompletionBody, {"prompt": "a", "seed": 1, **body}), defaults or {}, TRAITS)


def refused(body: Any, kind: Any = CompletionBody) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(kind, body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(("name", "value", "meaning"), CASES)
def test_an_alias_is_its_meaning(name: str, value: Any, meaning: dict[str, Any]) -> None:
    fits = {} if "generation_mode" in meaning or not needs_diffusion(meaning) else DIFFUSION
    assert options({name: value, **fits}) == options({**meaning, **fits})
    assert options({"extra_body": {name: value}, **fits}) == options({**meaning, **fits})
    if meaning:
        assert options({name: value, **fits}) != options(fits), "an alias that changes nothing is ignored"


def needs_diffusion(meaning: dict[str, Any]) -> bool:
    return bool(
        meaning.keys() & {"steps", "block_size", "sampler", "entropy_bound", "confidence_threshold", "schedule"}
    )


def test_every_alias_is_in_the_table() -> None:
    assert SAME.keys() == ALIASES.keys()
    assert not ALIASES.keys() & REFUSED.keys()
    for kind in (ChatBody, CompletionBody):
        assert not kind.model_fields.keys() & (ALIASES.keys() | REFUSED.keys())


def test_the_linear_speculation_of_nvidias_server() -> None:
    sent = {"generation_algorithm": "nemotron", "linear_speculation": True, "block_length": 32, "threshold": 0}
    assert options(sent) == options({**LINEAR, "draft_block_size": 32, "draft_threshold": 0})
    assert "twice" in str(refused({"prompt": "a", **sent, "draft_threshold": 0.5}))


def test_a_repetition_is_no_longer_than_what_is_looked_for() -> None:
    assert options({**LINEAR, "lookup": 16}) != options(LINEAR)
    assert "lookup" in str(refused({"prompt": "a", **LINEAR, "lookup": 17}))


def test_every_field_of_openai_is_known() -> None:
    chat = {*chat_params.CompletionCreateParamsStreaming.__annotations__}
    chat |= {*chat_params.CompletionCreateParamsBase.__annotations__}
    assert chat <= ChatBody.model_fields.keys() | ALIASES.keys() | REFUSED.keys()
    plain = {*CompletionCreateParamsBase.__annotations__, "stream"}
    assert plain <= CompletionBody.model_fields.keys() | ALIASES.keys() | REFUSED.keys()


def test_every_field_is_an_option_or_none() -> None:
    known = {field.name for field in dataclasses.fields(Options)}
    for kind in (ChatBody, CompletionBody):
        for name in kind.model_fields.keys() - NOT_OPTIONS:
            assert RENAMED.get(name, name) in known
    reachable = {RENAMED.get(n, n) for n in (ChatBody.model_fields.keys() | CompletionBody.model_fields.keys())}
    assert known <= reachable


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"temprature": 1}, "unknown field 'temprature'; did you mean 'temperature'?"),
        ({"generation-mode": "ar"}, "did you mean 'generation_mode'?"),
        ({"extra_body": {"confidence_treshold": 1}}, "did you mean 'confidence_threshold'?"),
        ({"qwertyuiop": 1}, "unknown field 'qwertyuiop'; see the table of fields"),
        ({"messages": []}, "messages is a field of /v1/chat/completions"),
        ({"temperature": 0.5, "extra_body": {"temperature": 0.6}}, "temperature is given twice"),
        ({"extra_body": {"extra_body": {}}}, "must not contain"),
        ({"extra_body": [1]}, "extra_body must be an object"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "contradict each other: both set max_tokens"),
        ({"generation_mode": "ar", "linear_speculation": True}, "contradict each other: both set generation_mode"),
        ({"threshold": 0.5, "confidence_threshold": 0.6}, "contradict each other"),
        ({"dllm_algorithm": "Gemma4Renoise"}, "must be one of 'FastDiffuser'"),
        ({"linear_speculation": 1}, "must be one of True, False, got 1"),
        ({"remasking": {"a": [1]}}, "must be one of"),
        ({"suffix": "x", "fim_mode": False}, "fim_mode is false, and there is a suffix"),
        ({"suffix": "x", "echo": True}, "echo with a suffix is not supported"),
        ({"response_format": {"type": "xml"}}, "response_format must have a type of text, json_object or json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format must have a json_schema with a schema in it"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs must be an object with exactly one"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "contradict each other: both set constraints"),
        ({"extra_body": {"constraint_refinement_rounds": 65}}, "constraint_refinement_rounds: Input should be less"),
        ({"functions": [{}]}, "functions is refused: use tools"),
        ({"tools": [{}]}, "tools is a field of /v1/chat/completions"),
        ({"store": True}, "store is refused"),
        ({"best_of": 2}, "best_of is refused"),
        ({"frames": True}, "frames needs stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
        ({"echo": True, "logprobs": 1}, "echo with logprobs"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens (5) must not be above max_tokens (4)"),
    ],
)
def test_refusals_say_why(body: dict[str, Any], message: str) -> None:
    assert message in str(refused({"prompt": "a", **body}))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_fields_pass_only_where_they_ask_for_nothing(name: str) -> None:
    for kind, base in ((CompletionBody, {"prompt": "a"}), (ChatBody, CHAT)):
        for harmless in REFUSED[name].harmless:
            assert parse(kind, {**base, name: harmless}) == parse(kind, base)
        assert refused({**base, name: {"x": 1}}, kind).code == "unsupported_field"


def test_equal_values_in_both_places_are_fine() -> None:
    assert options({"top_k": 5, "extra_body": {"top_k": 5}}) == options({"top_k": 5})
    assert options({"max_tokens": 5, "max_new_tokens": 5}) == options({"max_tokens": 5})
    assert options({"top_k": None, "steps": None}) == options({})
    assert options({"top_k": -1}) == options({"top_k": 0})


def test_defaults_of_the_server() -> None:
    defaults = {"mode": "fastdiffuser", "steps": 4, "confidence_threshold": 0.5, "temperature": 0.2}
    assert options({}, defaults) == options({**DIFFUSION, "steps": 4, "confidence_threshold": 0.5, "temperature": 0.2})
    ar = options({"generation_mode": "ar"}, defaults)
    assert (ar.mode, ar.steps, ar.confidence_threshold, ar.temperature) == ("ar", None, None, 0.2)
    scheduled = options({"schedule": True}, defaults)
    assert (scheduled.schedule, scheduled.confidence_threshold, scheduled.steps) == (True, None, 4)
    draft = {"mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": 4}
    assert options({"generation_mode": "auto"}, draft).spec_variant is None
    assert options({"generation_mode": "auto"}, draft).draft_block_size == 4
