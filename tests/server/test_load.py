"""Many streams of all modes and lengths at once, some of which leave: those that stay get the ids of single runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import httpx
import pytest

from tests.server.serving import WAYS, Running, as_options
from unmask import LM

STREAMS = 48
WORDS = ["the", "cat", "a", "b c", "xyz", "the the"]


def requests(seed: int) -> list[tuple[dict[str, Any], str]]:
    """Bodies, and whether the client "stays", "leaves" in the middle, or is "cancelled" before anything came."""
    draw, found = random.Random(seed), []
    for number in range(STREAMS):
        body = {
            **WAYS[number % len(WAYS)],
            "prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, 12))),
            "max_tokens": draw.randint(1, 60),
            "temperature": draw.choice([0.0, 0.0, 0.8]),
            "seed": number,
        }
        found.append((body, draw.choice(["stays"] * 5 + ["leaves", "cancelled"])))
    return found


async def one(client: httpx.AsyncClient, body: dict[str, Any], fate: str, delay: float) -> list[int] | None:
    await asyncio.sleep(delay)
    sent = {**body, "stream": True, "return_token_details": True}
    if fate == "cancelled":
        post = client.post("/v1/completions", json=sent | {"max_tokens": 60, "ignore_eos": True})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(post, 0.03)
        return None
    ids = list[int]()
    async with client.stream("POST", "/v1/completions", json=sent) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                data = httpx.Response(200, content=line[6:]).json()
                assert "error" not in data, data
                ids += [token["id"] for choice in data["choices"] for token in choice.get("token_details", ())]
                if fate == "leaves" and ids:
                    return None
    return ids


@pytest.mark.timeout(300)
def test_mixed_load(server: Running, alone: LM) -> None:
    asked = requests(seed=3)
    draw = random.Random(4)

    async def run() -> list[list[int] | None]:
        limits = httpx.Limits(max_connections=STREAMS)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(one(client, *pair, draw.random() * 0.5) for pair in asked))

    found = asyncio.run(run())
    stayed = [(body, ids) for (body, fate), ids in zip(asked, found, strict=True) if fate == "stays"]
    assert len(stayed) > STREAMS // 2
    for body, ids in stayed:
        options = {name: value for name, value in as_options(body).items() if name != "prompt"}
        expected = alone.generate(body["prompt"], **options)
        assert ids == list(expected.token_ids), body
    server.idle()
