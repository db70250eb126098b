"""Chat templates: messages to the prompt text a checkpoint was trained on.

Templates are Jinja programs that come with checkpoints, so they run sandboxed, see only plain JSON data, and behave as
they do in Hugging Face transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from unmask.text.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class ChatTemplate:
    """A checkpoint's chat template.

    source: Jinja; ChatML by default. variables: what every rendering sees besides the messages ("bos_token", ...).
    Raises ValueError when the source is not valid Jinja.
    """

    source: str = CHATML
    variables: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            _compile(self.source)
        except TemplateError as error:
            raise ValueError(f"the chat template is not valid Jinja: {_line(error)}") from error

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The tokenizer's own template with its special tokens as variables, or ChatML where it has none."""
        return cls(CHATML if tokenizer.chat_template is None else tokenizer.chat_template, tokenizer.special_tokens)


def render_chat(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The prompt text of a chat; encode it with `special=True`.

    messages: each with a role (str) and a content (str, list of parts, or None), and whatever else the template reads;
        keys whose value is None are left out, as templates expect. add_generation_prompt: end with the assistant's
        header. tools: JSON schemas of functions. variables: more for the template, over its own (enable_thinking, ...).
    Raises ValueError when a message is malformed, a variable takes the name of an argument, data is not plain JSON,
        or the template fails or refuses.
    """
    for number, message in enumerate(messages):
        _check_message(number, message)
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    own = {"messages": given, "tools": tools, "add_generation_prompt": add_generation_prompt}
    if taken := own.keys() & (variables or {}).keys():
        raise ValueError(f"template variables must not be named {sorted(taken)}: the chat itself sets those")
    data = {"documents": None, **template.variables, **(variables or {}), **own}
    try:
        plain = json.loads(json.dumps(data))  # a template gets no live objects, only data
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"chat messages and template variables must be plain JSON data: {_line(error)}") from error
    try:
        return _compile(template.source).render(plain)
    except Exception as error:  # a template can fail in any way that Python can
        raise ValueError(f"the chat template failed: {_line(error)}") from error


def _check_message(number: int, message: object) -> None:
    if not isinstance(message, Mapping):
        raise ValueError(f"message {number} must be an object with a role and a content, got {type(message).__name__}")
    for key in ("role", "content"):
        if key not in message:
            raise ValueError(f"message {number} has no {key}: each message needs a role and a content")
    if not isinstance(message["role"], str):
        raise ValueError(f"message {number} has role {message['role']!r}: a role must be a string")
    if not isinstance(message["content"], str | list | None):
        raise ValueError(f"message {number} has content {message['content']!r}: use a string, a list of parts or null")


class _Generation(Extension):
    """`{% generation %}` marks assistant text for training masks; in a prompt it is just its content."""

    tags = {"generation"}  # noqa: RUF012  (the base class declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


@lru_cache(maxsize=64)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter escapes HTML, which models were not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _line(error: Exception) -> str:
    """An error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
