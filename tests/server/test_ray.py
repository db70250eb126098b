"""Two replicas under Ray Serve: one set of ids, one of them killed in mid-stream, a drained end.

Ray starts once for all of them, which takes a minute or two on a small machine. Skipped without the extra `ray`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.serving import WAYS, as_options, events, wait_until
from unmask import LM
from unmask.server import Settings
from unmask.server.batch import Batch, Summary
from unmask.server.batch_ask import OverHttp
from unmask.server.batch_files import opened, requests
from unmask.server.door import create_door
from unmask.server.run import Server, take_socket

ray = pytest.importorskip("ray", reason="needs Ray Serve: pip install 'unmask[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are no concern of ours

LONG: dict[str, Any] = {"prompt": "the", "max_tokens": 250, "ignore_eos": True, "temperature": 0}
LONG |= {"generation_mode": "ar", "stream": True}
NAMESPACE = "serve"


@dataclass
class Fleet:
    server: Server
    url: str
    thread: threading.Thread

    def post(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=30).json()
        return found


@pytest.fixture(scope="module")
def fleet(tiny_folder: Path) -> Iterator[Fleet]:
    from unmask.server import cluster

    settings = Settings(names=("tiny",), shutdown_seconds=20)
    loading = {"name": str(tiny_folder), "dtype": "float32", "exactness": "exact", "max_live": 8}
    made = cluster.Fleet(loading=loading, settings=settings, least=2, most=2, cpus=cluster.processors() / 2)
    with cluster.started(made) as replicas:
        taken, begun = take_socket("127.0.0.1", 0), threading.Event()
        server = Server(create_door(replicas, settings), ready=begun.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        assert begun.wait(30)
        yield Fleet(server, f"http://127.0.0.1:{taken.getsockname()[1]}", thread)
        if thread.is_alive():
            server.stop()
        thread.join(60)
        assert not thread.is_alive()


def kill(replica: str) -> None:
    """End a replica's process without a word."""
    names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
    (name,) = [name for name in names if name.endswith(f"#{replica}")]
    ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def test_every_replica_writes_the_same(fleet: Fleet, alone: LM) -> None:
    for way in WAYS:
        expected = alone.generate("the", max_tokens=12, ignore_eos=True, **as_options(way))
        seen = set[str]()
        for _ in range(2):
            reply = fleet.post(LONG | {"stream": False, "max_tokens": 12, **way})
            assert reply.json()["choices"][0]["text"] == expected.text
            seen.add(reply.headers["x-unmask-replica"])
        assert len(seen) == 2, "equally busy replicas take turns"


def test_one_beginning_one_replica(fleet: Fleet) -> None:
    replies = [fleet.post({"prompt": "word " * 60 + text, "max_tokens": 1}) for text in "xyz"]
    assert len({reply.headers["x-unmask-replica"] for reply in replies}) == 1


def test_metrics_of_all(fleet: Fleet) -> None:
    text = httpx.get(f"{fleet.url}/metrics", timeout=30).text
    counts = [line for line in text.splitlines() if line.startswith("unmask_pages_in_use{")]
    assert len(counts) == 2
    assert all(line.endswith(" 0.0") for line in counts)


def test_a_client_that_leaves_frees_the_pages(fleet: Fleet) -> None:
    with httpx.stream("POST", f"{fleet.url}/v1/completions", json=LONG, timeout=60) as reply:
        next(reply.iter_lines())

    def idle() -> bool:
        text = httpx.get(f"{fleet.url}/metrics", timeout=30).text
        counts = [line for line in text.splitlines() if line.startswith(("unmask_pages_in_use{", "unmask_held{"))]
        return len(counts) == 4 and all(line.endswith(" 0.0") for line in counts)

    wait_until(idle, seconds=60)


