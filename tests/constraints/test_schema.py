"""JSON Schemas: texts are valid to another implementation, what cannot be promised is refused with its path."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.walks import BYTES, accepts, columns_of, reads, text_of
from unmask.constraints import ConstraintError, JsonSchema, check, spec_of
from unmask.constraints.columns import Columns
from unmask.constraints.expr import Source
from unmask.constraints.grammar import compile_source
from unmask.constraints.json_text import integers, numbers, other_than, string_of_length

POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"]}
SCHEMAS: list[Any] = [
    True,
    {},
    {"type": "string"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"]},
    {"type": ["integer", "number"]},
    {"type": "string", "maxLength": 3},
    {"type": "string", "minLength": 2},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "maxLength": 2000},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"},
    {"type": "string", "pattern": "b.d"},
    {"type": "string", "pattern": '^"\\\\\\n$'},
    {"type": "string", "enum": ["red", "green", 'blue "x"', "\n"]},
    {"enum": [1, "1", None, True, [1, {"a": 2}], {}]},
    {"const": {"a": [1, 2.5], "b": "é"}},
    {"type": "integer", "minimum": 3},
    {"type": "integer", "maximum": -3},
    {"type": "integer", "minimum": -12, "maximum": 345},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 2},
    {"type": "integer", "minimum": 0.5, "maximum": 7.5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
    {"type": "number", "minimum": -3.25, "exclusiveMaximum": -3},
    {"type": "number", "minimum": -1.5, "maximum": 12.75},
    {"type": "array"},
    {"type": "array", "items": {"type": "integer"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1},
    {"type": "array", "maxItems": 0},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1, "maxItems": 4},
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [{"type": "integer"}],
        "additionalItems": {"type": "null"},
    },
    {"type": "array", "items": {"type": "array", "items": {"enum": [0, 1]}, "maxItems": 2}, "maxItems": 2},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {}, "additionalProperties": False},
    POINT,
    {**POINT, "additionalProperties": False},
    {"properties": {"a": {"type": "integer"}}},
    {"type": "object", "properties": {"a": True, "b": True, "c": True}},
    {"type": "object", "properties": {"a": True, "b": True, "c": True}, "required": ["b"]},
    {"type": "object", "properties": {"a": {"type": "null"}, "ab": {"type": "null"}}, "additionalProperties": True},
    {
        "type": "object",
        "properties": {"a": {"type": "null"}},
        "additionalProperties": {"type": "string"},
        "required": ["z"],
    },
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2, "additionalProperties": False},
    {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "maxProperties": 1},
    {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 2},
    {
        "type": "object",
        "properties": {"p": POINT, "q": {"type": "array", "items": POINT, "maxItems": 2}},
        "required": ["p"],
    },
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
    {"anyOf": [POINT, {"type": "null"}], "description": "x"},
    {
        "type": "object",
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "properties": {"a": {"type": "null"}, "b": {}},
    },
    {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    {
        "oneOf": [
            {"type": "object", "properties": {"t": {"const": "a"}, "v": {"type": "integer"}}, "required": ["t", "v"]},
            {"type": "object", "properties": {"t": {"const": "b"}, "w": {"type": "null"}}, "required": ["t", "w"]},
        ]
    },
    {"allOf": [POINT, {"properties": {"x": {"maximum": 5}, "z": {"type": "null"}}, "required": ["z"]}]},
    {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}},
    {"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n", "minimum": 7},
    {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
                "required": ["v", "kids"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
    {"definitions": {"a/b": {"type": "null"}}, "type": "array", "items": {"$ref": "#/definitions/a~1b"}, "minItems": 1},
    *({"type": "string", "format": name} for name in ("date", "time", "date-time", "duration", "email", "hostname")),
    *({"type": "string", "format": name} for name in ("ipv4", "ipv6", "uri", "uuid")),
    {"type": "object", "properties": {f"name{i}": {"type": "integer"} for i in range(40)}},
]


def spec(schema: Any) -> JsonSchema:
    made = spec_of({"type": "json_schema", "schema": schema})
    assert isinstance(made, JsonSchema)
    return made


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_texts_are_valid(schema: Any) -> None:
    # Its own idea of a time has no zone, which RFC 3339 asks for.
    formats = jsonschema.FormatChecker([name for name in jsonschema.FormatChecker.checkers if name != "time"])
    judge = jsonschema.Draft202012Validator(schema, format_checker=formats)
    for seed in range(12):
        text = text_of(spec(schema), seed)
        value = json.loads(text)
        if not (isinstance(schema, dict) and "$schema" in schema):
            judge.validate(value)
        assert check(spec(schema), text).status == "satisfied"


@pytest.mark.parametrize(
    ("schema", "inside", "outside"),
    [
        ({"type": "string"}, ['""', '"a"', '"é\\u00e9\\n\\\\"', '"\\/"'], ['"', '"\n"', '"\\ud800"', "'a'", '"\\x"']),
        ({"type": "number"}, ["0", "-1", "2.50", "1e5", "1E-05"], ["01", "+1", "1.", ".5", "1e", "NaN"]),
        ({"type": "string", "maxLength": 1}, ['"\\u00e9"', '"é"', '""'], ['"ab"']),
        (
            POINT,
            ['{"x":1,"y":2}', '{ "x": 1,\n  "y": 2\n}'],
            ['{"y":1,"x":2}', '{"x":1}', '{"x":1,"y":2,"z":3}', '{"x":1,,"y":2}'],
        ),
        (
            {"properties": {"a": {}}, "additionalProperties": True},
            ['{"b":1}', '{"a":1,"b":2}'],
            ['{"b":1,"a":1}', '{"a":1,"a":2}'],
        ),
        (
            {"type": "array", "items": {"type": "null"}},
            ["[]", "[null]", "[null, null]"],
            ["[null,]", "[,]", "[", "[null null]"],
        ),
        ({"enum": ["a", {"k": [1]}]}, ['"a"', '{"k": [1]}', '{"k":[1]}'], ['"b"', '{"k":[1,]}']),
        ({"type": "string", "pattern": "^a"}, ['"a"', '"ab\\"c"'], ['"ba"', '"ab"c"']),
        ({"type": "string", "format": "date"}, ['"2024-02-28"'], ['"2024-13-01"', '"2023-02-29"', '"2024-04-31"']),
    ],
)
def test_what_is_in_and_what_is_out(schema: Any, inside: list[str], outside: list[str]) -> None:
    columns = columns_of(spec(schema))
    for text in inside:
        assert accepts(columns, text), text
    for text in outside:
        assert not accepts(columns, text), text


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array", "uniqueItems": True}, "#/uniqueItems is a keyword that is not supported"),
        ({"properties": {"a": {"multipleOf": 3}}}, "#/properties/a/multipleOf is a keyword that is not supported"),
        ({"items": {"not": {}}}, "#/items/not is a keyword"),
        ({"if": {}, "then": {}}, "#/if is a keyword"),
        ({"patternProperties": {"a": {}}}, "#/patternProperties is a keyword"),
        ({"propertyNames": {}}, "#/propertyNames is a keyword"),
        ({"contains": {}}, "#/contains is a keyword"),
        ({"dependentRequired": {}}, "#/dependentRequired is a keyword"),
        ({"$dynamicRef": "#a"}, "#/$dynamicRef is a keyword"),
        ({"titel": "x"}, "#/titel is a keyword"),
        ({"anyOf": [{"$ref": "http://x/y"}]}, "#/anyOf/0/$ref is 'http://x/y': only references inside"),
        ({"$ref": "#/$defs/a"}, "leads nowhere"),
        ({"type": "object", "properties": 3}, "#/properties is wrong: 3 is not of type 'object'"),
        ({"type": "text"}, "#/type is wrong"),
        ({"type": "string", "format": "colour"}, "#/format is 'colour', a format that is not supported; known: date"),
        ({"type": "string", "pattern": "(?=a)"}, "#/pattern is refused: the pattern '(?=a)' uses lookahead"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "#/maxLength is not supported beside pattern"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "#/maxLength (2) is below minLength (3)"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "# has bounds between which there is no number"),
        ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}, "# has bounds between"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "#/minItems (3) is above what the array may hold (2)"),
        ({"enum": ["a"], "type": "integer"}, "# allows no value at all"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "#/oneOf has branches that a value may fit at once"),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "#/pattern is given twice"),
        ({"required": ["a"], "additionalProperties": False}, "#/required asks for 'a', which additionalProperties"),
        ({"additionalProperties": {}, "minProperties": 3}, "#/minProperties is not supported where names are free"),
        (False, "its language is empty"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "its language is empty"),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "its language is empty"),
        ({"$ref": "#"}, "its language is empty"),
        ({"properties": {f"n{i}": {} for i in range(201)}}, "#/properties has more than 200 names"),
        ({"type": "string", "maxLength": 10**9}, "too large"),
        ({"enum": ["x" * 70_000, "y" * 70_000]}, "too large"),
        ({"description": "x" * 300_000}, "more than the 200000 that are taken"),
    ],
)
def test_refusals_name_their_cause(schema: Any, reason: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        columns_of(spec(schema))


def nested(depth: int, leaf: Any, wrap: Any) -> Any:
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


@pytest.mark.parametrize(
    "schema",
    [
        nested(500, {}, lambda inner: {"items": inner}),
        nested(
            120,
            {},
            lambda inner: {"anyOf": [inner, inner, {"type": "null"}]} if len(str(inner)) < 5000 else {"items": inner},
        ),
        {
            "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)} | {"d30": {}},
            "$ref": "#/$defs/d0",
        },
        {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2000)} | {"d2000": {}}, "$ref": "#/$defs/d0"},
        {"type": "array", "minItems": 10**6, "items": {"type": "array", "minItems": 10**6}},
        nested(20, {"type": "null"}, lambda inner: {"type": "array", "items": inner, "minItems": 9, "maxItems": 9}),
        {"type": "object", "properties": {f"n{i}": {"type": "string", "maxLength": 900} for i in range(200)}},
        {"anyOf": [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(30)]},
    ],
    ids=["deep", "anyOf", "allOf", "chain", "long", "unrolling", "wide", "patterns"],
)
def test_hostile_schemas_are_refused_or_small(schema: Any) -> None:
    """Counted limits end them; the time limit of the tests would tell if one did not."""
    try:
        columns = columns_of(spec(schema))
    except ConstraintError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert len(columns.grammar.edges) <= 30_000
    assert columns.first.pairs


bounds = st.one_of(st.none(), st.integers(-1200, 1200))


@settings(max_examples=60, deadline=None)
@given(bounds, bounds, st.lists(st.integers(-2000, 2000), max_size=20))
def test_ranges_of_integers(least: int | None, most: int | None, tried: list[int]) -> None:
    expr = integers(least, most)
    try:
        columns = Columns(compile_source(Source({"s": expr}, "s")), BYTES)
    except ConstraintError:
        assert least is not None
        assert most is not None
        assert least > most
        return
    for number in [*tried, *(edge + d for edge in (least, most, 0) if edge is not None for d in (-1, 0, 1))]:
        fits = (least is None or least <= number) and (most is None or number <= most)
        assert accepts(columns, str(number)) == fits
    assert not accepts(columns, "01")
    assert reads(columns, "+") is None


decimals = st.one_of(st.none(), st.tuples(st.decimals(-20, 20, places=2), st.booleans()))


@settings(max_examples=60, deadline=None)
@given(decimals, decimals, st.lists(st.decimals(-25, 25, places=3), max_size=20))
def test_ranges_of_numbers(
    low: tuple[Decimal, bool] | None, high: tuple[Decimal, bool] | None, tried: list[Decimal]
) -> None:
    try:
        columns = Columns(compile_source(Source({"s": numbers(low, high)}, "s")), BYTES)
    except ConstraintError:
        columns = None
    edges = [bound[0] + Decimal(d) / 1000 for bound in (low, high) if bound for d in (-1, 0, 1)]
    for number in [*tried, *edges]:
        above = low is None or low[0] < number or (low[1] and low[0] == number)
        below = high is None or number < high[0] or (high[1] and number == high[0])
        for text in {format(number, "f"), format(number, "f").rstrip("0").rstrip(".")}:
            if text not in ("-0", "") and not (number == 0 and text.startswith("-")):
                assert (columns is not None and accepts(columns, text)) == (above and below), text


@given(st.sets(st.text("ab", max_size=3), max_size=6), st.lists(st.text("abc", max_size=4), max_size=10))
def test_names_other_than_those_listed(names: set[str], tried: list[str]) -> None:
    columns = Columns(compile_source(Source({"s": other_than(sorted(names))}, "s")), BYTES)
    for name in [*tried, *names]:
        assert accepts(columns, json.dumps(name)) == (name not in names)


@given(st.integers(0, 3), st.integers(0, 3), st.text(max_size=6))
def test_lengths_are_those_of_json(least: int, more: int, value: str) -> None:
    rules = {"s": string_of_length(least, least + more), **{"char": columns_rules()["char"]}}
    columns = Columns(compile_source(Source(rules, "s")), BYTES)
    assert accepts(columns, json.dumps(value, ensure_ascii=False)) == (least <= len(value) <= least + more)


def columns_rules() -> dict[str, Any]:
    from unmask.constraints.json_text import RULES

    return RULES
