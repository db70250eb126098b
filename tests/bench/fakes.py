"""Peers whose clock is made up, so that every number of a benchmark is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unmask.bench.plan import Load, Text
from unmask.bench.worker import PeerError

KINDS = {"code": 1, "chat": 2, "editing": 3}  # the first id of a prompt says of which kind it is
# Milliseconds per token of a peer's load.
SLOW = {"transformers bfloat16": 37.0, "llama.cpp Q4_1": 12.0, "llama.cpp Q4_1, n-grams": 8.0, "llama.cpp Q8_0": 15.0}
OURS = {"bfloat16": 12.0, "bfloat16 int8": 10.0, "bfloat16 int4": 8.0, "default": 12.0, "int8": 10.0}


def way_of(options: Mapping[str, Any]) -> str:
    if options.get("mode") == "self-speculation":
        return f"{options['spec_variant']} {options['draft_block_size']}"
    return str(options.get("mode", "plain"))


def faster(way: str, kind: int) -> float:
    """How much quicker than AR a way is, by kind."""
    if way.startswith("adaptivespec"):
        return {1: 4.0, 2: 2.5, 3: 5.0}[kind] * (1.0 if way.endswith("8") else 0.9)
    if way.startswith("linearspec"):
        return {1: 4.5, 2: 1.5, 3: 3.0}[kind]
    return {"quadspec 4": 0.5, "auto": 3.9}.get(way, 1.0)


class Fake:
    """A peer. dies: after so many answers. together: how much quicker so many prompts at once are, in all."""

    def __init__(self, load: Load, log: list[tuple[str, str, Any]], dies: int | None = None) -> None:
        self.load, self.log, self.left, self.closed = load, log, dies, False
        self.advice = dict[str, Any]()

    def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        self.log.append((self.load.name, name, arguments))
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise PeerError("the process ended: out of memory")
        found: dict[str, Any] = getattr(self, name)(**arguments)
        return found

    def about(self) -> dict[str, Any]:
        return {"drafts": True, "trained": True, "draft_block_size": 8, "max_position": 1000}

    def encode(self, text: str, chat: bool) -> dict[str, Any]:
        kind, number, length = map(int, text.split())
        return {"ids": [kind, number] + [0] * length}

    def natural(self, prompt: Sequence[int], tokens: int, stop: Sequence[str]) -> dict[str, Any]:
        return {"tokens": min(tokens, prompt[1] * 10)}

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, **options: Any) -> dict[str, Any]:
        each = {**SLOW, **OURS}[self.load.name] / 1000 / faster(way_of(options), prompts[0][0])
        each *= 1.0 if len(prompts) == 1 else len(prompts) ** (0.25 if options.get("mode") == "ar" else 0.9)
        arrivals = [[0.1 + each * i, i + 1] for i in range(tokens)]
        wrong = way_of(options) == "quadspec 4"
        ids = [[prompt[1] + i + (wrong and i == 1) for i in range(tokens)] for prompt in prompts]
        return {
            "seconds": arrivals[-1][0],
            "arrivals": arrivals,
            "tokens": tokens * len(prompts),
            "ids": ids,
            "later": tokens - 1,
            "nfe": tokens - 1,
            "rounds": (tokens - 1) // 2,
            "strategy": "ar",
        }

    def profile(self) -> dict[str, Any]:
        return {"profile": [0.8, 0.6]}

    def advise(self, advice: Mapping[str, Any], keep: bool) -> dict[str, Any]:
        self.advice = {**advice, "keep": keep}
        return {}

    def forwards(self, rows: Sequence[int], context: int) -> dict[str, Any]:
        return {"seconds": [[count, 0.010 + 0.0001 * (count - 1)] for count in rows], "bytes": 240e6}

    def memory(self) -> dict[str, Any]:
        return {"peak": 130.0, "weights": 80.0, "cache": 20.0}

    def bandwidth(self) -> dict[str, Any]:
        return {"bandwidth": 30e9}

    def close(self) -> None:
        self.closed = True


def starter(
    log: list[Any], missing: Sequence[str] = (), dies: Mapping[str, int] | None = None
) -> Callable[[Load], Fake]:
    def start(load: Load) -> Fake:
        if load.name in missing:
            raise PeerError("xllamacpp is not installed")
        return Fake(load, log, (dies or {}).get(load.name))

    return start


def texts(count: int = 12) -> dict[str, list[Text]]:
    """Natural lengths 10, 20, ... tokens; the second of each kind is too long for the context."""
    return {
        kind: [Text(kind, f"{kind} {i}", f"{number} {i} {2000 if i == 2 else 5}") for i in range(1, count + 1)]
        for kind, number in KINDS.items()
    }
