"""`unmask generate`: continue prompts, streamed to the terminal or as JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from unmask.cli.common import DEFAULT_MODEL, as_json, err, load_model, opened, out, summary
from unmask.cli.constraining import CONSTRAINTS, SOFT, constrained
from unmask.cli.flags import DECODING, LOADING, Model, TraceFile, with_flags
from unmask.types import Frame, Ids
from unmask.view.terminal import screen

if TYPE_CHECKING:
    from unmask.lm import LM, Generation


@with_flags(options=DECODING, loading=LOADING, constraint=CONSTRAINTS | SOFT)
def generate(
    prompts: Annotated[list[str], typer.Argument(help="Text to continue; several run in one batch; - reads stdin.")],
    options: dict[str, Any],
    loading: dict[str, Any],
    constraint: dict[str, Any],
    model: Model = DEFAULT_MODEL,
    chat: Annotated[bool, typer.Option("--chat", help="Take each prompt as a user's message.")] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="System message; implies --chat.", show_default=False)
    ] = None,
    logprobs: Annotated[
        int | None, typer.Option("--logprobs", help="With --json: alternatives per token, 0 to 20.", show_default=False)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show masks being filled.")] = False,
    trace: TraceFile = None,
    as_objects: Annotated[bool, typer.Option("--json", help="One JSON object per generation.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="One line of numbers after each text.")] = False,
) -> None:
    """Continue a prompt."""
    if logprobs is not None and not as_objects:
        raise ValueError("--logprobs is part of the JSON: add --json")
    if watch and (as_objects or len(prompts) > 1):
        raise ValueError("--watch shows one text as it is made: give one prompt, and no --json")
    options = constrained(options, constraint)
    texts = [sys.stdin.read() if prompt == "-" else prompt for prompt in prompts]
    record = opened(trace)
    lm = load_model(model, **loading)
    lm.trace = record
    ids = [prompt_ids(lm, text, chat or system is not None, system) for text in texts]
    if as_objects or len(ids) > 1:
        for generation in lm.generate_all(ids, logprobs=logprobs, **options):
            if as_objects:
                print(json.dumps(as_json(generation) | logprobs_of(lm, generation, logprobs)), flush=True)
            else:
                out.print(generation.text, markup=False)
                out.rule()
            if stats:
                err.print(summary(generation), soft_wrap=True)
        return
    generation = watch_one(lm, ids[0], options) if watch else print_one(lm, ids[0], options)
    if stats:
        err.print(summary(generation), soft_wrap=True)


def prompt_ids(lm: LM, text: str, chat: bool, system: str | None) -> Ids:
    if not chat:
        return lm.encode(text)
    messages = [{"role": "system", "content": system}] if system is not None else []
    return lm.encode_chat([*messages, {"role": "user", "content": text}])


def print_one(lm: LM, ids: Ids, options: dict[str, Any]) -> Generation:
    """Write text as it becomes certain."""
    for event in lm.stream(ids, **options):
        if text := getattr(event, "text", None) if not hasattr(event, "stats") else None:
            sys.stdout.write(text)
            sys.stdout.flush()
    sys.stdout.write("\n")
    return event  # type: ignore[return-value]  # the last event


def watch_one(lm: LM, ids: Ids, options: dict[str, Any]) -> Generation:
    """Show the open block while it is filled, then the text."""
    from unmask.lm import Generation, Piece

    text, shown, frame = "", len(ids), None
    with Live(console=out, refresh_per_second=20, transient=not out.is_terminal) as live:
        for event in lm.stream(ids, frames=True, **options):
            if isinstance(event, Frame):
                frame = event
            elif isinstance(event, Piece):
                text, shown = text + event.text, shown + len(event.tokens)
            elif isinstance(event, Generation):
                live.update(screen(text, None, shown, lm.tokenizer.token_text, out.size.height - 2), refresh=True)
                done = event
                break
            live.update(screen(text, frame, shown, lm.tokenizer.token_text, out.size.height - 2))
    if not out.is_terminal:
        out.print(text, markup=False)
    return done


def logprobs_of(lm: LM, generation: Generation, wanted: int | None) -> dict[str, Any]:
    if wanted is None:
        return {}
    rows = [
        {
            "token": lm.tokenizer.token_text(token.id),
            "id": token.id,
            "logprob": token.logprob,
            "top": [{"id": i, "token": lm.tokenizer.token_text(i), "logprob": value} for i, value in token.top],
        }
        for token in generation.tokens
    ]
    return {"logprobs": rows}
