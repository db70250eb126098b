"""What must not hurt: each bad body gets a clean 4xx, and the server goes on."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.server.serving import Running, error_of

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
JSON = {"content-type": "application/json"}

RAW: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "cut off": b'{"prompt": "a", "max_tok',
    "malformed UTF-8": b'{"prompt": "\xff\xfe\xc3"}',
    "overlong UTF-8": b'{"prompt": "\xc0\xaf"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"prompt": "a"}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "surrogates in UTF-8": b'{"prompt": "\xed\xa0\x80"}',
    "NUL between": b'{"prompt":\x00"a"}',
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"prompt":' * 50_000,
    "deep and closed": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep logit_bias": b'{"prompt": "a", "logit_bias": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}",
    "array": b'["prompt"]',
    "number": b"1",
    "null": b"null",
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": -Infinity}',
    "number that overflows": b'{"prompt": "a", "temperature": 1e999}',
    "integer of 5000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "integer of 4000 digits": b'{"prompt": "a", "max_tokens": ' + b"9" * 4000 + b"}",
    "many keys": b"{" + b",".join(b'"k%d": 1' % i for i in range(20_000)) + b"}",
    "long unknown key": b'{"' + b"k" * 500_000 + b'": 1}',
    "newlines in a key": b'{"a\\r\\nset-cookie: x": 1}',
}
VALUES: list[dict[str, Any]] = [
    {},
    {"prompt": None},
    {"prompt": 7},
    {"prompt": True},
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [[]]},
    {"prompt": [""]},
    {"prompt": [1, "a"]},
    {"prompt": [1, True]},
    {"prompt": [1.5]},
    {"prompt": [-1]},
    {"prompt": [10**9]},
    {"prompt": [2**70]},
    {"prompt": [[1], "a"]},
    {"prompt": ["a"] * 1000},
    {"prompt": "a" * 300},
    {"prompt": "a" * 1_000_000},
    {"prompt": [1] * 300},
    {"prompt": "a", "max_tokens": 256},
    {"prompt": "a", "max_tokens": -1},
    {"prompt": "a", "max_tokens": 1.0},
    {"prompt": "a", "max_tokens": "8"},
    {"prompt": "a", "max_tokens": True},
    {"prompt": "a", "max_tokens": 2**63},
    {"prompt": "a", "n": 0},
    {"prompt": "a", "n": 10**6},
    {"prompt": ["a"] * 60, "n": 60},
    {"prompt": "a", "temperature": -0.1},
    {"prompt": "a", "temperature": "0"},
    {"prompt": "a", "temperature": True},
    {"prompt": "a", "temperature": 1e308},
    {"prompt": "a", "top_p": 0},
    {"prompt": "a", "top_p": 1.1},
    {"prompt": "a", "top_k": -2},
    {"prompt": "a", "min_p": 2},
    {"prompt": "a", "seed": 1.5},
    {"prompt": "a", "seed": 2**64},
    {"prompt": "a", "stop": ""},
    {"prompt": "a", "stop": [""]},
    {"prompt": "a", "stop": ["a"] * 100},
    {"prompt": "a", "stop": [1]},
    {"prompt": "a", "stop": {"a": 1}},
    {"prompt": "a", "logit_bias": {"x": 1}},
    {"prompt": "a", "logit_bias": {"-1": 1}},
    {"prompt": "a", "logit_bias": {"²": 1}},
    {"prompt": "a", "logit_bias": {"1": 1000}},
    {"prompt": "a", "logit_bias": {"1": "1"}},
    {"prompt": "a", "logit_bias": {"999999": 1}},
    {"prompt": "a", "logit_bias": {str(i): 1 for i in range(2000)}},
    {"prompt": "a", "logit_bias": [1]},
    {"prompt": "a", "logprobs": 21},
    {"prompt": "a", "logprobs": True},
    {"prompt": "a", "stream": "yes"},
    {"prompt": "a", "stream": True, "stream_options": {"include_usage": 1}},
    {"prompt": "a", "stream": True, "stream_options": {"more": True}},
    {"prompt": "a", "generation_mode": "AR"},
    {"prompt": "a", "generation_mode": ["ar"]},
    {"prompt": "a", "spec_variant": "quadspec", "generation_mode": "ar"},
    {"prompt": "a", "generation_mode": "fastdiffuser", "block_size": 0},
    {"prompt": "a", "generation_mode": "fastdiffuser", "confidence_threshold": 1.5},
    {"prompt": "a", "generation_mode": "fastdiffuser", "schedule": True, "confidence_threshold": 0.5},
    {"prompt": "a", "generation_mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": 10**6},
    {"prompt": "a", "generation_mode": "self-speculation", "draft_block_size": 2**31 - 1},
    {"prompt": "a", "stop_token_ids": [10**6]},
    {"prompt": "a", "stop_token_ids": [-1]},
    {"prompt": "a", "min_tokens": 10**6},
    {"prompt": "a", "presence_penalty": 3},
    {"prompt": "a", "repetition_penalty": 0},
    {"prompt": "a", "user": "u" * 10_000},
    {"prompt": "a", "model": 5},
    {"prompt": "a", "extra_body": "x"},
    {"prompt": "a", "extra_body": {"a": {"b": {}}}},
]
CHATS: list[Any] = [
    {},
    {"messages": []},
    {"messages": "hi"},
    {"messages": ["hi"]},
    {"messages": [None]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"content": "a"}]},
    {"messages": [{"role": "robot", "content": "a"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": 1}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": "a", "name": "bob"}]},
    {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
    {"messages": [{"role": "tool", "content": "a"}]},
    {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 3},
    {"messages": [{"role": "user", "content": "a"}], "logprobs": 3},
    {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": []}},
    {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": [1]},
    {"messages": [{"role": "user", "content": "x" * 2000}]},
    {"messages": [{"role": "user", "content": "a"}] * 5000},
]


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_request(server: Running, name: str) -> None:
    for route in (TEXT, CHAT, "/tokenize", "/detokenize"):
        reply = server.client.post(route, content=RAW[name], headers=JSON)
        assert reply.status_code == 400, reply.text
        assert len(reply.content) < 3000
        error_of(reply)


@pytest.mark.parametrize("body", VALUES, ids=lambda body: json.dumps(body)[:60])
def test_wrong_values(server: Running, body: dict[str, Any]) -> None:
    error = server.problem(TEXT, body)
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) < 1100


@pytest.mark.parametrize("body", CHATS, ids=lambda body: json.dumps(body)[:80])
def test_wrong_chats(server: Running, body: Any) -> None:
    server.problem(CHAT, body)


def test_ten_megabytes(server: Running) -> None:
    reply = server.post(TEXT, {"prompt": "a" * 10_000_000})
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")
    reply = server.client.post(TEXT, content=(b"x" * 100_000 for _ in range(100)), headers=JSON)
    assert reply.status_code == 413


def test_only_plain_json(server: Running) -> None:
    body = b'{"prompt": "a", "max_tokens": 1}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"):
        reply = server.client.post(TEXT, content=body, headers={"content-type": kind})
        assert (reply.status_code, error_of(reply)["code"]) == (415, "unsupported_media_type")
    assert server.client.post(TEXT, content=body, headers=JSON | {"content-encoding": "gzip"}).status_code == 415
    fine = {"content-type": "application/json; charset=utf-8"}
    assert server.client.post(TEXT, content=body, headers=fine).status_code == 200


def test_values_at_the_edge_are_fine(server: Running) -> None:
    for fields in (
        {"temperature": 1e-300, "seed": 5},
        {"temperature": 2, "seed": -(2**63), "top_p": 1e-9},
        {"temperature": 1, "seed": 2**63 - 1, "min_p": 1, "repetition_penalty": 1e-9},
        {"repetition_penalty": 100, "presence_penalty": -2, "frequency_penalty": 2},
        {"logit_bias": {str(i): -100 for i in range(250)}},
        {"stop": ["x" * 1000] * 64},
        {"top_k": 2**31 - 1},
        {"n": 64, "max_tokens": 1},
        {"generation_mode": "fastdiffuser", "block_size": 200, "entropy_bound": 1e308, "sampler": "entropy"},
        {"generation_mode": "fastdiffuser", "block_size": 2**31 - 1, "steps": 2**31 - 1},
        {"generation_mode": "self-speculation", "draft_block_size": 1},
        {"prompt": "\x00\u2028\x85\U0010ffff", "echo": True},
        {"prompt": [0] * 248},
    ):
        server.completion(**{"prompt": "a", "max_tokens": 8, **fields})


def test_broken_http(server: Running) -> None:
    """What no HTTP client sends."""
    for data in (
        b"hello\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    server.completion()
