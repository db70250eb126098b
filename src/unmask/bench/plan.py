"""What a benchmark measures: loads (a peer with a model, a dtype, a quantisation), ways to decode, prompts, cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

LLAMA = "llama.cpp Q4_1"
TRANSFORMERS = "transformers bfloat16"
LOOKUP = {"prompt_lookup_num_tokens": 10}
SPECULATIVE = ("linearspec", "quadspec", "adaptivespec")
MODES = ("ar", *SPECULATIVE, "auto", "fastdiffuser")
LONGEST_QUADSPEC = 8  # its rows grow with the square


class Caller(Protocol):
    """A peer to ask: a worker, or in tests anything else."""

    def call(self, name: str, **arguments: Any) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Load:
    """peer: of `peers.PEERS`. settings: what it is made with."""

    name: str
    peer: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Way:
    """How to decode. options: of the peer's `generate`. fixed: a lossless way of ours that `auto` might have chosen."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False

    @property
    def strategy(self) -> tuple[str, int]:
        """(strategy, draft block size) of a fixed way."""
        return str(self.options.get("spec_variant", "ar")), int(self.options.get("draft_block_size", 1))


@dataclass(frozen=True, slots=True)
class Cell:
    """What is timed as one: a way on a load, with so many requests at a time."""

    load: str
    way: Way
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.load}, {self.way.name}{f', {self.batch} at a time' if self.batch > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """tokens: how many are to follow."""

    kind: str
    name: str
    ids: tuple[int, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt before it is encoded. chat: a user's message. stop: strings that end the answer."""

    kind: str
    name: str
    text: str
    chat: bool = False
    stop: tuple[str, ...] = ()


AR = Way("ar", {"mode": "ar"}, fixed=True)
AUTO = Way("auto", {"mode": "auto"})


def speculation(variant: str, block: int) -> Way:
    options = {"mode": "self-speculation", "spec_variant": variant, "draft_block_size": block}
    return Way(f"{variant} {block}", options, fixed=True)


def fixed_ways(block: int) -> list[Way]:
    """Lossless ways around the draft block that a checkpoint was trained with."""
    half = max(block // 2, 2)
    ways = [AR, speculation("linearspec", block), speculation("quadspec", min(half, LONGEST_QUADSPEC))]
    return ways + [speculation("adaptivespec", size) for size in dict.fromkeys((half, block))]


def grid_ways(modes: Sequence[str], blocks: Sequence[int], thresholds: Sequence[float]) -> list[Way]:
    """Every mode with every block and, where it has one, every threshold; ValueError for an unknown mode."""
    ways = list[Way]()
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode in SPECULATIVE:
            ways += [speculation(mode, block) for block in blocks]
        elif mode == "fastdiffuser":
            for block, threshold in product(blocks, thresholds):
                options = {"mode": mode, "block_size": block, "confidence_threshold": threshold}
                ways.append(Way(f"{mode} {block}, {threshold:g}", options))
        else:
            ways.append(AR if mode == "ar" else AUTO)
    return ways


def load_of(model: str, dtype: str | None, quantize: str | None, more: Mapping[str, Any]) -> Load:
    """This package with a dtype or a quantisation. more: exactness, adapter."""
    settings = {"model": model, "dtype": dtype, "quantize": quantize, **more}
    return Load(" ".join(filter(None, (dtype, quantize))) or "default", "unmask", settings)


def peer_loads(model: str, threads: int) -> list[Load]:
    """Whom we are measured against, all on the same weights."""
    llama = {"model": model, "threads": threads}
    return [
        Load(TRANSFORMERS, "transformers", {"model": model, "dtype": "bfloat16"}),
        Load(LLAMA, "llama.cpp", llama),
        Load(f"{LLAMA}, n-grams", "llama.cpp", {**llama, "ngrams": True}),
        Load("llama.cpp Q8_0", "llama.cpp", {**llama, "kind": "Q8_0"}),
    ]


def peer_ways(load: Load) -> list[Way]:
    plain = Way("plain")
    return [plain, Way("prompt lookup", LOOKUP)] if load.peer == "transformers" else [plain]