def test_a_killed_replica_is_a_clean_error_and_the_next_try_succeeds(fleet: Fleet, alone: LM) -> None:
    with httpx.stream("POST", f"{fleet.url}/v1/completions", json=LONG, timeout=60) as reply:
        lines = reply.iter_lines()
        first = next(lines)
        kill(reply.headers["x-unmask-replica"])
        found = events(iter([first, *lines]))
    assert found[-1] == (None, "[DONE]")
    assert found[-2][1]["error"]["code"] == "replica_lost"
    client = openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none", timeout=60)
    short: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "extra_body": {"ignore_eos": True}}
    again = client.completions.create(model="tiny", prompt="the", **short)
    assert again.usage is not None
    assert again.usage.completion_tokens == 4
    assert again.choices[0].text == alone.generate("the", max_tokens=4, ignore_eos=True).text
    wait_until(lambda: fleet.health()["replicas"].get("running") == 1, seconds=60)


def test_a_killed_replica_is_replaced(fleet: Fleet) -> None:
    """After the one above. A new process imports torch and loads the model, which a busy machine takes minutes for."""
    wait_until(lambda: fleet.health()["replicas"] == {"running": 2}, seconds=600)
    replies = [fleet.post({"prompt": "the", "max_tokens": 1}) for _ in range(2)]
    assert len({reply.headers["x-unmask-replica"] for reply in replies}) == 2


def test_a_batch_loses_nothing_with_a_replica(fleet: Fleet, alone: LM, tmp_path: Path) -> None:
    body = LONG | {"stream": False, "max_tokens": 60}
    lines = [
        {"custom_id": f"{n}", "method": "POST", "url": "/v1/completions", "body": body | {"prompt": f"{n} the"}}
        for n in range(30)
    ]
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def told(summary: Summary) -> None:
        if summary.succeeded == 5:
            kill(fleet.post(LONG | {"stream": False, "max_tokens": 1}).headers["x-unmask-replica"])

    with opened(tmp_path / "in", tmp_path / "out") as found:
        summary = asyncio.run(Batch(OverHttp(fleet.url, 8), requests(tmp_path / "in"), found, told).run())
    assert (summary.succeeded, summary.failed) == (30, 0)
    results = [json.loads(line) for line in (tmp_path / "out").read_text(encoding="utf-8").splitlines()]
    texts = {result["custom_id"]: result["response"]["body"]["choices"][0]["text"] for result in results}
    assert len(texts) == len(results) == 30
    for name in ("0", "29"):
        expected = alone.generate(f"{name} the", mode="ar", max_tokens=60, ignore_eos=True)
        assert texts[name] == expected.text


def test_wrong_numbers() -> None:
    from unmask.server import cluster

    given: dict[str, Any] = {"loading": {}, "settings": Settings(), "least": 1, "most": 1, "cpus": 1.0}
    for wrong in ({"least": 0}, {"least": 2}, {"cpus": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            cluster.Fleet(**given | wrong)


def test_bounds_and_room() -> None:
    from unmask.server import cluster

    given: dict[str, Any] = {"loading": {"max_live": 8}, "settings": Settings(max_queue=4), "cpus": 0.5}
    fixed = cluster.deployment(cluster.Fleet(**given, least=2, most=2))
    assert fixed.num_replicas == 2
    assert fixed.max_ongoing_requests >= 8 + 4, "its own queue says when it is full"
    scaled = cluster.deployment(cluster.Fleet(**given, least=1, most=3))._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas, scaled.target_ongoing_requests) == (1, 3, 8)


def test_drained(fleet: Fleet) -> None:
    """The last test of this file: the server has ended after it."""
    with httpx.stream("POST", f"{fleet.url}/v1/completions", json=LONG | {"max_tokens": 20}, timeout=60) as reply:
        lines = reply.iter_lines()
        first = next(lines)
        fleet.server.stop()
        found = events(iter([first, *lines]))
    assert found[-1] == (None, "[DONE]")
    assert found[-2][1]["choices"][0]["finish_reason"] == "length"
    fleet.thread.join(60)
    assert not fleet.thread.is_alive()
