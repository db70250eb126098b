"""The decoding flags that every generating verb has, written once.

`with_decoding` gives a command one flag per option of `lm.Options` and hands it the flags that were set; `with_flags`
does so for any group of flags.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from unmask.types.settings import LONGEST_MATCH

METHOD, SAMPLING, LIMITS = "How to decode", "How to pick tokens", "When to stop"


def flag(kind: Any, panel: str, text: str, *names: str) -> Any:
    return Annotated[kind | None, typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)]


# Option of `lm.Options` -> flag. The article's spellings stand beside the short ones.
DECODING: dict[str, Any] = {
    "mode": flag(str, METHOD, "ar, fastdiffuser, self-speculation or auto.", "--mode", "--generation-mode", "-m"),
    "spec_variant": flag(str, METHOD, "linearspec, quadspec or adaptivespec.", "--spec-variant"),
    "draft_block_size": flag(int, METHOD, "Seed and drafted tokens of one round.", "--draft-block-size"),
    "draft_threshold": flag(
        float, METHOD, "linearspec: draft in several forwards, placing what is this sure.", "--draft-threshold"
    ),
    "alternatives": flag(int, METHOD, "adaptivespec: most second-best tokens beside the draft.", "--alternatives"),
    "lookup": flag(
        int,
        METHOD,
        f"linearspec, adaptivespec: shortest repetition worth a draft, 1 to {LONGEST_MATCH} tokens; 0: none.",
        "--lookup",
    ),
    "block_size": flag(
        int, METHOD, "fastdiffuser: tokens denoised together.", "--block-size", "--diffusion-block-size"
    ),
    "confidence_threshold": flag(
        float, METHOD, "fastdiffuser: place every token at least this sure.", "--confidence-threshold"
    ),
    "schedule": flag(
        bool, METHOD, "fastdiffuser: an even share per step instead of a threshold.", "--schedule/--no-schedule"
    ),
    "steps": flag(int, METHOD, "fastdiffuser: most denoise steps per block.", "--steps", "--diffusion-steps"),
    "sampler": flag(str, METHOD, "fastdiffuser: what sure means: confidence, margin or entropy.", "--sampler"),
    "entropy_bound": flag(float, METHOD, "fastdiffuser: bound of the entropy sampler, in nats.", "--entropy-bound"),
    "seed_first": flag(
        bool, METHOD, "fastdiffuser: the first token of a block comes from AR.", "--seed-first/--no-seed-first"
    ),
    "revision_threshold": flag(
        float, METHOD, "fastdiffuser: take back a placed token that falls below this.", "--revision-threshold"
    ),
    "max_revisions": flag(int, METHOD, "fastdiffuser: how often one slot may be taken back.", "--max-revisions"),
    "temperature": flag(float, SAMPLING, "0 is greedy.", "--temperature", "-t"),
    "top_k": flag(int, SAMPLING, "Only the k likeliest tokens; 0 is all.", "--top-k"),
    "top_p": flag(float, SAMPLING, "Only the likeliest tokens that make up this share.", "--top-p"),
    "min_p": flag(float, SAMPLING, "Only tokens this likely relative to the likeliest.", "--min-p"),
    "repetition_penalty": flag(float, SAMPLING, "Above 1 discourages tokens seen before.", "--repetition-penalty"),
    "presence_penalty": flag(float, SAMPLING, "Subtracted once from tokens in the output.", "--presence-penalty"),
    "frequency_penalty": flag(float, SAMPLING, "Subtracted per use from tokens in the output.", "--frequency-penalty"),
    "seed": flag(int, SAMPLING, "Of the noise; the same seed gives the same text.", "--seed"),
    "max_tokens": flag(int, LIMITS, "Most new tokens.", "--max-tokens", "-n"),
    "min_tokens": flag(int, LIMITS, "No end before so many tokens.", "--min-tokens"),
    "stop": flag(list[str], LIMITS, "Text that ends the output; may be repeated.", "--stop"),
    "stop_token_ids": flag(list[int], LIMITS, "Token id that ends the output; may be repeated.", "--stop-token-id"),
    "ignore_eos": flag(bool, LIMITS, "Go on after the model's end token.", "--ignore-eos"),
}

Model = Annotated[
    str, typer.Option("--model", help="Short name, Hugging Face folder, .gguf file or hub id.", rich_help_panel="Model")
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="bfloat16 or float32.", rich_help_panel="Model", show_default=False),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, ...", rich_help_panel="Model", show_default=False)
]
Exactness = Annotated[
    str | None,
    typer.Option(
        "--exactness",
        help="exact: lossless modes give the very same ids. fast: quickest kernels.",
        rich_help_panel="Model",
        show_default=False,
    ),
]
MaskId = Annotated[
    int | None,
    typer.Option("--mask-id", help="Token that stands for 'unknown'.", rich_help_panel="Model", show_default=False),
]
AdapterFolder = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="Folder of an adapter; none for the bare model.",
        rich_help_panel="Model",
        show_default=False,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        help="int8: faster in every mode, on a GPU only smaller. int4: smallest, on CPUs. Both cost some quality.",
        rich_help_panel="Model",
        show_default=False,
    ),
]
MODEL, MANY = "Model", "Many machines"  # panels of what is served
ServedModel = Annotated[
    str,
    typer.Option(
        "--model-path",
        "--model",
        help="Short name, Hugging Face folder, .gguf file or hub id.",
        rich_help_panel=MODEL,
    ),
]
ServedNames = Annotated[
    list[str] | None,
    typer.Option(
        "--served-model-name",
        help="What requests call the model; may be repeated.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--tp",
        "--tp-size",
        help="Share the model between so many processes: one GPU each, or parts of the CPU's threads.",
        rich_help_panel=MODEL,
    ),
]
Oracles = Annotated[
    list[str] | None,
    typer.Option(
        "--oracle",
        help="NAME=MODULE:FUNCTION that requests may ask for by name as a soft constraint. Repeatable.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Replicas = Annotated[int, typer.Option("--replicas", help="Replicas of the model.", rich_help_panel=MANY)]
CpusPerReplica = Annotated[
    float | None,
    typer.Option(
        "--cpus-per-replica",
        help="CPUs that Ray sets aside for a replica; an even share of this machine's if left out.",
        rich_help_panel=MANY,
        show_default=False,
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="Write every step to this file, for `unmask view`.", show_default=False),
]
LOADING: dict[str, Any] = {
    "dtype": Dtype,
    "quantize": Quantize,
    "device": Device,
    "exactness": Exactness,
    "mask_id": MaskId,
    "adapter": AdapterFolder,
}


Command = Callable[..., None]


def with_flags(**groups: dict[str, Any]) -> Callable[[Command], Command]:
    """Give a command the flags of each group, and hand it, under the group's name, a dict of those that were set."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name not in groups]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for flags in groups.values()
            for name, annotation in flags.items()
        ]

        @wraps(command)
        def wrapper(*arguments: Any, **given: Any) -> None:
            taken = {
                group: {name: value for name in flags if (value := given.pop(name, None)) is not None}
                for group, flags in groups.items()
            }
            command(*arguments, **given, **taken)

        del wrapper.__wrapped__  # typer reads annotations through it
        wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
        return wrapper

    return decorate


# Decoding and loading: a command gets `options` and `loading`.
with_decoding = with_flags(options=DECODING, loading=LOADING)
