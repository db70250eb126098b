"""Where requests go: to who has the beginning of their prompt, while that replica is not much busier than others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.server.prefixes import MOST_PIECES, PIECE, Prefixes, chain_of

NAMES = ["a", "b", "c"]
TEXTS = st.text(st.sampled_from("xyé"), max_size=4).map(lambda text: text * PIECE)


def body(prompt: Any) -> bytes:
    return json.dumps({"prompt": prompt}).encode()


@given(TEXTS, TEXTS, TEXTS)
def test_chains_are_alike_as_far_as_prompts_are(shared: str, one: str, other: str) -> None:
    first, second = chain_of(body(shared + one)), chain_of(body(shared + other))
    assert len(first) == min(len(shared + one) // PIECE, MOST_PIECES)
    alike = [a == b for a, b in zip(first, second, strict=False)]
    pieces = zip(*(range(PIECE, len(text) + 1, PIECE) for text in (shared + one, shared + other)), strict=False)
    assert alike == [(shared + one)[:end] == (shared + other)[:end] for end, _ in pieces]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"3", b'{"prompt": 3}', b'{"prompt": []}', b"\xff", b'{"messages": [1]}']
)
def test_what_is_no_prompt_has_no_chain(text: bytes) -> None:
    assert chain_of(text) == ()


def test_every_kind_of_prompt_has_one() -> None:
    long = "word " * PIECE
    parts = [{"type": "text", "text": long}]
    for data in (
        {"prompt": long},
        {"prompt": [long, "other"]},
        {"prompt": list(range(PIECE))},
        {"prompt": [list(range(PIECE)), [1]]},
        {"messages": [{"role": "system", "content": long}, {"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": parts}]},
    ):
        assert len(chain_of(json.dumps(data).encode())) >= 2, data
    system = {"role": "system", "content": long}
    asked = [chain_of(json.dumps({"messages": [system, {"role": "user", "content": text}]}).encode()) for text in "ab"]
    assert asked[0][:4] == asked[1][:4]


def test_same_beginning_same_replica_while_balanced() -> None:
    prefixes, chain, longer = Prefixes(slack=2), (b"1", b"2"), (b"1", b"2", b"3")
    prefixes.begin("r0", chain, "b")
    for number in range(1, 3):
        assert prefixes.ranked(longer, NAMES)[0] == "b"
        prefixes.begin(f"r{number}", longer, "b")
    assert prefixes.ranked(longer, NAMES) == ["a", "c", "b"], "three more than the others is too many"
    prefixes.begin("r3", longer, "a")
    prefixes.end("r0")
    assert prefixes.ranked(longer, NAMES)[0] == "a", "who was last given the longest beginning"
    assert prefixes.ranked((b"9",), NAMES)[0] == "c", "an unknown one goes to who is least busy"


def test_equally_busy_replicas_take_turns() -> None:
    prefixes, went = Prefixes(), []
    for number in range(6):
        went.append(prefixes.ranked((), NAMES)[0])
        prefixes.begin(str(number), (), went[-1])
        prefixes.end(str(number))
    assert went == NAMES * 2


def test_an_end_may_come_before_its_beginning() -> None:
    prefixes = Prefixes()
    prefixes.end("quick")
    prefixes.begin("quick", (), "a")
    assert not prefixes.running


@given(st.lists(st.tuples(st.sampled_from(["begin", "end"]), st.integers(0, 5), st.sampled_from(NAMES)), max_size=30))
def test_all_replicas_are_always_ranked(steps: list[tuple[str, int, str]]) -> None:
    prefixes = Prefixes(known=4)
    for what, number, name in steps:
        if what == "begin":
            prefixes.begin(str(number), (bytes([number]), bytes([number, 1])), name)
        else:
            prefixes.end(str(number))
        assert sorted(prefixes.ranked((bytes([number]),), NAMES)) == NAMES
        assert len(prefixes.homes) <= 4
    prefixes.keep(["a"])
    assert set(prefixes.homes.values()) <= {"a"}
    assert prefixes.ranked((b"1",), ["a"]) == ["a"]
