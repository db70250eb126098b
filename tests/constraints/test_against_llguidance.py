"""The same languages in another implementation: llguidance, over single bytes."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import llguidance
import pytest

from tests.constraints.walks import accepts, columns_of, ids, text_of
from unmask.constraints import Grammar, Regex, spec_of
from unmask.constraints.columns import Columns

TOKENS = llguidance.LLTokenizer("byte")
COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def allowed(matcher: llguidance.LLMatcher) -> set[int]:
    return {id for id in ids(matcher.compute_bitmask()) if id < 256}


def compare(columns: Columns, matcher: llguidance.LLMatcher, seed: int, steps: int = 40) -> None:
    """Along a random text both must agree at every byte on what may follow and on where the text may end."""
    assert matcher.get_error() == ""
    chance, column = random.Random(seed), columns.first
    for _ in range(steps):
        ours = {byte for byte in range(256) if columns.step(column, byte) is not None}
        assert column.accepting == matcher.is_accepting()
        if matcher.is_stopped():
            assert not ours
            return
        assert ours == allowed(matcher)
        if not ours:
            return
        byte = chance.choice(sorted(ours))
        after = columns.step(column, byte)
        assert after is not None
        column = after
        assert matcher.consume_token(byte)


@pytest.mark.parametrize(
    "pattern", [r"(ab|a)*c", r"[a-f]{2,4}(x|yz)?", r"a(b|c){3}d*", r"[^a]b+", r"(é|ü|[0-9])+", r"[0-9]+(\.[0-9]+)?"]
)
@pytest.mark.parametrize("seed", range(6))
def test_regular_expressions(pattern: str, seed: int) -> None:
    grammar = llguidance.LLMatcher.grammar_from_regex(pattern)
    compare(columns_of(Regex(pattern)), llguidance.LLMatcher(TOKENS, grammar), seed)


@pytest.mark.parametrize(
    "text",
    [
        'start: "a" start "b" | "c"',
        'start: sum\nsum: sum "+" product | product\nproduct: product "*" atom | atom\natom: /[0-9]/ | "(" sum ")"',
        'start: "[" (start ("," start)*)? "]" | "x"',
        'start: a | b\na: "k" a "k" | "m"\nb: "k" b | "n"',
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_grammars(text: str, seed: int) -> None:
    grammar = llguidance.LLMatcher.grammar_from_lark(text)
    compare(columns_of(Grammar(text, "lark")), llguidance.LLMatcher(TOKENS, grammar), seed)


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", 1, None]}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "null"}}]},
    {
        "$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}, "v": {"type": "null"}}}},
        "$ref": "#/$defs/t",
    },
    {"type": "integer", "minimum": -5, "maximum": 250},
    {"type": "string", "minLength": 1, "maxLength": 3},
]


def closed(schema: Any) -> Any:
    """The schema with no names but those listed, which is how ours reads it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(part) for name, part in schema.items()}
    return inner | (
        {"additionalProperties": False} if "properties" in schema and schema.get("type") == "object" else {}
    )


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_schemas_both_ways(schema: dict[str, Any]) -> None:
    """Spaces differ: ours are few and optional. So our texts are read by a matcher that takes any, and texts of one
    that writes compactly are read by ours. Ours alone writes every escape that JSON has, and never a minus zero."""
    spec = spec_of({"type": "json_schema", "schema": schema})
    loose = llguidance.LLMatcher.grammar_from_json_schema(closed(schema))
    compact = llguidance.LLMatcher.grammar_from_json_schema(closed(schema) | {"x-guidance": COMPACT})
    columns, read, written = columns_of(spec), 0, 0
    for seed in range(30):
        ours = text_of(spec, seed, budget=120).encode()
        if b"\\" not in ours:
            matcher = llguidance.LLMatcher(TOKENS, loose)
            assert matcher.try_consume_tokens(list(ours)) == len(ours), ours
            assert matcher.is_accepting()
            read += 1
        theirs = random_text(llguidance.LLMatcher(TOKENS, compact), random.Random(seed))
        if theirs is not None and not re.search(rb"-0(?![.0-9])", theirs):
            assert accepts(columns, theirs), theirs
            written += 1
    assert read > 3
    assert written > 3


def random_text(matcher: llguidance.LLMatcher, chance: random.Random) -> bytes | None:
    """None where it becomes too long. Digits, which ours limits to 15, are kept few."""
    data = bytearray()
    while len(data) < 60:
        choices = sorted(allowed(matcher))
        if not choices or (matcher.is_accepting() and chance.random() < 0.5):
            return bytes(data) if matcher.is_accepting() else None
        plain = [byte for byte in choices if byte < 0x80 and byte != ord("\\")]
        byte = (
            chance.choice([b for b in plain if chr(b) in '",:]}'] or plain)
            if chance.random() < 0.6
            else chance.choice(plain)
        )
        assert matcher.consume_token(byte)
        data.append(byte)
    return None
