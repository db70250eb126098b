"""Generations as OpenAI's objects: choices, log-probabilities, usage, and what we add to them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unmask.lm import Generation
from unmask.lm.watching import frame_data, token_data
from unmask.server.asking import Prompt
from unmask.server.tools import Calling
from unmask.text import TextStream, Tokenizer
from unmask.types import Frame, Token

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's own stand-in for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the reply to one HTTP request looks.

    n: choices of each prompt. seed: of its first choice. echo, logprobs, details, with_usage: what was asked for.
    calling: functions that a text may call.
    """

    kind: Literal["chat", "text"]
    model: str
    fingerprint: str
    tokenizer: Tokenizer
    prompts: Sequence[Prompt]
    n: int
    seed: int
    echo: bool
    logprobs: bool
    details: bool
    with_usage: bool
    calling: Calling | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def choices(self) -> int:
        return self.n * len(self.prompts)

    def prompt(self, index: int) -> Prompt:
        """The prompt of a choice."""
        return self.prompts[index // self.n]

    def head(self, streamed: bool) -> dict[str, Any]:
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.kind == 'chat' else 'cmpl'}-{self.id}",
            "object": f"{name}.chunk" if streamed and self.kind == "chat" else name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The reply to a request that did not stream. generations: in order of choices."""
        choices = [self.choice(index, generation) for index, generation in enumerate(generations)]
        return self.head(False) | {"choices": choices, "usage": self.usage(generations)}

    def choice(self, index: int, generation: Generation) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index}
        call = self.call_in(generation)
        if call:
            choice["message"] = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
        elif self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": generation.text, "refusal": None}
        else:
            choice["text"] = self.echoed(index) + generation.text
        extras = Tail(self).extras(generation.tokens) | judged(generation)
        return choice | extras | {"finish_reason": "tool_calls" if call else generation.finish_reason}

    def call_in(self, generation: Generation) -> dict[str, Any] | None:
        """The call that a text is; None where it is text."""
        return self.calling.call_in(generation.text) if self.calling else None

    def echoed(self, index: int) -> str:
        """What the text of a choice begins with: its prompt, if that was asked for."""
        if not self.echo:
            return ""
        prompt = self.prompt(index)
        return prompt.text if prompt.text is not None else self.tokenizer.decode(prompt.ids, skip_special=False)

    def usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """OpenAI's counts, and in `completion_tokens_details` how the tokens were made."""
        stats = [generation.stats for generation in generations]
        tokens, forwards = sum(s.tokens for s in stats), sum(s.nfe for s in stats)
        drafted = [s for s in stats if s.rounds]
        decoded = sum(s.tokens - s.prefill_tokens for s in stats)
        rounds = sum(s.rounds for s in drafted)
        prompt_tokens = sum(prompt.tokens for prompt in self.prompts)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": prompt_tokens + tokens,
            "completion_tokens_details": {
                "mode": generations[0].mode,
                "strategy": ",".join(sorted({generation.strategy for generation in generations})),
                "forwards": forwards,
                "prefill_forwards": sum(s.prefills for s in stats),
                "tpf": round(decoded / forwards, 4) if forwards else 0.0,
                "acceptance_length": (
                    round(sum(s.tokens - s.prefill_tokens for s in drafted) / rounds, 4) if rounds else None
                ),
                "rounds": rounds,
                "revisions": sum(s.revisions for s in stats),
                "refinement_rounds": sum(s.refinement_rounds for s in stats),
                "seed": self.seed,
            },
            "nfe": forwards,
        }


def judged(generation: Generation) -> dict[str, Any]:
    """What the last check of a constrained text says."""
    verdict = generation.constraint
    return {} if verdict is None else {"constraint": verdict.plain()}


class Tail:
    """What goes with the tokens of one choice, piece by piece: log-probabilities and details."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.stream = TextStream(form.tokenizer, skip_special=False)  # only to know where each token begins
        self.offset = 0

    def extras(self, tokens: Sequence[Token]) -> dict[str, Any]:
        found: dict[str, Any] = {"logprobs": None}
        if self.form.logprobs:
            found["logprobs"] = self.chat_logprobs(tokens) if self.form.kind == "chat" else self.text_logprobs(tokens)
        if self.form.details:
            found["token_details"] = [token_data(token, self.form.tokenizer.token_text) for token in tokens]
        return found

    def chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        content = [
            self.spelled(token.id, token.logprob)
            | {"top_logprobs": [self.spelled(id, value) for id, value in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def spelled(self, id: int, logprob: float | None) -> dict[str, Any]:
        data = self.form.tokenizer.token_bytes(id)
        return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}

    def text_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        tokenizer = self.form.tokenizer
        offsets = list[int]()
        for token in tokens:
            offsets.append(self.offset)
            self.stream, text = self.stream.feed([token.id])
            self.offset += len(text)
        tops = list[dict[str, float]]()
        for token in tokens:
            top = dict[str, float]()
            for id, value in token.top:
                top.setdefault(
                    plain_name(tokenizer, id), finite(value)
                )  # of two tokens with one spelling, the likelier
            tops.append(top)
        return {
            "tokens": [plain_name(tokenizer, token.id) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def plain_name(tokenizer: Tokenizer, id: int) -> str:
    """A token's text; of part of a character its bytes, as OpenAI's completions spell them: no two are alike."""
    data = tokenizer.token_bytes(id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def finite(logprob: float | None) -> float:
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)


def frame_object(frame: Frame, index: int, form: Form, dropped: int) -> dict[str, Any]:
    """The payload of an `unmask.frame` event; its form is documented in docs/server.md and has a version."""
    prompt_tokens = len(form.prompt(index).ids)
    return frame_data(frame, form.tokenizer.token_text, prompt_tokens=prompt_tokens, index=index, dropped=dropped)
