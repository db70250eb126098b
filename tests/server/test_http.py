"""Raw HTTP: what each field does to a reply, and the routes beside the two that generate."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.serving import WAYS, Running, as_options, error_of, way_name
from tests.tinymodel import END, MASK
from unmask import LM

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


def test_the_articles_request(server: Running, alone: LM) -> None:
    """As in the article: fields of ours inside a literal `extra_body`, sent with a plain HTTP client."""
    for mode in ("ar", "fastdiffuser", "self-speculation"):
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "the"}],
            "max_tokens": 16,
            "temperature": 0.0,
            "extra_body": {"generation_mode": mode},
        }
        reply = server.ok(CHAT, body)
        expected = alone.chat(body["messages"], mode=mode, max_tokens=16)  # type: ignore[arg-type]
        assert reply["choices"][0]["message"]["content"] == expected.text
        assert reply["usage"]["completion_tokens"] == len(expected.token_ids)
        assert reply["usage"]["completion_tokens_details"]["mode"] == mode


@pytest.mark.parametrize("way", WAYS[:1] + WAYS[2:], ids=way_name)
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(server: Running, alone: LM, way: dict[str, Any], stream: bool) -> None:
    whole = alone.generate("a", mode="ar", max_tokens=24, ignore_eos=True)
    stop = whole.text[5:8]
    body = {"prompt": "a", "max_tokens": 24, "stop": ["never", stop], **GREEDY, **way}
    if stream:
        chunks = [data["choices"][0] for _, data in server.stream(TEXT, body)]
        text, finish = "".join(chunk["text"] for chunk in chunks), chunks[-1]["finish_reason"]
    else:
        choice = server.ok(TEXT, body)["choices"][0]
        text, finish = choice["text"], choice["finish_reason"]
    assert (text, finish) == (whole.text[: whole.text.index(stop)], "stop")


def test_finish_reasons(server: Running) -> None:
    assert server.completion(ignore_eos=True)["choices"][0]["finish_reason"] == "length"
    ended = server.completion(logit_bias={str(END): 80}, min_tokens=3, logprobs=0)
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] == 4
    assert ended["choices"][0]["logprobs"]["tokens"][-1] == "<|im_end|>"
    other = server.completion(logit_bias={"66": 80}, stop_token_ids=[66])
    assert (other["usage"]["completion_tokens"], other["choices"][0]["finish_reason"]) == (1, "stop")


def test_n_and_lists_of_prompts(server: Running, alone: LM) -> None:
    prompts = ["a", "the the", "b c"]
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 1.0}
    reply = server.completion(prompts, n=2, seed=11, **options)
    expected = [alone.generate(p, seed=11 + i, **options).text for p in prompts for i in range(2)]
    assert [choice["text"] for choice in reply["choices"]] == expected
    assert [choice["index"] for choice in reply["choices"]] == list(range(6))
    assert len(set(expected)) > 3
    assert reply["usage"]["prompt_tokens"] == sum(len(alone.encode(p)) for p in prompts)
    assert reply["usage"]["completion_tokens"] <= 36
    ids = [list(alone.encode(p)) for p in prompts]
    assert server.completion(ids, n=2, seed=11, **options)["choices"] == reply["choices"]
    assert server.completion(ids[0], seed=11, **options)["choices"][0] == reply["choices"][0]
    texts = [""] * 6
    for _, data in server.stream(TEXT, {"prompt": prompts, "n": 2, "seed": 11, **options}):
        for choice in data["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == expected


def test_echo(server: Running) -> None:
    plain, echoed = server.completion("the cat"), server.completion("the cat", echo=True)
    assert echoed["choices"][0]["text"] == "the cat" + plain["choices"][0]["text"]
    ids = server.ok("/tokenize", {"prompt": "the cat"})["tokens"]
    assert server.completion(ids, echo=True)["choices"] == echoed["choices"]
    body = {"prompt": "the cat", "echo": True, "max_tokens": 8, "temperature": 0}
    chunks = server.stream(TEXT, body)
    assert "".join(data["choices"][0]["text"] for _, data in chunks) == echoed["choices"][0]["text"]


def test_log_probabilities(server: Running, alone: LM) -> None:
    expected = alone.generate("the", mode="ar", max_tokens=8, logprobs=3)
    found = server.completion(logprobs=3, generation_mode="self-speculation")["choices"][0]["logprobs"]
    assert found["token_logprobs"] == pytest.approx([token.logprob for token in expected.tokens], abs=1e-4)
    assert [len(top) for top in found["top_logprobs"]] == [3] * 8
    assert found["text_offset"][0] == 0
    assert found["text_offset"] == sorted(found["text_offset"])
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "the"}], "max_tokens": 6, **GREEDY}
    whole = server.ok(CHAT, chat | {"logprobs": True, "top_logprobs": 2})["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in whole] == [2] * 6
    assert all(entry["logprob"] == pytest.approx(entry["top_logprobs"][0]["logprob"]) for entry in whole)
    assert (
        bytes(b for entry in whole for b in entry["bytes"]).decode("utf-8", "replace")
        == (server.ok(CHAT, chat)["choices"][0]["message"]["content"])
    )
    pieces = [
        entry
        for _, data in server.stream(CHAT, chat | {"logprobs": True, "top_logprobs": 2})
        for entry in (data["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert pieces == whole


def test_details_of_tokens(server: Running) -> None:
    reply = server.completion(return_token_details=True, **WAYS[1])
    details = reply["choices"][0]["token_details"]
    assert len(details) == reply["usage"]["completion_tokens"] == 8
    assert all(0 <= token["confidence"] <= 1 for token in details)
    assert max(token["step"] for token in details) <= reply["usage"]["nfe"] + 1
    body = {"prompt": "the", "max_tokens": 8, "temperature": 0, "return_token_details": True, **WAYS[1]}
    streamed = [t for _, data in server.stream(TEXT, body) for t in data["choices"][0].get("token_details", ())]
    assert streamed == details
    assert "token_details" not in server.completion()["choices"][0]


def test_a_seed_that_is_not_given_is_told(server: Running) -> None:
    body = {"prompt": "the", "max_tokens": 12, "temperature": 1.5}
    one, two = server.ok(TEXT, body), server.ok(TEXT, body)
    seeds = [reply["usage"]["completion_tokens_details"]["seed"] for reply in (one, two)]
    assert seeds[0] != seeds[1]
    assert server.ok(TEXT, body | {"seed": seeds[0]})["choices"] == one["choices"]


def test_chat_parts_roles_and_template_variables(server: Running) -> None:
    def content(messages: list[Any], **more: Any) -> Any:
        return server.ok(CHAT, {"messages": messages, "max_tokens": 6, **GREEDY, **more})["choices"][0]["message"]

    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert content([{"role": "user", "content": parts}]) == content([{"role": "user", "content": "a\nb"}])
    talk = [{"role": "user", "content": "a"}]
    assert content([{"role": "developer", "content": "x"}, *talk]) == content(
        [{"role": "system", "content": "x"}, *talk]
    )
    reply = content(talk)
    again = [*talk, {**reply, "tool_calls": None, "annotations": [], "audio": None}, {"role": "user", "content": "b"}]
    assert content(again) == content([*talk, {"role": "assistant", "content": reply["content"]}, again[-1]])
    assert content(talk, chat_template_kwargs={"unused": 1}) == reply


def test_tokens_there_and_back(server: Running, alone: LM) -> None:
    for text in ("the cat <|mask|> é\n", "a" * 6000):
        found = server.ok("/tokenize", {"prompt": text, "return_token_strs": True})
        assert tuple(found["tokens"]) == alone.encode(text)
        assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 256)
        assert len(found["token_strs"]) == found["count"]
        assert server.ok("/detokenize", {"tokens": found["tokens"]})["prompt"] == text
    chat = server.ok("/tokenize", {"messages": [{"role": "user", "content": "the"}]})
    assert tuple(chat["tokens"]) == alone.encode_chat([{"role": "user", "content": "the"}])
    assert server.problem("/detokenize", {"tokens": [10**6]})["param"] == "tokens"
    assert "either prompt or messages" in server.problem("/tokenize", {})["message"]


def test_mask_text_in_prompts_is_text(server: Running, alone: LM) -> None:
    for way in WAYS:
        found = server.completion("the <|mask|> cat", **way, return_token_details=True)["choices"][0]
        expected = alone.generate("the <|mask|> cat", max_tokens=8, **as_options(way))
        assert tuple(token["id"] for token in found["token_details"]) == expected.token_ids
        assert MASK not in expected.token_ids
    ids = [MASK] * 5
    assert server.completion(ids)["usage"]["prompt_tokens"] == 5


def test_health_metrics_and_unknown_routes(server: Running) -> None:
    server.completion(generation_mode="self-speculation")
    health = server.client.get("/health").json()
    assert health["live"]
    assert health["ready"]
    assert health["invariant"] == "holds"
    assert server.client.get("/health/live").status_code == server.client.get("/health/ready").status_code == 200
    text = server.client.get("/metrics").text
    for name in (
        'unmask_requests_total{route="/v1/completions",status="200"}',
        'unmask_generated_tokens_total{mode="self-speculation"}',
        "unmask_time_to_first_token_seconds_count",
        'unmask_time_to_first_token_quantile_seconds{quantile="0.95"}',
        'unmask_inter_token_quantile_seconds{quantile="0.99"}',
        "unmask_acceptance_length_count",
        "unmask_tokens_per_forward_sum",
        "unmask_waiting 0.0",
        "unmask_pages_in_use 0.0",
    ):
        assert name in text
    for method, route, status in [
        ("GET", "/", 404),
        ("GET", "/v1/completions/..%2f..%2fetc/passwd", 404),
        ("GET", TEXT, 405),
        ("DELETE", CHAT, 405),
        ("GET", "/v1/models/none", 404),
        ("GET", "/docs", 404),
    ]:
        reply = server.client.request(method, route)
        assert reply.status_code == status
        assert error_of(reply)["code"]
        assert reply.headers["x-request-id"]
