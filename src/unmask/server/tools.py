"""Tool calls in OpenAI's form: what a request says of functions, what the model must then write, how a text is a call.

A call that is asked for (`tool_choice` "required", or a function by name) is written under a hard constraint, so its
arguments are valid under the function's schema, whatever the model can do. With "auto" the model chooses, and writes as
it likes: a text that is a call as a whole, of a function that there is and with valid arguments, is taken for one.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from unmask.constraints import ConstraintError, JsonSchema, check, schema, spec_of
from unmask.server.strict import Strict

FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
WRAPPED = re.compile(r"\s*<tool_call>\s*(.*?)\s*(?:</tool_call>\s*)?", re.DOTALL)
STARTS = ("{", "<tool_call>")  # of a text that may turn out to be a call
ASKS = (
    "You can call functions. To call one, answer with nothing but a JSON object that has its name and its arguments:"
    ' {"name": "...", "arguments": {...}}. The functions, as JSON Schema, one a line:\n'
)


class Function(Strict):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function

    @property
    def takes(self) -> dict[str, Any]:
        """Of the arguments, which are an object."""
        return {"type": "object"} | (self.function.parameters or {"properties": {}, "additionalProperties": False})


class Named(Strict):
    name: FunctionName


class Chosen(Strict):
    type: Literal["function"]
    function: Named


ToolChoice = Literal["none", "auto", "required"] | Chosen
Tools = Annotated[list[Tool], Field(max_length=128)]


class CalledFunction(Strict):
    name: FunctionName
    arguments: str


class Called(Strict):
    """A call that an assistant's earlier message made."""

    id: Annotated[str, StringConstraints(max_length=256)]
    type: Literal["function"]
    function: CalledFunction

    @property
    def plain(self) -> dict[str, Any]:
        """As chat templates read it: arguments are data, where they are JSON."""
        try:
            arguments: Any = json.loads(self.function.arguments)
        except ValueError:
            arguments = self.function.arguments
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Calling:
    """tools: those that may be called. forced: the model has to call one of them."""

    tools: tuple[Tool, ...]
    forced: bool

    @property
    def constraint(self) -> dict[str, Any]:
        """What the model writes where it has to call: the arguments of the only function, or a call of any of them."""
        if len(self.tools) == 1:
            return {"type": "json_schema", "schema": self.tools[0].takes}
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": {"$ref": f"#/$defs/{tool.function.name}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.tools
        ]
        inside = {tool.function.name: within(tool.takes, f"#/$defs/{tool.function.name}") for tool in self.tools}
        return {"type": "json_schema", "schema": {"anyOf": calls, "$defs": inside}}

    def call_in(self, text: str) -> dict[str, Any] | None:
        """The call that a text is as a whole, in OpenAI's form; None where it is none."""
        if self.forced and len(self.tools) == 1:
            return self.called(self.tools[0], text)
        wrapped = WRAPPED.fullmatch(text)
        try:
            found = json.loads(wrapped[1] if wrapped else text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, dict) or not {"name", "arguments"} <= found.keys() <= {"name", "arguments", "type"}:
            return None
        tool = next((tool for tool in self.tools if tool.function.name == found["name"]), None)
        return None if tool is None else self.called(tool, json.dumps(found["arguments"], ensure_ascii=False))

    def called(self, tool: Tool, arguments: str) -> dict[str, Any] | None:
        if not self.forced and not valid(tool, arguments):
            return None
        function = {"name": tool.function.name, "arguments": arguments}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}

    def may_be(self, text: str) -> bool:
        """Whether a text that begins like this may turn out to be a call."""
        start = text.lstrip()
        return self.forced or not start or any(mark.startswith(start) or start.startswith(mark) for mark in STARTS)


def calling(tools: Sequence[Tool] | None, choice: ToolChoice | None) -> Calling | None:
    """What may be called; None where nothing may. ValueError for a choice that there is not."""
    names = [tool.function.name for tool in tools or ()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"tools holds the function {twice!r} twice")
    if odd := next((tool.function.name for tool in tools or () if tool.takes["type"] != "object"), None):
        raise ValueError(f"tools: the parameters of {odd!r} must be a schema of an object")
    if isinstance(choice, Chosen):
        wanted = tuple(tool for tool in tools or () if tool.function.name == choice.function.name)
        if not wanted:
            raise ValueError(f"tool_choice names {choice.function.name!r}, which is not among the tools")
        return Calling(wanted, True)
    if choice == "required" and not tools:
        raise ValueError("tool_choice is 'required', and there are no tools")
    return Calling(tuple(tools), choice == "required") if tools and choice != "none" else None


def valid(tool: Tool, arguments: str) -> bool:
    """Whether arguments are those of a function. A schema that could not be a constraint is not asked: its references
    may lead out of it, its patterns may take for ever. Then any object will do."""
    try:
        spec = spec_of({"type": "json_schema", "schema": tool.takes})
        schema.source(spec.schema if isinstance(spec, JsonSchema) else "")
    except ConstraintError:
        return isinstance(json.loads(arguments), dict)
    return check(spec, arguments).status == "satisfied"


def within(part: Any, place: str) -> Any:
    """A schema whose references to its own parts lead to where it has been put."""
    if isinstance(part, list):
        return [within(inner, place) for inner in part]
    if not isinstance(part, Mapping):
        return part
    moved = {name: within(inner, place) for name, inner in part.items()}
    target = part.get("$ref")
    return moved | ({"$ref": place + target[1:]} if isinstance(target, str) and target.startswith("#") else {})


def told(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """A chat for a template that knows nothing of tools: they stand in the system's message, calls are the text that
    would have been written."""
    plain = [{"role": message["role"], "content": spoken(message)} for message in messages]
    if not tools:
        return plain
    system = ASKS + "\n".join(json.dumps(tool.function.model_dump(exclude_none=True)) for tool in tools)
    if plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{plain[0]['content']}\n\n{system}"}, *plain[1:]]
    return [{"role": "system", "content": system}, *plain]


def spoken(message: Mapping[str, Any]) -> str:
    calls = [json.dumps(call["function"]) for call in message.get("tool_calls") or ()]
    return "\n".join(filter(None, [message["content"], *calls]))
