"""What a caller may ask of one generation, and how that becomes a `Request`.

An option that is not given is None and has the checkpoint's default; one that the chosen mode cannot honour is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from unmask.constraints import Spec
from unmask.lm.soft import Constraint, Registered, constraint_of, is_hard
from unmask.types import Diffusion, Ids, Oracle, Request, Sampling, Speculation, Traits

Mode = Literal["ar", "fastdiffuser", "self-speculation", "auto"]
SpecVariant = Literal["linearspec", "quadspec", "adaptivespec"]
MODES: tuple[str, ...] = get_args(Mode)
SPEC_VARIANTS: tuple[str, ...] = get_args(SpecVariant)
DEFAULT_VARIANT = "adaptivespec"
DEFAULT_MAX_TOKENS = 256
# Longer drafts have rarely paid on models of any size; quadspec's rows grow with the square of the draft.
LONGEST_DEFAULT_DRAFT = {"quadspec": 8}
LONGEST_OTHER_DRAFT = 16

_DIFFUSION = (
    "block_size",
    "confidence_threshold",
    "steps",
    "sampler",
    "entropy_bound",
    "seed_first",
    "revision_threshold",
    "max_revisions",
)
_SPECULATION = ("draft_block_size", "draft_threshold", "alternatives", "lookup")
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of one generation.

    mode: one of MODES; None is "auto" for a checkpoint that was trained to draft, else "ar".
    spec_variant: of mode "self-speculation". max_tokens: most new tokens; None is 256, or what the context leaves.
    stop: text that ends the output and is not part of it. stop_token_ids: more ids that end it, and are part of it.
    ignore_eos: the checkpoint's own end tokens do not end it.
    schedule: fastdiffuser without a confidence threshold, an even share of the block per step (see `Diffusion`).
    constraints: what the text must obey: at most one hard constraint (`constraints.specs`), and any number of soft ones
        (`lm.soft`), which are oracles or the JSON of some.
    constraint_refinement_rounds: how often what a soft constraint blames is written anew (`decoding.refining`); None is
        2, 0 only tells what is wrong.
    logprobs: so many alternatives per token; 0 is the log-probability of the token alone. frames: see `LM.stream`.
    All others: the fields of that name in `types.Sampling`, `types.Diffusion` and `types.Speculation`.
    """

    mode: str | None = None
    spec_variant: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: Ids = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    frames: bool = False
    constraints: tuple[Constraint, ...] = ()
    constraint_refinement_rounds: int | None = None

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    block_size: int | None = None
    confidence_threshold: float | None = None
    schedule: bool | None = None
    steps: int | None = None
    sampler: str | None = None
    entropy_bound: float | None = None
    seed_first: bool | None = None
    revision_threshold: float | None = None
    max_revisions: int | None = None

    draft_block_size: int | None = None
    draft_threshold: float | None = None
    alternatives: int | None = None
    lookup: int | None = None

    @property
    def hard(self) -> tuple[Spec, ...]:
        return tuple(filter(is_hard, self.constraints))

    @property
    def soft(self) -> tuple[Registered | Oracle, ...]:
        return tuple(one for one in self.constraints if not isinstance(one, Spec))


def options_of(given: Mapping[str, Any]) -> Options:
    """Options from keyword arguments: a single stop string, lists and a dict of biases are taken as well.

    Raises ValueError for a name that is no option, naming the nearest one.
    """
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            raise ValueError(
                f"unknown option {name!r}; " + (f"did you mean {near[0]!r}?" if near else ", ".join(known))
            )
    values = dict(given)
    stop = values.get("stop") or ()
    values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    values["stop_token_ids"] = tuple(values.get("stop_token_ids") or ())
    values["constraints"] = tuple(map(constraint_of, values.get("constraints") or ()))
    bias = values.get("logit_bias") or ()
    pairs = bias.items() if isinstance(bias, Mapping) else bias
    values["logit_bias"] = tuple(sorted((int(token), float(value)) for token, value in pairs))
    return Options(**values)


def causal(options: Options) -> Options:
    """The options in mode "ar", without those that are fastdiffuser's own."""
    own: dict[str, Any] = dict.fromkeys(("schedule", *_DIFFUSION))
    return replace(options, mode="ar", **own)


def default_mode(traits: Traits) -> str:
    """`auto` where the checkpoint can draft; it then only ever chooses among lossless ways to decode."""
    return "auto" if can_draft(traits) else "ar"


def can_draft(traits: Traits) -> bool:
    """Whether the checkpoint says that it was trained to fill masks, beyond having a token to spare for them."""
    return traits.mask_id is not None and traits.trained


def request_of(prompt: Sequence[int], options: Options, traits: Traits, stop_ids: Ids, max_position: int) -> Request:
    """The request that `options` describe for a checkpoint.

    stop_ids: the checkpoint's own. Raises ValueError for values out of range, options that do not belong to the mode,
    and a prompt that leaves no room in the context.
    """
    room = max_position - len(prompt)
    if room < 1:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens, but the context of {max_position} holds prompt and output"
        )
    strategy, settings = method_of(options, traits)
    own = () if options.ignore_eos else stop_ids
    return Request(
        prompt=tuple(prompt),
        max_tokens=min(DEFAULT_MAX_TOKENS, room) if options.max_tokens is None else options.max_tokens,
        strategy=strategy,
        settings=settings,
        sampling=Sampling(logit_bias=options.logit_bias, **{name: getattr(options, name) for name in _SAMPLING}),
        traits=traits,
        min_tokens=options.min_tokens,
        stop_ids=tuple(dict.fromkeys((*own, *options.stop_token_ids))),
        logprobs=options.logprobs,
        watch=options.frames,
    )


def method_of(options: Options, traits: Traits) -> tuple[str, Diffusion | Speculation | None]:
    """(strategy, settings) for the options' mode; ValueError where one of them belongs to another mode."""
    mode = options.mode or default_mode(traits)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if options.spec_variant is not None and options.spec_variant not in SPEC_VARIANTS:
        raise ValueError(f"spec_variant must be one of {', '.join(SPEC_VARIANTS)}, got {options.spec_variant!r}")
    given = {name: value for name in (*_DIFFUSION, *_SPECULATION) if (value := getattr(options, name)) is not None}
    asked = (*given, *(name for name in ("schedule", "spec_variant") if getattr(options, name) is not None))
    if foreign := [name for name in asked if not applies(name, mode)]:
        raise ValueError(f"{foreign[0]} does not apply to mode {mode!r}")
    if mode == "ar":
        return "ar", None
    if mode == "fastdiffuser":
        if options.schedule:
            if options.confidence_threshold is not None:
                raise ValueError("schedule = True places an even share per step: leave confidence_threshold out")
            given["confidence_threshold"] = None
        return mode, Diffusion(**{"block_size": traits.block_size, **given})
    strategy = "auto" if mode == "auto" else options.spec_variant or DEFAULT_VARIANT
    longest = LONGEST_DEFAULT_DRAFT.get(strategy, LONGEST_OTHER_DRAFT)
    return strategy, Speculation(
        **{"draft_block_size": min(traits.draft_block_size or traits.block_size, longest), **given}
    )


def applies(name: str, mode: str) -> bool:
    """Whether an option means something in a mode; those of sampling and of limits do in every mode."""
    if name == "schedule" or name in _DIFFUSION:
        return mode == "fastdiffuser"
    if name in _SPECULATION:
        return mode in ("self-speculation", "auto")
    return name != "spec_variant" or mode == "self-speculation"
