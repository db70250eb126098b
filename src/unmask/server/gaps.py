"""Gaps over HTTP: a prompt with a suffix becomes a request that fills what is between them, or is refused."""

from __future__ import annotations

from dataclasses import replace

from unmask.lm import LM, Filling, Options
from unmask.lm.filling import GAP
from unmask.lm.follow import Follow
from unmask.server.asking import Prompt, limit_context
from unmask.server.errors import bad
from unmask.server.schema import CompletionBody
from unmask.types import Request


def prepare_gap(
    lm: LM, body: CompletionBody, prompt: Prompt, suffix: str, options: Options, context: int
) -> tuple[Request, Follow]:
    """As `LM.prepare`. A gap in place is as wide as was learned, at most; ApiError for a model that cannot fill any."""
    if not lm.filler.layouts:
        raise bad(
            "suffix is refused: this model cannot fill a gap: it was not trained with gaps, and its tokenizer has no"
            " fill-in-the-middle tokens",
            "suffix" if body.model_fields_set & {"suffix"} else "fim_mode",
            "unsupported_field",
        )
    if body.generation_mode is None:  # a default of the server's may not fit
        options = replace(options, mode=None)
    if body.max_tokens is None and lm.filler.layouts[0] == "in-place":
        options = replace(options, max_tokens=None)
    text = prompt.ids if prompt.text is None else prompt.text
    filling = Filling(constrain=body.constrain or GAP)
    request, follow = lm.filler.prepare(text, suffix, options, filling)
    limit_context(len(request.context), request.room or request.max_tokens, context)
    return request, follow


def seen(prompt: Prompt, request: Request) -> Prompt:
    """The prompt as the model has seen it."""
    return replace(prompt, ids=request.prompt, suffix=len(request.suffix))
