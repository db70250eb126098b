"""The server under load: throughput over HTTP beside the engine driven directly, latency, and a soak with rude clients.

Usage: python benchmarks/serve_load.py [--model NAME] [--streams N] [--tokens N] [--rounds N] [--soak SECONDS]

The same requests run in turns through `unmask serve` and through an engine in another process, both with one thread;
clients are in this process. `--soak` then lets streams of all modes come and go, some leaving early, some reading
slowly, and watches the server's memory. Everything is bounded in time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

WAYS: list[dict[str, Any]] = [
    {"generation_mode": "ar"},
    {"generation_mode": "self-speculation", "spec_variant": "linearspec"},
    {"generation_mode": "self-speculation", "spec_variant": "adaptivespec"},
    {"generation_mode": "fastdiffuser"},
    {"generation_mode": "auto"},
]
WORDS = ["the", "of", "a", "river", "under", "bridge", "where", "children", "count", "boats", "until", "evening"]
# Rows of the server's key/value memory. What it holds of prompts is kept until there is no room, and its pages are
# memory once they have been used: only a full one can show whether anything else grows.
CACHED, LONG = 8192, 1024
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def requests(streams: int, tokens: int, mixed: bool, seed: int = 0) -> list[dict[str, Any]]:
    """Bodies of completions: prompts of some length, outputs of exactly `tokens` tokens."""
    draw = random.Random(seed)
    return [
        {
            "prompt": " ".join(draw.choices(WORDS, k=draw.randint(8, 32))),
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "seed": 0,
            **WAYS[number % len(WAYS) if mixed else 0],
        }
        for number in range(streams)
    ]


# The engine alone, in a process of its own: a line of bodies comes in, a line of figures goes out.


def direct(model: str, dtype: str) -> None:
    from unmask import LM
    from unmask.lm import options_of

    lm = LM.load(model, dtype=dtype)
    lm.engine.measured_costs()
    print("ready", flush=True)
    for line in sys.stdin:
        made = []
        for body in json.loads(line):
            given = {"mode" if k == "generation_mode" else k: v for k, v in body.items() if k != "prompt"}
            made.append(lm.prepare(lm.encode(body["prompt"]), options_of(given))[0])
        begun = time.perf_counter()
        for request in made:
            lm.engine.submit(request)
        tokens = sum(
            len(update.outcome.emit) for _ in iter(lambda: lm.engine.busy, False) for update in lm.engine.step()
        )
        print(json.dumps({"seconds": time.perf_counter() - begun, "tokens": tokens}), flush=True)


class Direct:
    def __init__(self, model: str, dtype: str) -> None:
        command = [sys.executable, __file__, "--direct", "--model", model, "--dtype", dtype]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def run(self, bodies: list[dict[str, Any]]) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(bodies) + "\n")
        self.process.stdin.flush()
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found


# The server, and clients that cost little: this process shares the machine with it.


class Served:
    def __init__(self, model: str, dtype: str) -> None:
        command = [
            sys.executable,
            "-m",
            "unmask",
            "serve",
            "--model",
            model,
            "--dtype",
            dtype,
            "--port",
            "0",
            "--max-queue",
            "1024",
            "--max-tokens-cached",
            str(CACHED),
        ]
        self.log = Path(os.environ.get("TMPDIR", "/tmp")) / f"serve_load.{os.getpid()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, env=ENVIRONMENT | {"COLUMNS": "200"})
        while "Serving" not in (said := self.log.read_text(encoding="utf-8")):
            assert self.process.poll() is None, said
            time.sleep(0.1)
        self.port = int(said.split("http://127.0.0.1:")[1].split("/")[0])

    @property
    def megabytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass
class Stream:
    """What a client saw of one stream. gaps: per token, between two events with tokens."""

    tokens: int = 0
    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    error: str = ""


async def stream(port: int, body: dict[str, Any], leave_after: int = 0, pause: float = 0.0) -> Stream:
    """Run one streamed completion. leave_after: close the connection after so many events. pause: between reads."""
    seen, begun, last = Stream(), time.perf_counter(), 0.0
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            seen.error = status.decode().strip()
            return seen
        events = 0
        async for line in reader:
            if line.startswith(b'data: {"error'):
                seen.error = line.decode()
            elif line.startswith(b"data: {"):
                now, events = time.perf_counter(), events + 1
                if not last:
                    seen.first = now - begun
                else:
                    seen.gaps.append(now - last)
                last = now
                if b'"completion_tokens"' in line:
                    seen.tokens = json.loads(line[6:])["usage"]["completion_tokens"]
                if leave_after and events >= leave_after:
                    writer.transport.abort()
                    return seen
            if pause:
                await asyncio.sleep(pause)
        return seen
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def get(port: int, route: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data.decode().partition("\r\n\r\n")[2]


async def engine_seconds(port: int) -> float:
    lines = (await get(port, "/metrics")).splitlines()
    return float(next(line for line in lines if line.startswith("unmask_engine_seconds")).split()[1])


async def load(port: int, bodies: list[dict[str, Any]]) -> tuple[dict[str, float], list[Stream]]:
    before, begun = await engine_seconds(port), time.perf_counter()
    seen = await asyncio.gather(*(stream(port, body) for body in bodies))
    assert not any(one.error for one in seen), [one.error for one in seen if one.error][:3]
    seconds = time.perf_counter() - begun
    busy = (await engine_seconds(port) - before) / seconds
    return {"seconds": seconds, "tokens": sum(one.tokens for one in seen), "busy": busy}, seen


async def fill(port: int) -> None:
    """Have every page of the server's key/value memory used once, by prompts of some LONG words."""
    for number in range(2 * CACHED // LONG):
        prompt = " ".join(random.Random(f"long {number}").choices(WORDS, k=LONG))
        seen = await stream(port, {"prompt": prompt, "max_tokens": 1, "generation_mode": "ar"})
        assert not seen.error, seen.error


async def soak(served: Served, seconds: float, streams: int, tokens: int) -> dict[str, Any]:
    """Streams of all modes come and go for a while; memory is read all the time, and what is left at the end."""
    await fill(served.port)
    draw, end, memory = random.Random(1), time.monotonic() + seconds, list[float]()
    counts = {"streams": 0, "left": 0, "slow": 0, "errors": 0, "tokens": 0}

    async def client(number: int) -> None:
        for turn in range(10**9):
            if time.monotonic() > end:
                return
            body = requests(1, draw.randint(1, tokens), mixed=False, seed=number * 10_000 + turn)[0]
            body |= draw.choice(WAYS) | {"temperature": draw.choice([0, 0.8])}
            leave = draw.randint(1, 8) if draw.random() < 0.25 else 0
            pause = 0.05 if draw.random() < 0.1 else 0.0
            seen = await stream(served.port, body, leave, pause)
            counts["streams"] += 1
            counts["left"] += bool(leave)
            counts["slow"] += bool(pause)
            counts["errors"] += bool(seen.error)
            counts["tokens"] += seen.tokens

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(round(served.megabytes, 1))
            await asyncio.sleep(max(seconds / 60, 0.5))

    await asyncio.gather(watch(), *(client(number) for number in range(streams)))
    for _ in range(100):
        health = json.loads(await get(served.port, "/health"))
        if not health["pages_in_use"]:
            break
        await asyncio.sleep(0.1)
    quarter = max(len(memory) // 4, 1)
    return {
        "seconds": seconds,
        "clients": streams,
        **counts,
        "memory_mb": memory,
        "memory_second_quarter_mb": median(memory[quarter : 2 * quarter] or memory),
        "memory_last_quarter_mb": median(memory[-quarter:]),
        "health_after": health,
    }


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{q}": round(ordered[min(len(ordered) * q // 100, len(ordered) - 1)], 5) for q in (50, 90, 95, 99)}


def figures(text: str) -> dict[str, float]:
    """The quantiles of /metrics."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if "_quantile_seconds{" in line]
    return {name: round(float(value), 5) for name, value in lines}


def compare(served: Served, alone: Direct, bodies: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Both in turns; the first turn of each warms up and does not count."""
    http, engine, busy, seen = list[float](), list[float](), list[float](), list[Stream]()
    for turn in range(rounds + 1):
        one = alone.run(bodies)
        two, streams = asyncio.run(load(served.port, bodies))
        assert one["tokens"] == two["tokens"], (one, two)
        if turn:
            engine.append(one["tokens"] / one["seconds"])
            http.append(two["tokens"] / two["seconds"])
            busy.append(two["busy"])
            seen += streams
    return {
        "tokens": one["tokens"],
        "engine_tokens_per_second": [round(value, 1) for value in engine],
        "http_tokens_per_second": [round(value, 1) for value in http],
        "ratio": round(median(h / e for h, e in zip(http, engine, strict=True)), 4),
        "ratios": [round(h / e, 4) for h, e in zip(http, engine, strict=True)],
        # Share of the time over HTTP that the engine was in a step: hears less of noisy neighbours than the ratio.
        "engine_busy": [round(value, 4) for value in busy],
        "first_token_seconds": quantiles([one.first for one in seen]),
        "between_events_seconds": quantiles([gap for one in seen for gap in one.gaps]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", help="float32 (memory is flat in it) or bfloat16")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=float, default=0.0, help="seconds")
    parser.add_argument("--soak-streams", type=int, default=64)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.direct:
        direct(arguments.model, arguments.dtype)
        return
    served, alone = Served(arguments.model, arguments.dtype), Direct(arguments.model, arguments.dtype)
    try:
        found: dict[str, Any] = {
            "what": f"{arguments.streams} streams of {arguments.tokens} tokens, {Path(arguments.model).name}",
            "dtype": arguments.dtype,
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "threads": 1,
                "load": os.getloadavg(),
            },
            "versions": {name: version(name) for name in ("torch", "fastapi", "uvicorn")},
        }
        for name, mixed in (("ar", False), ("all modes", True)):
            bodies = requests(arguments.streams, arguments.tokens, mixed)
            found[name] = compare(served, alone, bodies, arguments.rounds)
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
        found["metrics"] = figures(asyncio.run(get(served.port, "/metrics")))
        if arguments.soak:
            found["soak"] = asyncio.run(soak(served, arguments.soak, arguments.soak_streams, arguments.tokens))
            print("soak", json.dumps(found["soak"]), file=sys.stderr, flush=True)
    finally:
        for process in (served.process, alone.process):
            process.terminate()
            process.wait(30)
        served.log.unlink()
    text = json.dumps(found, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
