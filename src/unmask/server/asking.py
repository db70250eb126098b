"""From a checked body to what the engine is asked: prompt ids and options, choice by choice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from unmask.lm import LM, Options, options_of
from unmask.lm.options import applies, default_mode
from unmask.server.errors import ApiError, bad
from unmask.server.schema import Body, ChatBody, CompletionBody, Message
from unmask.server.tools import Tool, told
from unmask.text import Tokenizer, render_chat
from unmask.types import Ids, Traits

# Fields of a body that are options of `lm.Options` under another name, and those that are none.
RENAMED = {"generation_mode": "mode"}
NOT_OPTIONS = {
    *("model", "n", "stream", "stream_options", "user", "safety_identifier", "return_token_details", "logprobs"),
    *("messages", "top_logprobs", "chat_template_kwargs", "add_generation_prompt", "prompt", "echo"),
    *("suffix", "fim_mode", "constrain", "tools", "tool_choice", "parallel_tool_calls"),
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """text: of a prompt that was given as text, for `echo`. suffix: tokens of what follows a gap."""

    ids: Ids
    text: str | None = None
    suffix: int = 0

    @property
    def tokens(self) -> int:
        return len(self.ids) + self.suffix


def options_for(body: Body, defaults: Mapping[str, Any], traits: Traits) -> Options:
    """The body's options over the server's defaults. A default that belongs to another mode is left out."""
    given = {
        RENAMED.get(name, name): value
        for name in type(body).model_fields
        if name not in NOT_OPTIONS and (value := getattr(body, name)) is not None
    }
    given["logprobs"] = body.alternatives_wanted if isinstance(body, ChatBody | CompletionBody) else None
    if isinstance(body, ChatBody) and body.calling and body.calling.forced:
        given["constraints"] = [body.calling.constraint]
    if given.get("top_k") == -1:
        given["top_k"] = 0
    mode = given.get("mode") or defaults.get("mode") or default_mode(traits)
    own = {name: value for name, value in defaults.items() if applies(name, mode)}
    # These two exclude each other: asking for one drops the server's default for the other.
    for one, other in (("schedule", "confidence_threshold"), ("confidence_threshold", "schedule")):
        if one in given and one not in own:
            own.pop(other, None)
    options = options_of(own | given)
    if options.seed == 0 and "seed" not in given and "seed" not in own and options.temperature > 0:
        options = replace(options, seed=random.getrandbits(48))
    return options


def chat_prompt(
    lm: LM,
    messages: Sequence[Message],
    variables: Mapping[str, Any] | None,
    add_generation_prompt: bool | None,
    tools: Sequence[Tool] = (),
) -> Prompt:
    """Ids of a chat, through the model's template. tools: put in words for a template that has no place for them."""
    plain = [as_data(message) for message in messages]
    knows = "tools" in lm.template.source
    text = render_chat(
        lm.template,
        plain if knows else told(plain, tools),
        add_generation_prompt=add_generation_prompt is not False,
        tools=[tool.model_dump(exclude_none=True) for tool in tools] if knows and tools else None,
        variables=variables,
    )
    return Prompt(lm.tokenizer.encode(text, special=True))


def as_data(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    calls = [call.plain for call in message.tool_calls or ()] or None
    return {"role": role, "content": message.text, "tool_calls": calls, "tool_call_id": message.tool_call_id}


def prompts_of(lm: LM, body: Body, context: int) -> list[Prompt]:
    """All prompts of a body as ids. Slow for long texts: not for the event loop."""
    refuse_endless(lm, body, context)
    try:
        if isinstance(body, ChatBody):
            tools = body.calling.tools if body.calling else ()
            variables, header = body.chat_template_kwargs, body.add_generation_prompt
            prompts = [chat_prompt(lm, body.messages, variables, header, tools)]
        else:
            assert isinstance(body, CompletionBody)
            prompts = [Prompt(lm.encode(p), p if isinstance(p, str) else None) for p in body.prompts]
    except ValueError as error:
        raise bad(str(error), "messages" if isinstance(body, ChatBody) else "prompt") from None
    for prompt in prompts:
        if not prompt.ids:
            raise bad("the prompt is empty: it must be at least one token long", "prompt")
        limit_context(len(prompt.ids), body.max_tokens or 1, context)
    return prompts


def refuse_endless(lm: LM, body: Body, context: int) -> None:
    """Refuse what cannot fit however well it is tokenised, before tokenising it."""
    longest = max((len(text) for text in texts_of(body)), default=0)
    if longest > context * longest_token(lm.tokenizer):
        raise too_long(f"the prompt has {longest} characters, more than the context of {context} tokens can hold")


def texts_of(body: Body) -> list[str]:
    if isinstance(body, ChatBody):
        return [body.whole_text]
    return [p for p in body.prompts if isinstance(p, str)] if isinstance(body, CompletionBody) else []


@lru_cache(maxsize=8)
def longest_token(tokenizer: Tokenizer) -> int:
    """Most bytes, so at least as many as characters, of one token."""
    return max((len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size)), default=1)


def limit_context(prompt: int, new: int, context: int) -> None:
    if prompt + new > context:
        raise too_long(f"prompt ({prompt} tokens) and max_tokens ({new}) exceed the context of {context} tokens")


def too_long(message: str) -> ApiError:
    return bad(message, code="context_length_exceeded")


def with_room(options: Options, prompt: Prompt, context: int, chosen: bool) -> Options:
    """The options with a limit of tokens that the context has room for. chosen: the request set the limit itself."""
    room = context - len(prompt.ids)
    least, most = options.min_tokens, options.max_tokens or room
    if chosen:
        limit_context(len(prompt.ids), most, context)
        return options
    if least > room:
        raise too_long(f"prompt ({len(prompt.ids)} tokens) and min_tokens ({least}) exceed the context of {context}")
    return replace(options, max_tokens=min(max(most, least), room))
