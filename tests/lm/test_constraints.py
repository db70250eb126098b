"""Constraints through `LM`: every kind and mode, the verdict, both kinds of vocabulary, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.constraints.walks import ids
from tests.text.vocabularies import PIECES
from tests.tinymodel import END, MASK
from unmask import LM
from unmask.cli.constraining import constrained
from unmask.constraints import ConstraintError, Regex
from unmask.lm.constraining import Constraining
from unmask.text import Tokenizer
from unmask.types import Ids, Matcher, Traits

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 5}},
    "required": ["a"],
}
KINDS: list[dict[str, Any]] = [
    {"type": "regex", "pattern": "(the |a )+end"},
    {"type": "choice", "values": ["the", "then", "é"]},
    {"type": "json_schema", "schema": SCHEMA},
    {"type": "json_object"},
    {"type": "grammar", "text": 'start: "(" start ")" | /[0-9]+/'},
    {"type": "grammar", "text": 'root ::= "<" root ">" | [a-z]+'},
]
WAYS: list[dict[str, Any]] = [
    {"mode": "ar"},
    {"mode": "fastdiffuser", "confidence_threshold": 0.2},
    *({"mode": "self-speculation", "spec_variant": name} for name in ("linearspec", "quadspec", "adaptivespec")),
    {"mode": "auto"},
]


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["type"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_kind_in_every_mode(lm: LM, kind: dict[str, Any], temperature: float) -> None:
    options: dict[str, Any] = {"max_tokens": 24, "temperature": temperature, "seed": 3, "constraints": [kind]}
    texts = list[str]()
    for way in WAYS:
        found = lm.generate("the cat", **options, **way)
        assert found.constraint is not None
        assert found.constraint.status == ("unknown" if "root" in kind.get("text", "") else "satisfied")
        assert found.finish_reason == "stop"
        assert MASK not in found.token_ids
        assert END not in found.token_ids[:-1]
        if way["mode"] != "fastdiffuser":
            texts.append(found.text)
    assert len(set(texts)) == 1, "lossless"


def test_texts_that_must_end_do_so_without_a_stop_token(lm: LM) -> None:
    found = lm.generate("a", mode="ar", max_tokens=9, constraints=[{"type": "choice", "values": ["the", "that"]}])
    assert found.text in ("the", "that")
    assert END not in found.token_ids
    forced = lm.generate(
        "a", mode="ar", max_tokens=3, constraints=[{"type": "regex", "pattern": "a{1,50}"}], ignore_eos=True
    )
    assert (forced.text, forced.finish_reason) == ("aaa", "stop")
    assert lm.generate("a", mode="ar", max_tokens=3).constraint is None


def test_biases_and_penalties_cannot_break_it(lm: LM) -> None:
    options: dict[str, Any] = {
        "max_tokens": 20,
        "constraints": [{"type": "json_schema", "schema": SCHEMA}],
        "logit_bias": {lm.tokenizer.encode("}")[0]: float("-inf"), END: float("inf")},
        "frequency_penalty": 2.0,
        "top_k": 2,
        "temperature": 1.0,
    }
    for way in WAYS:
        found = lm.generate("the", **options, **way)
        assert found.constraint is not None
        assert found.constraint.status == "satisfied"


def test_logprobs_and_frames_beside_a_constraint(lm: LM) -> None:
    for way in WAYS:
        found = lm.generate("the", max_tokens=16, logprobs=2, constraints=[KINDS[0]], **way)
        assert all(len(token.top) == 2 for token in found.tokens)
        plain = lm.generate("the", max_tokens=16, constraints=[KINDS[0]], **way)
        assert plain.token_ids == found.token_ids
        assert all(token.logprob is None and not token.top for token in plain.tokens)
        events = list(lm.stream("the", max_tokens=16, frames=True, constraints=[KINDS[0]], **way))
        assert events[-1].token_ids == found.token_ids  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"constraints": [{"type": "regex", "pattern": "("}]}, "is no regular expression"),
        ({"constraints": [KINDS[0], KINDS[1]]}, "constraints may hold one hard constraint, got 2"),
        ({"constraints": [KINDS[0]], "stop": "x"}, "stop cannot be given beside a hard constraint"),
        ({"constraints": [KINDS[0]], "min_tokens": 2}, "min_tokens must be 0 beside a constraint"),
        (
            {"constraints": [{"type": "regex", "pattern": "[ab]{30}"}]},
            "max_tokens is 20, but the shortest text",
        ),
        ({"constraints": [{"type": "json_schema", "schema": {"not": {}}}]}, "#/not is a keyword that is not supported"),
        ({"constraints": [{"type": "xml"}]}, "a constraint's type must be one of"),
    ],
)
def test_what_is_refused_before_anything_runs(lm: LM, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        lm.generate("the", max_tokens=20, **options)
    assert not lm.engine.requests


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("spec_variant", way["mode"]))
def test_the_empty_text_needs_a_stop_token(lm: LM, way: dict[str, Any]) -> None:
    options: dict[str, Any] = {**way, "constraints": [{"type": "regex", "pattern": "(abcdefghijklmnop)?"}]}
    with pytest.raises(ConstraintError, match="max_tokens is 1, and only the empty text is sure to end within it"):
        lm.generate("a", max_tokens=1, ignore_eos=True, **options)
    assert not lm.engine.requests
    assert lm.generate("a", max_tokens=1, **options).text == ""
    assert lm.generate("a", max_tokens=30, ignore_eos=True, **options).text == "abcdefghijklmnop"


@pytest.mark.parametrize("pattern", [" ?ab+", "ab", "a? b"])
def test_a_vocabulary_that_takes_a_space_off_the_beginning(pattern: str) -> None:
    """SentencePiece: the text that is decoded obeys, not the bytes of its tokens."""
    tokenizer: Tokenizer = PIECES
    compiler = Constraining(tokenizer, Traits()).compiler
    place = compiler.start(Regex(pattern), (2,), 8)
    ended = set[str]()
    stack: list[tuple[Matcher, Ids, int]] = [(place, (), 8)]
    while stack:
        here, tokens, budget = stack.pop()
        if here.accepting and tokens:
            ended.add(tokenizer.decode(tokens))
        for token in ids(here.allowed(budget)) if budget > 4 else ():
            after = here.take(token, budget)
            assert after is not None
            stack.append((after, (*tokens, token), budget - 1))
    assert ended
    assert all(re.fullmatch(pattern, text) for text in ended)


def test_the_command_line(lm: LM, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    (tmp_path / "g.lark").write_text('start: "a"', encoding="utf-8")
    assert constrained({"seed": 1}, {}) == {"seed": 1}
    assert constrained({}, {"json_schema": tmp_path / "s.json"}) == {"constraints": [KINDS[2]]}
    assert constrained({}, {"grammar": tmp_path / "g.lark"}) == {
        "constraints": [{"type": "grammar", "text": 'start: "a"'}]
    }
    assert constrained({}, {"choice": ["a", "b"]}) == {"constraints": [{"type": "choice", "values": ["a", "b"]}]}
    assert constrained({}, {"regex": "a"}) == {"constraints": [{"type": "regex", "pattern": "a"}]}
    assert constrained({}, {"json_object": True}) == {"constraints": [{"type": "json_object"}]}
    with pytest.raises(ValueError, match="--regex and --choice cannot be given together"):
        constrained({}, {"regex": "a", "choice": ["b"]})
    with pytest.raises(ValueError, match="the file is no JSON"):
        constrained({}, {"json_schema": tmp_path / "g.lark"})
