"""The names that requests may use: ours, other servers' spellings of them, and those that are refused with a reason.

`canonical` turns a body as sent into one with our names only, or raises the error that says what is wrong with it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from unmask.server import constraining
from unmask.server.errors import ApiError, bad

EXTRA = "extra_body"


@dataclass(frozen=True, slots=True)
class Alias:
    """Another server's field. fields: what one of its values means in ours; ValueError for one that means nothing."""

    dialect: str
    means: str
    fields: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A field that exists elsewhere and is refused here. harmless: values that ask for nothing and are let pass."""

    reason: str
    harmless: tuple[Any, ...] = (None,)


def same(dialect: str, name: str) -> Alias:
    return Alias(dialect, f"`{name}`", lambda value: {name: value})


def chosen(dialect: str, means: str, table: Mapping[Any, dict[str, Any]]) -> Alias:
    """An alias with a list of values of its own."""

    def fields(value: Any) -> dict[str, Any]:
        for known, meaning in table.items():
            if value == known and isinstance(value, bool) == isinstance(known, bool):
                return meaning
        raise ValueError(f"must be one of {', '.join(map(repr, table))}, got {value!r}")

    return Alias(dialect, means, fields)


def constraint(dialect: str, kind: str, name: str) -> Alias:
    """A field whose value is all that a constraint of one type has to say."""
    return Alias(dialect, f"`constraints` {kind}", lambda value: {"constraints": [{"type": kind, name: value}]})


AR = {"generation_mode": "ar"}
DIFFUSION = {"generation_mode": "fastdiffuser"}
LINEAR = {"generation_mode": "self-speculation", "spec_variant": "linearspec"}
ENTROPY, CONFIDENCE, MARGIN = ({"sampler": name} for name in ("entropy", "confidence", "margin"))

ALIASES: dict[str, Alias] = {
    "max_completion_tokens": same("OpenAI", "max_tokens"),
    "max_new_tokens": same("SGLang", "max_tokens"),
    "max_gen_toks": same("lm-eval", "max_tokens"),
    "mode": same("unmask", "generation_mode"),
    "dllm_algorithm": chosen(
        "SGLang",
        "`generation_mode`, `spec_variant`, `sampler`",
        {
            "FastDiffuser": DIFFUSION,
            "LowConfidence": DIFFUSION,
            "EBSampling": DIFFUSION | ENTROPY,
            "LinearSpec": LINEAR,
        },
    ),
    "max_steps": same("SGLang", "steps"),
    "gamma": Alias("SGLang", "`sampler` entropy, `entropy_bound`", lambda value: ENTROPY | {"entropy_bound": value}),
    "threshold": same("SGLang, NVIDIA", "confidence_threshold"),
    "canvas_length": same("vLLM", "block_size"),
    "max_denoising_steps": same("vLLM", "steps"),
    "diffusion_sampler": chosen(
        "vLLM", "`sampler`", {"entropy_bound": ENTROPY, "entropy": ENTROPY, "confidence": CONFIDENCE}
    ),
    "diffusion_entropy_bound": same("vLLM", "entropy_bound"),
    "diffusion_confidence_threshold": same("vLLM", "confidence_threshold"),
    "dllm_block_length": same("LMDeploy", "block_size"),
    "dllm_denoising_steps": same("LMDeploy", "steps"),
    "dllm_confidence_threshold": same("LMDeploy", "confidence_threshold"),
    "dllm_unmasking_strategy": chosen(
        "LMDeploy",
        "`sampler`, `schedule`",
        {"low_confidence_dynamic": CONFIDENCE, "low_confidence_static": CONFIDENCE | {"schedule": True}},
    ),
    "generation_algorithm": chosen(
        "NVIDIA",
        "`generation_mode`",
        {"ar_native": AR, "ar": AR, "nemotron": DIFFUSION, "linear_spec": LINEAR},
    ),
    "linear_speculation": chosen("NVIDIA", "`generation_mode`, `spec_variant`", {True: LINEAR, False: {}}),
    "block_length": same("NVIDIA", "block_size"),
    "remasking": chosen(
        "NVIDIA",
        "`sampler`",
        {"low_confidence": CONFIDENCE, "top_k_margin": MARGIN, "entropy": ENTROPY},
    ),
    "diffusion_block_size": same("the article's flag", "block_size"),
    "diffusion_steps": same("the article's flag", "steps"),
    "response_format": Alias("OpenAI", "`constraints`", constraining.response_format),
    "structured_outputs": Alias("vLLM", "`constraints`", constraining.structured_outputs),
    "guided_json": constraint("vLLM", "json_schema", "schema"),
    "guided_regex": constraint("vLLM", "regex", "pattern"),
    "guided_choice": constraint("vLLM", "choice", "values"),
    "guided_grammar": constraint("vLLM", "grammar", "text"),
    "json_schema": constraint("SGLang, llama.cpp", "json_schema", "schema"),
    "regex": constraint("SGLang", "regex", "pattern"),
    "ebnf": constraint("SGLang", "grammar", "text"),
    "grammar": constraint("llama.cpp", "grammar", "text"),
}

OLD_TOOLS = "use tools and tool_choice"
TEXT_ONLY = "this server reads and writes text only"
NOT_STORED = "this server stores nothing"
FIXED = "it is a property of the loaded checkpoint, not of a request"

REFUSED: dict[str, Refusal] = {
    "functions": Refusal(OLD_TOOLS, (None, [])),
    "function_call": Refusal(OLD_TOOLS, (None, "none", "auto")),
    "best_of": Refusal("ask for n choices and choose among them", (None, 1)),
    "audio": Refusal(TEXT_ONLY),
    "modalities": Refusal(TEXT_ONLY, (None, ["text"])),
    "moderation": Refusal("this server does not moderate"),
    "web_search_options": Refusal("this server does not search the web"),
    "prediction": Refusal("predicted outputs are not supported; generation_mode 'self-speculation' drafts by itself"),
    "store": Refusal(NOT_STORED, (None, False)),
    "metadata": Refusal(NOT_STORED, (None, {})),
    "service_tier": Refusal("there is one tier", (None, "auto", "default")),
    "prompt_cache_key": Refusal("equal prefixes are reused without it"),
    "prompt_cache_retention": Refusal("equal prefixes are reused without it"),
    "prompt_cache_options": Refusal("equal prefixes are reused without it"),
    "reasoning_effort": Refusal("the model has no such setting; see chat_template_kwargs"),
    "verbosity": Refusal("the model has no such setting"),
    "continue_final_message": Refusal("continuing an assistant's message is not supported", (None, False)),
    "skip_special_tokens": Refusal("special tokens are never part of the text", (None, True)),
    "prompt_logprobs": Refusal("log-probabilities of the prompt are not supported"),
    "use_beam_search": Refusal("beam search is not supported", (None, False)),
    "edit_threshold": Refusal("see revision_threshold: it takes a token back instead of replacing it", (None, 0)),
    "max_post_edit_steps": Refusal("finished blocks are not edited", (None, 0)),
    "penalty_lambda": Refusal("see repetition_penalty", (None, 0)),
    "tokens_per_step": Refusal("use schedule and steps: block_size / steps tokens are placed per step"),
    "factor": Refusal("factor-based decoding is not supported; use confidence_threshold or the entropy sampler"),
    "cfg_scale": Refusal("classifier-free guidance is not supported", (None, 0)),
    "draft_lora_only": Refusal(FIXED),
    "causal_context": Refusal(FIXED),
    "max_thinking_tokens": Refusal("a thinking budget is not supported"),
    "shift_logits": Refusal(FIXED),
    "ar_weight": Refusal("mixing AR into the confidence is not supported"),
}


def flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body with the contents of a literal `extra_body` at top level."""
    extra = body.get(EXTRA)
    top = {name: value for name, value in body.items() if name != EXTRA}
    if extra is None:
        return top
    if not isinstance(extra, dict):
        raise bad("extra_body must be an object", EXTRA)
    for name, value in extra.items():
        if name == EXTRA:
            raise bad("extra_body must not contain extra_body", EXTRA)
        if name in top and not equal(top[name], value):
            raise bad(f"{name} is given twice, at top level and in extra_body, with different values", name)
    return top | extra


