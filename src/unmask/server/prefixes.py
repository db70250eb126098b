"""Which replica a request should go to: the one that has the beginning of its prompt in its pages, unless it is busy.

Plain bookkeeping, without Ray: a prompt is known by the hashes of its beginnings, each a piece longer than the one
before, and every hash by the replica that was last given a prompt which begins so.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Sequence
from typing import Any

import pydantic_core

PIECE = 256  # characters, about the 64 tokens of a page
MOST_PIECES = 256  # of a prompt; what is longer is taken to be like what has begun alike
KNOWN = 1 << 17  # hashes that are kept, 16 bytes each
SLACK = 4  # requests that a replica may have more than the least busy one before its pages are not worth the wait

Chain = tuple[bytes, ...]


def chain_of(body: bytes) -> Chain:
    """Hashes of the beginnings of a request's prompt, the shortest first; none for what is no generation."""
    try:
        text = text_of(pydantic_core.from_json(body))
    except ValueError:
        return ()
    chain, before = list[bytes](), b""
    for first in range(0, min(len(text), PIECE * MOST_PIECES) - PIECE + 1, PIECE):
        piece = text[first : first + PIECE].encode()
        before = hashlib.blake2b(before + piece, digest_size=16).digest()
        chain.append(before)
    return tuple(chain)


def text_of(data: Any) -> str:
    """The prompt of a body as one text: equal beginnings of it are equal beginnings of the prompt. Any body will do."""
    if not isinstance(data, dict):
        return ""
    if isinstance(messages := data.get("messages"), list):
        turns = [message for message in messages if isinstance(message, dict)]
        return "".join(f"{turn.get('role')}\n{turn.get('content')}\n" for turn in turns)
    prompt = data.get("prompt")
    while isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt)) if isinstance(prompt, list) else ""


class Prefixes:
    """What the router knows. Requests and replicas are known by names."""

    def __init__(self, known: int = KNOWN, slack: int = SLACK) -> None:
        self.known, self.slack = known, slack
        self.homes: OrderedDict[bytes, str] = OrderedDict()
        self.running: dict[str, str] = {}
        self.early: deque[str] = deque(maxlen=64)  # requests that ended before they were said to have begun
        self.turns: dict[str, int] = {}
        self.turn = 0

    def ranked(self, chain: Chain, replicas: Collection[str]) -> list[str]:
        """All replicas, the best one first: where the longest known beginning is, then the least busy, then the one
        whose last request is longest ago."""
        loads = Counter(self.running.values())
        order = sorted(replicas, key=lambda name: (loads[name], self.turns.get(name, 0), name))
        home = next((name for piece in reversed(chain) if (name := self.homes.get(piece)) in replicas), None)
        if home is None or loads[home] > loads[order[0]] + self.slack:
            return order
        return [home, *(name for name in order if name != home)]

    def begin(self, request: str, chain: Chain, replica: str) -> None:
        self.turn += 1
        self.turns[replica] = self.turn
        for piece in chain:
            self.homes[piece] = replica
            self.homes.move_to_end(piece)
        while len(self.homes) > self.known:
            self.homes.popitem(last=False)
        if request in self.early:
            self.early.remove(request)
        else:
            self.running[request] = replica

    def end(self, request: str) -> None:
        if self.running.pop(request, None) is None:
            self.early.append(request)

    def keep(self, replicas: Sequence[str]) -> None:
        """Forget all replicas but these."""
        self.turns = {name: turn for name, turn in self.turns.items() if name in replicas}
        for piece in [piece for piece, name in self.homes.items() if name not in replicas]:
            del self.homes[piece]
