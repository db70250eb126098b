"""Request bodies, checked strictly: our names only (see `fields`), no coercion, finite numbers, nothing unknown."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from unmask.server.errors import ApiError, bad
from unmask.server.fields import canonical
from unmask.server.strict import Strict
from unmask.server.tools import Called, Calling, ToolChoice, Tools, calling
from unmask.types.settings import LONGEST_MATCH

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Id = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Name = Annotated[str, StringConstraints(max_length=256)]
MODES = Literal["ar", "fastdiffuser", "self-speculation", "auto"]
VARIANTS = Literal["linearspec", "quadspec", "adaptivespec"]


class StreamOptions(Strict):
    include_usage: bool | None = Field(None, description="End a stream with a chunk that has usage and no choices.")
    include_obfuscation: Literal[False] | None = Field(None, description="Only false: nothing is padded here.")


class Body(Strict):
    """What chat and plain completions share."""

    model: Name | None = Field(None, description="A served name; the first one if left out.")
    max_tokens: Count | None = Field(None, description="Most new tokens.")
    n: Annotated[int, Field(ge=1, le=128)] | None = Field(
        None, description="Choices per prompt; choice i is sampled under seed + i."
    )
    seed: Int64 | None = Field(None, description="Of the noise. Drawn by the server if left out, and told in usage.")
    stop: Stop | Annotated[list[Stop], Field(max_length=64)] | None = Field(
        None, description="Text that ends the output and is not part of it."
    )
    stream: bool | None = Field(None, description="Send text as server-sent events while it is certain.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    user: Name | None = Field(None, description="Your name for who asks; it is written to the server's log.")

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="Only the likeliest that make this up.")
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        None, description="Only the k likeliest tokens; 0 or -1 is all."
    )
    min_p: Share | None = Field(None, description="Only tokens this likely relative to the likeliest.")
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, description="Subtracted once from tokens in the output."
    )
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(
        None, description="Subtracted per use from tokens in the output."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="Above 1 discourages tokens of prompt and output."
    )
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = Field(
        None, description="Added to the logits of tokens, by token id."
    )
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="No end before so many tokens."
    )
    stop_token_ids: Annotated[list[Id], Field(max_length=64)] | None = Field(
        None, description="More token ids that end the output."
    )
    ignore_eos: bool | None = Field(None, description="Go on after the model's own end tokens.")

    generation_mode: MODES | None = Field(None, description="How to decode.")
    spec_variant: VARIANTS | None = Field(None, description="self-speculation: how to draft and verify.")
    draft_block_size: Count | None = Field(None, description="self-speculation, auto: seed and drafts of one round.")
    draft_threshold: Share | None = Field(
        None, description="linearspec: draft in several forwards, placing what is sure."
    )
    alternatives: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        None, description="adaptivespec: most second-best tokens verified beside the draft."
    )
    lookup: Annotated[int, Field(ge=0, le=LONGEST_MATCH)] | None = Field(
        None, description="linearspec, adaptivespec: shortest repetition worth a draft, in tokens; 0: none."
    )
    block_size: Count | None = Field(None, description="fastdiffuser: tokens denoised together.")
    confidence_threshold: Share | None = Field(None, description="fastdiffuser: place every token at least this sure.")
    schedule: bool | None = Field(None, description="fastdiffuser: an even share per step instead of a threshold.")
    steps: Count | None = Field(None, description="fastdiffuser: most denoise steps per block.")
    sampler: Literal["confidence", "margin", "entropy"] | None = Field(
        None, description="fastdiffuser: what sure means."
    )
    entropy_bound: Annotated[float, Field(ge=0)] | None = Field(
        None, description="fastdiffuser: bound of the entropy sampler, in nats."
    )
    seed_first: bool | None = Field(None, description="fastdiffuser: the first token of a block comes from AR.")
    revision_threshold: Share | None = Field(
        None, description="fastdiffuser: take back a placed token that falls below this."
    )
    max_revisions: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="fastdiffuser: how often one slot may be taken back."
    )

    constraints: Annotated[list[dict[str, Any]], Field(max_length=16)] | None = Field(
        None, description="What the text must obey: one hard constraint, any number of soft ones; see below."
    )
    constraint_refinement_rounds: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None, description="How often what a soft constraint blames is written anew; 2. 0 only tells."
    )

    frames: bool | None = Field(None, description="With stream: an `unmask.frame` event after every step.")
    return_token_details: bool | None = Field(
        None, description="Per token: id, step that placed it, confidence, revisions."
    )

    @model_validator(mode="after")
    def _together(self) -> Body:
        for name in ("stream_options", "frames"):
            if getattr(self, name) and not self.stream:
                raise ValueError(f"{name} needs stream")
        if self.min_tokens is not None and self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens ({self.min_tokens}) must not be above max_tokens ({self.max_tokens})")
        for token in self.logit_bias or ():
            if not (token.isascii() and token.isdigit() and len(token) <= 10):
                raise ValueError(f"logit_bias must map token ids to numbers, got the key {token[:20]!r}")
        return self


class Text(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="developer is read as system."
    )
    content: str | list[Text] | None = Field(None, description="Text, or text parts, which are joined by line ends.")
    tool_calls: Annotated[list[Called], Field(max_length=128)] | None = Field(
        None, description="Of an assistant's message: the calls that it made."
    )
    tool_call_id: Name | None = Field(None, description="Of a tool's message: the call that it answers.")

    @model_validator(mode="after")
    def _spoken(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError("content must be text")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to an assistant's message")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of role 'tool' has a tool_call_id, and no other has one")
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(Body):
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)] = Field(description="The conversation.")
    logprobs: bool | None = Field(None, description="Log-probability of every token.")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="And of so many alternatives.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    add_generation_prompt: bool | None = Field(None, description="End with the assistant's header; true if left out.")
    safety_identifier: Name | None = Field(None, description="As `user`.")
    tools: Tools | None = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(None, description="none, auto, required, or one function by name.")
    parallel_tool_calls: bool | None = Field(None, description="Either way one call at a time is made.")

    @model_validator(mode="after")
    def _chat(self) -> ChatBody:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        if self.calling and self.constraints:
            raise ValueError("constraints cannot be given beside tools, unless tool_choice is 'none'")
        return self

    @property
    def calling(self) -> Calling | None:
        return calling(self.tools, self.tool_choice)

    @property
    def whole_text(self) -> str:
        """All that a prompt is made of."""
        calls = [call.function.arguments for message in self.messages for call in message.tool_calls or ()]
        tools = [tool.model_dump_json() for tool in self.tools or ()]
        return "".join([*(message.text for message in self.messages), *calls, *tools])

    @property
    def alternatives_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Body):
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[Id], Field(min_length=1)]
        | Annotated[list[Annotated[list[Id], Field(min_length=1)]], Field(min_length=1)]
    ) = Field(description="Text to continue, or token ids, or a list of either.")
    suffix: str | None = Field(None, description="Text after the gap that is to be filled, where the model can.")
    fim_mode: bool | None = Field(None, description="Fill a gap even where the suffix is empty: nothing follows it.")
    constrain: Literal["gap", "whole"] | None = Field(
        None,
        description="With suffix: what a hard constraint is about, the text of the gap (if left out) or prompt, gap and"
        " suffix together.",
    )
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="Log-probability of every token, and of so many alternatives."
    )

    @model_validator(mode="after")
    def _plain(self) -> CompletionBody:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo with logprobs is not supported: the prompt has no log-probabilities here")
        if self.suffix and self.fim_mode is False:
            raise ValueError("fim_mode is false, and there is a suffix: leave one of them out")
        if self.constrain is not None and self.gap is None:
            raise ValueError("constrain needs a gap: give a suffix, or fim_mode where nothing follows")
        if self.echo and self.gap is not None:
            raise ValueError("echo with a suffix is not supported")
        return self

    @property
    def gap(self) -> str | None:
        """What follows the gap that is to be filled; None where a prompt is to be continued."""
        return (self.suffix or "") if self.fim_mode else self.suffix or None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        many = [part for part in self.prompt if not isinstance(part, int)]
        return list(many) if many else [[part for part in self.prompt if isinstance(part, int)]]

    @property
    def alternatives_wanted(self) -> int | None:
        return self.logprobs


class TokenizeBody(Strict):
    model: Name | None = None
    prompt: str | None = Field(None, description="Plain text.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)] | None = Field(
        None, description="Or a chat, through the model's template."
    )
    add_special_tokens: bool | None = Field(None, description="Begin a prompt as the model expects; true if left out.")
    add_generation_prompt: bool | None = Field(None, description="End a chat with the assistant's header.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    return_token_strs: bool | None = Field(None, description="Also the text of each token.")

    @model_validator(mode="after")
    def _one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        chat = self.add_generation_prompt is not None or self.chat_template_kwargs is not None
        if chat and self.messages is None:
            raise ValueError("add_generation_prompt and chat_template_kwargs belong to messages")
        if self.add_special_tokens is not None and self.prompt is None:
            raise ValueError("add_special_tokens belongs to prompt")
        return self


class DetokenizeBody(Strict):
    model: Name | None = None
    tokens: list[Id] = Field(description="Token ids.")


B = TypeVar("B", bound=Strict)
ROUTES: dict[str, type[Strict]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
ELSEWHERE = {name: route for route, kind in reversed(ROUTES.items()) for name in kind.model_fields}
EMPTY_IN_MESSAGES = {"refusal", "audio", "function_call", "tool_calls", "annotations", "name", "tool_call_id"}


def parse(kind: type[B], body: object) -> B:
    """The body as a `kind`; ApiError that says what is wrong with it."""
    if not isinstance(body, dict):
        raise bad("the body must be a JSON object")
    named = canonical(body, kind.model_fields, ELSEWHERE)
    if isinstance(messages := named.get("messages"), list):
        named["messages"] = [without_empty(message) for message in messages]
    try:
        return kind.model_validate(named)
    except ValidationError as error:
        raise first_problem(error.errors(include_url=False)) from None


def without_empty(message: object) -> object:
    """A message without the fields that clients send back empty from our own replies."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if name not in EMPTY_IN_MESSAGES or value not in (None, [])}


def first_problem(errors: list[ErrorDetails]) -> ApiError:
    """The error of the first wrong field. Of several allowed types pydantic reports each: the deepest is meant."""
    first = errors[0]["loc"][:1]
    problem = max((error for error in errors if error["loc"][:1] == first), key=depth)
    names = [str(part)[:100] for part in problem["loc"] if isinstance(part, int) or part.isidentifier()]
    where = ".".join(names)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return bad(f"unknown field {where!r}", where, "unknown_field")
    if problem["type"] == "missing":
        return bad(f"{where} is missing", where, "missing_field")
    return bad(f"{where}: {message}" if where else message, where or None)


def depth(error: ErrorDetails) -> int:
    return len(error["loc"])