def in_speculation(body: dict[str, Any]) -> dict[str, Any]:
    """NVIDIA's server reads three of its fields another way where `linear_speculation` is on."""
    if body.get("linear_speculation") is not True:
        return body
    renamed = {"block_length": "draft_block_size", "threshold": "draft_threshold"}
    if clash := [name for old, name in renamed.items() if old in body and name in body]:
        raise bad(f"{clash[0]} is given twice, by two names", clash[0])
    return {
        renamed.get(name, name): value
        for name, value in body.items()
        if (name, value) != ("generation_algorithm", "nemotron")
    }


def canonical(
    body: Mapping[str, Any], known: Collection[str], elsewhere: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """The body with our names. ApiError for what is unknown, refused or contradictory.

    known: the fields of the route. elsewhere: fields of other routes, with their routes.
    """
    result: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in in_speculation(flat(body)).items():
        for field, meaning in meanings(name, value, known, elsewhere).items():
            if field in result and not equal(result[field], meaning):
                raise bad(f"{name} and {spelled[field]} contradict each other: both set {field}", name)
            result[field], spelled[field] = meaning, name
    return result


def meanings(name: str, value: Any, known: Collection[str], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    if name in known:
        return {} if value is None else {name: value}
    if alias := ALIASES.get(name):
        try:
            meant = {} if value is None else alias.fields(value)
        except ValueError as error:
            raise bad(f"{name} {error}", name) from None
        if all(field in known for field in meant):
            return meant
    elif refusal := REFUSED.get(name):
        if any(equal(value, harmless) for harmless in refusal.harmless):
            return {}
        raise bad(f"{name} is refused: {refusal.reason}", name, "unsupported_field")
    if route := elsewhere.get(name):
        raise bad(f"{name} is a field of {route}", name, "unknown_field")
    raise unknown(name, known)


def unknown(name: str, known: Collection[str]) -> ApiError:
    near = difflib.get_close_matches(name[:100], [*known, *ALIASES], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "see the table of fields in docs/server.md"
    return bad(f"unknown field {name[:100]!r}; {hint}", name[:100], "unknown_field")


def equal(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
