"""Tool calls: valid by construction where one is asked for, and found where the model chose to make one."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from scripts.server_docs import PAGE
from tests.server.serving import WAYS, Running, running, way_name
from tests.tinymodel import write_model
from unmask.server import Settings
from unmask.server.schema import ChatBody, parse
from unmask.server.tools import Calling, Tool, calling, told

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"$ref": "#/$defs/unit"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Now.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
CHAT: list[Any] = [{"role": "user", "content": "the weather?"}]
BODY = {"messages": CHAT, "tools": TOOLS, "max_tokens": 60, "seed": 3, "temperature": 1.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """With a context that holds what is said of the tools, byte by byte."""
    folder = write_model(tmp_path_factory.mktemp("wide"), max_position_embeddings=2048)
    with running(folder, Settings(names=("tiny",))) as one:
        yield one
        one.idle()


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def by_name(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def checked(calls: Any) -> str:
    (call,) = calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, WEATHER if call.function.name == "get_weather" else {"maxProperties": 0})
    return str(call.function.name)


@pytest.mark.parametrize("way", WAYS, ids=way_name)
@pytest.mark.parametrize("choice", ["required", by_name("get_weather"), by_name("now")], ids=["any", "one", "empty"])
def test_a_call_that_is_asked_for_is_made(client: openai.OpenAI, way: dict[str, Any], choice: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", **BODY, "tool_choice": choice, "extra_body": way}
    reply = client.chat.completions.create(**asked)
    ChatCompletion.model_validate(reply.model_dump(mode="json", exclude_unset=True), strict=False)
    (only,) = reply.choices
    assert (only.finish_reason, only.message.content) == ("tool_calls", None)
    name = checked(only.message.tool_calls)
    assert isinstance(choice, str) or name == choice["function"]["name"]
    deltas = list[Any]()
    for chunk in client.chat.completions.create(**asked, stream=True):
        ChatCompletionChunk.model_validate(chunk.model_dump(mode="json", exclude_unset=True), strict=False)
        deltas.append(chunk.choices[0])
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["tool_calls"]
    (streamed,) = [delta.delta.tool_calls for delta in deltas if delta.delta.tool_calls]
    assert streamed[0].index == 0
    assert checked(streamed) == name
    assert streamed[0].function.arguments == only.message.tool_calls[0].function.arguments
    assert not any(delta.delta.content for delta in deltas)


def test_text_stays_text_where_the_model_may_choose(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        asked: dict[str, Any] = {"model": "tiny", **BODY, "max_tokens": 12, "tool_choice": choice}
        reply = client.chat.completions.create(**asked).choices[0]
        assert reply.message.tool_calls is None
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply.message.content
        assert chunks[-1].choices[0].finish_reason == reply.finish_reason


def test_the_example_of_the_docs(server: Running) -> None:
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if "tools" in block
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/server.md", "exec"), {"server": server.url})
    assert len(printed.getvalue()) <= 9


def some(choice: Any = "auto") -> Calling:
    found = calling([Tool.model_validate(tool) for tool in TOOLS], choice)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"name": "get_weather", "arguments": {"city": "Rome"}}', "get_weather"),
        ('\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>', "now"),
        ('{"type": "function", "name": "now", "arguments": {}}', "now"),
        ('{"name": "now", "arguments": {"x": 1}}', None),
        ('{"name": "get_weather", "arguments": {"city": 3}}', None),
        ('{"name": "later", "arguments": {}}', None),
        ('{"name": "now"}', None),
        ('I call {"name": "now", "arguments": {}}', None),
        ("[" * 9999, None),
        ("", None),
    ],
)
def test_what_is_taken_for_a_call(text: str, name: str | None) -> None:
    found = some().call_in(text)
    assert (found and found["function"]["name"]) == name
    for size in range(len(text) if name else 0):
        assert some().may_be(text[:size]), "its beginning was not held back"


@pytest.mark.parametrize(
    "rules",
    [{"$ref": "http://127.0.0.1:9/schema"}, {"patternProperties": {"^(a+)+$": {}}}, {"not": {"required": ["a"]}}],
)
def test_a_schema_that_could_not_be_a_constraint_is_not_asked(rules: dict[str, Any]) -> None:
    """It may lead to another host, or take for ever."""
    found = calling([Tool.model_validate({"type": "function", "function": {"name": "f", "parameters": rules}})], "auto")
    assert found is not None
    assert found.call_in(json.dumps({"name": "f", "arguments": {"a" * 40 + "!": 1}}))
    assert found.call_in('{"name": "f", "arguments": [1]}') is None


def test_text_is_held_back_no_longer_than_it_may_be_a_call() -> None:
    assert not some().may_be("Hello")
    assert not some().may_be("<tools>")


def test_the_model_is_told_of_tools_and_of_earlier_calls(server: Running) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    talk = [
        {"role": "system", "content": "Be brief."},
        *CHAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "call_1"},
    ]
    body = parse(ChatBody, {"messages": talk, "tools": TOOLS})
    assert body.calling is not None
    plain = [
        {"role": m.role, "content": m.text, "tool_calls": [c.plain for c in m.tool_calls or ()]} for m in body.messages
    ]
    shown = told(plain, body.calling.tools)
    assert shown[0]["content"].startswith("Be brief.\n\nYou can call functions.")
    assert '"name": "get_weather"' in shown[0]["content"]
    assert shown[2]["content"] == '{"name": "now", "arguments": {}}'
    assert shown[3]["content"] == "noon"
    few = server.ok("/v1/chat/completions", {"messages": talk, "max_tokens": 2})["usage"]["prompt_tokens"]
    more = server.ok("/v1/chat/completions", {"messages": talk[1:2], "tools": TOOLS, "max_tokens": 2})
    assert more["usage"]["prompt_tokens"] > few


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [{}]}, "tools.0"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "holds the function 'get_weather' twice"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "the parameters of 'f' must be a schema of an object",
        ),
        ({"tool_choice": "required"}, "tool_choice is 'required', and there are no tools"),
        ({"tools": TOOLS, "tool_choice": by_name("later")}, "names 'later', which is not among the tools"),
        ({"tools": TOOLS, "tool_choice": "now"}, "tool_choice"),
        ({"tools": TOOLS, "constraints": [{"type": "json_object"}]}, "cannot be given beside tools"),
        ({"tools": TOOLS, "tool_choice": "required", "stop": "x"}, "stop cannot be given beside a hard constraint"),
        ({"tools": TOOLS, "tool_choice": "required", "max_tokens": 3}, "max_tokens is 3, but the shortest text"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "#/not is a keyword that is not supported",
        ),
        ({"functions": [{"name": "f"}]}, "functions is refused: use tools and tool_choice"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "has a tool_call_id"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "1"}]}, "has a tool_call_id"),
    ],
)
def test_refusals(server: Running, fields: dict[str, Any], message: str) -> None:
    assert message in server.problem("/v1/chat/completions", {"messages": CHAT, **fields})["message"]
