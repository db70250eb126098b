"""docs/editors.md: what the plugins make of its recipes is answered, with the middle that `LM.fill` fills."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.serving import Running, events, running
from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.server import Settings

PAGE = Path(__file__).parent.parent.parent / "docs" / "editors.md"
LEARNED: dict[str, Any] = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": VOCABULARY - 3}
BEFORE, AFTER = "def area(r):\n    ", "\n    return result\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("gap"), unmask=LEARNED | {"gap_room": 48, "gap_causal": True})


@pytest.fixture(scope="module")
def editor(folder: Path) -> Iterator[Running]:
    with running(folder, Settings(names=("unmask",))) as server:
        yield server
        server.idle()


def recipe(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def asked_by_minuet(before: str, after: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Endpoint, headers and body of `complete_openai_fim_base` with the Lua recipe."""
    lua = re.sub(r"--.*", "", recipe("lua"))
    text = dict(re.findall(r"(\w+) = '([^'\\]*)'", lua))
    optional = re.search(r"optional = \{(.*)\}", lua)
    assert optional is not None
    fields: dict[str, Any] = {
        name: float(n) if "." in n else int(n) for name, n in re.findall(r"(\w+) = (\d[\d.]*)", optional[1])
    }
    fields["stop"] = [stop.replace("\\n", "\n") for stop in re.findall(r"'([^']*)'", optional[1])]
    assert text["provider"] == "openai_fim_compatible"
    assert "prompt = function(before, _, _) return before end" in lua
    assert "suffix = function(_, after, _) return after end" in lua
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Authorization": "Bearer xterm-256color",
    }
    body = {"model": text["model"], "stream": "stream = true" in lua} | fields | {"prompt": before, "suffix": after}
    return text["end_point"], headers, body


def asked_by_continue(before: str, after: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The same of `fimStream` of its provider inception, with the YAML recipe and the stops that it adds itself."""
    (model,) = yaml.safe_load(recipe("yaml"))["models"]
    assert (model["provider"], model["roles"]) == ("inception", ["autocomplete"])
    assert model["apiBase"].endswith("/")  # its URL is made relative to this
    options = model["defaultCompletionOptions"]
    body = {
        "model": model["model"],
        "prompt": before,
        "suffix": after if after.strip() else "<|endoftext|>",
        "max_tokens": options["maxTokens"],
        "temperature": options["temperature"],
        "presence_penalty": options["presencePenalty"],
        "stop": ["<|endoftext|>", "/src/", "#- coding: utf-8", "```", "\n\n", "\n \n"],
        "stream": True,
    }
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    return model["apiBase"] + "completions", headers | {"Authorization": f"Bearer {model['apiKey']}"}, body


@pytest.mark.parametrize("asked", [asked_by_minuet, asked_by_continue])
def test_a_recipe_gets_the_middle(editor: Running, folder: Path, asked: Any) -> None:
    url, headers, body = asked(BEFORE, AFTER)
    assert url == "http://127.0.0.1:30000/v1/completions"  # where `unmask serve` listens
    data = json.dumps(body).encode()
    with editor.client.stream("POST", "/v1/completions", content=data, headers=headers) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        found = events(reply.iter_lines())
    assert found.pop() == (None, "[DONE]")
    text = "".join(chunk["choices"][0]["text"] for _, chunk in found)  # both plugins take choices[0].text
    lm = LM.load(folder, dtype="float32", exactness="exact")
    expected = lm.fill(BEFORE, AFTER, max_tokens=body["max_tokens"], stop=body["stop"]).text
    assert text == expected


@pytest.mark.parametrize("asked", [asked_by_minuet, asked_by_continue])
@pytest.mark.parametrize("after", ["", "  \n"])
def test_the_end_of_a_file_is_answered_too(editor: Running, asked: Any, after: str) -> None:
    _, headers, body = asked(BEFORE, after)
    reply = editor.client.post("/v1/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.text.rstrip().endswith("data: [DONE]")
