"""The current `openai` client, sync and async, streaming or not, in every mode: it sees what `LM.generate` says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.server.serving import WAYS, Running, as_options, way_name
from unmask import LM

CHAT: list[Any] = [{"role": "system", "content": "a"}, {"role": "user", "content": "the cat"}]
ways = pytest.mark.parametrize("way", WAYS, ids=way_name)


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def strict(kind: type, reply: Any) -> None:
    """The reply is what the client's own types say, not merely something they let pass."""
    kind.model_validate(reply.model_dump(mode="json", exclude_unset=True), strict=False)  # type: ignore[attr-defined]


@ways
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_chat(client: openai.OpenAI, alone: LM, way: dict[str, Any], temperature: float) -> None:
    expected = alone.chat(CHAT, max_tokens=10, temperature=temperature, seed=7, **as_options(way))
    reply = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=10, temperature=temperature, seed=7,
        extra_body={**way, "return_token_details": True},
    )  # fmt: skip
    strict(ChatCompletion, reply)
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert (choice.message.content, choice.finish_reason) == (expected.text, expected.finish_reason)
    details: Any = choice.model_extra
    assert tuple(token["id"] for token in details["token_details"]) == expected.token_ids
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(expected.prompt_ids), 10)
    assert reply.usage.total_tokens == len(expected.prompt_ids) + 10
    extras: Any = reply.usage.completion_tokens_details.model_extra  # type: ignore[union-attr]
    assert extras["mode"] == way["generation_mode"]
    assert extras["forwards"] == reply.usage.model_extra["nfe"]  # type: ignore[index]
    if way.get("spec_variant") == "adaptivespec" or way["generation_mode"] == "auto":
        return  # how they get to their ids depends on what forwards cost on this machine today
    assert tuple(token["step"] for token in details["token_details"]) == tuple(t.step for t in expected.tokens)
    assert extras["strategy"] == expected.strategy
    assert extras["forwards"] == expected.stats.nfe
    assert extras["tpf"] == pytest.approx(expected.stats.tpf, abs=1e-3)
    length = expected.stats.acceptance_length
    assert extras["acceptance_length"] == (length if length is None else pytest.approx(length, abs=1e-3))


def test_replies_name_model_and_fingerprint(client: openai.OpenAI) -> None:
    replies = [client.completions.create(model=name, prompt="a", max_tokens=1) for name in ("tiny", "other")]
    assert [reply.model for reply in replies] == ["tiny", "other"]
    assert len({reply.system_fingerprint for reply in replies}) == 1


@ways
def test_streamed_chat(client: openai.OpenAI, alone: LM, way: dict[str, Any]) -> None:
    expected = alone.chat(CHAT, max_tokens=20, **as_options(way))
    stream = client.chat.completions.create(
        model="tiny", messages=CHAT, max_completion_tokens=20, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body=way,
    )  # fmt: skip
    chunks = list(stream)
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == expected.finish_reason
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


@ways
def test_completions(client: openai.OpenAI, alone: LM, way: dict[str, Any]) -> None:
    expected = alone.generate("the cat", max_tokens=12, **as_options(way))
    reply = client.completions.create(model="tiny", prompt="the cat", max_tokens=12, temperature=0, extra_body=way)
    strict(Completion, reply)
    assert reply.choices[0].text == expected.text
    pieces = client.completions.create(
        model="tiny", prompt="the cat", max_tokens=12, temperature=0, stream=True, extra_body=way
    )
    assert "".join(piece.choices[0].text for piece in pieces) == expected.text


def test_async_streams_side_by_side(server: Running, alone: LM) -> None:
    async def one(client: openai.AsyncOpenAI, way: dict[str, Any]) -> str:
        stream = await client.chat.completions.create(
            model="other", messages=CHAT, max_tokens=24, temperature=0, stream=True, extra_body=way
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def both() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=24, temperature=0)
            streamed = await asyncio.gather(*(one(client, way) for way in WAYS))
            return [whole.choices[0].message.content or "", *streamed]

    texts = asyncio.run(both())
    expected = [alone.chat(CHAT, max_tokens=24, **as_options(way)).text for way in WAYS]
    assert texts == [expected[0], *expected]


def test_frames_do_not_disturb_the_client(client: openai.OpenAI, alone: LM) -> None:
    stream = client.completions.create(
        model="tiny", prompt="the", max_tokens=8, temperature=0, stream=True,
        extra_body={**WAYS[1], "frames": True},
    )  # fmt: skip
    chunks = list(stream)
    frames = [chunk.model_extra["frame"] for chunk in chunks if chunk.object == "unmask.frame"]  # type: ignore
    assert frames
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == alone.generate("the", max_tokens=8, **as_options(WAYS[1])).text


def test_models(client: openai.OpenAI) -> None:
    listed = client.models.list()
    assert [model.id for model in listed] == ["tiny", "other"]
    card = client.models.retrieve("other")
    strict(Model, card)
    capabilities: Any = card.model_extra["capabilities"]  # type: ignore[index]
    assert capabilities["modes"] == ["ar", "fastdiffuser", "self-speculation", "auto"]
    assert (capabilities["context"], capabilities["block_size"]) == (256, 8)


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model 'gpt-4' is not served here; served: tiny, other"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"extra_body": {"generation_mod": "ar"}}, openai.BadRequestError, "did you mean 'generation_mode'?"),
        ({"functions": [{"name": "f"}]}, openai.BadRequestError, "functions is refused"),
    ],
)
def test_errors_are_the_clients_own(client: openai.OpenAI, fields: dict[str, Any], kind: type, text: str) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": CHAT, "max_tokens": 4, **fields})
    assert text in str(caught.value)
