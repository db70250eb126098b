"""What is meant to take for ever: refused with its cause, or small. The time limit of tests would tell of a hang."""

from __future__ import annotations

import re
from typing import Any

import lark
import pytest

from tests.constraints.walks import BYTES, accepts, columns_of
from unmask.constraints import Compiler, ConstraintError, Grammar, JsonSchema, Regex, check, spec_of
from unmask.constraints.check import of_json
from unmask.constraints.lark_size import Size, bodies_of, limit_size, whole
from unmask.constraints.regex import both_cases, effort
from unmask.constraints.vocabulary import MOST_KEPT, Kept


def schema(rules: Any) -> JsonSchema:
    made = spec_of({"type": "json_schema", "schema": rules})
    assert isinstance(made, JsonSchema)
    return made


def chained(levels: int, link: Any) -> dict[str, Any]:
    """Definitions d0, d1, ... each of which is `link` of a reference to the next."""
    defs = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(levels)}
    return {"$defs": {**defs, f"d{levels}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def twice(inner: Any) -> Any:
    """An object that has `inner` in two places, each put together with something, so that nothing is shared."""
    return {"properties": {name: {"allOf": [inner, {"type": ["object", "null"]}]} for name in "ab"}}


def wide(inner: Any) -> Any:
    return {
        "type": "object",
        "properties": {f"n{i}": inner for i in range(10)},
        "required": [f"n{i}" for i in range(10)],
    }


SCHEMAS: dict[str, tuple[Any, str]] = {
    "long list": ({"enum": [f"{i}" for i in range(20_000)]}, "has a list of 20000 entries; at most 2000 are taken"),
    "mixed list": ({"required": [i if i % 2 else f"{i}" for i in range(300)]}, "300 entries that are not all texts or"),
    "branches": ({"oneOf": [{"const": i} for i in range(5_000)]}, "5000 entries that are not all texts or all numbers"),
    "references": (chained(60, twice), "has more than 30000 states"),
    "comparing": (
        {"$defs": chained(12, wide)["$defs"], "oneOf": [{"$ref": "#/$defs/d0"}] * 2},
        "the constraint is too large: building its automaton takes too many steps",
    ),
    "pattern": (
        {"enum": ["a" * 60 + "!"], "pattern": "^(a+)+$"},
        "#/enum cannot be compared with what stands beside it: Python's re might take too long to judge a pattern",
    ),
    "pattern inside": (
        {"const": {"a": "a" * 60}, "properties": {"a": {"patternProperties": {"(a+)+$": {}}}}},
        "#/const cannot be compared with what stands beside it: Python's re might take too long",
    ),
    "loop": (
        {"const": {"a": 1}, "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
        "#/const cannot be compared with what stands beside it: it is nested too deeply for jsonschema",
    ),
    "far away": (
        {"const": {"a": 1}, "properties": {"a": {"$ref": "http://localhost/secret"}}},
        "#/const cannot be compared with what stands beside it: jsonschema cannot follow a reference",
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("nothing is fetched"))
    rules, reason = SCHEMAS[name]
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        columns_of(schema(rules))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"\W" * 90_000, "is too large: its classes have too many ranges"),
        ("".join(rf"[\W{letter}]" for letter in "abcdefghij" * 1000), "is too large: its classes have too many ranges"),
        ("(?i)" + "[a-\uffff]" * 20_000, "is too large: its classes have too many ranges"),
        ("x" * 100_000 + "(?:" + "ab|" * 30_000 + "c)", "is too large"),
    ],
    ids=["classes", "other classes", "cases", "branches"],
)
def test_patterns(pattern: str, reason: str) -> None:
    with pytest.raises(ConstraintError, match=reason):
        columns_of(Regex(pattern))


def test_a_judge_that_cannot_say_says_so() -> None:
    """Data that looks like a broken pattern, and texts that are nested about as deeply as Python goes."""
    assert of_json('{"enum": [{"pattern": "("}]}', "1").status == "unknown"
    found = {of_json('{"pattern": "a"}', "[" * deep + "]" * deep).status for deep in range(900, 1100)}
    assert found <= {"satisfied", "unknown"}


def test_a_loop_behind_the_same_loop_adds_nothing() -> None:
    sizes = {len(columns_of(Regex("(a|b|ab)*" * many + "c{60}")).grammar.edges) for many in (1, 15, 60)}
    assert len(sizes) == 1


def test_many_ways_to_cut_a_suffix() -> None:
    """Each of a thousand places of the suffix has a thousand where the rule may end."""
    grammar = Grammar('root ::= "x" b\nb ::= "" | a b\na ::= [a-z] | [a-z] a', "gbnf")
    compiler = Compiler(BYTES)
    with pytest.raises(ConstraintError, match="takes too many steps"):
        compiler.start(grammar, (), 20, after=b"a" * 1000)
    assert compiler.start(grammar, (), 20, after=b"a" * 20)


@pytest.mark.parametrize("begin", ["start:", "  start:", "%override start:", "%extend start:", "\t?start :"])
def test_a_large_rule_is_seen_however_it_begins(begin: str) -> None:
    before = 'start: "x"\n' if begin.startswith("%") else ""
    with pytest.raises(ConstraintError, match="the grammar is too large"):
        limit_size(f"{before}{begin} " + " ".join(['("a"|"b")'] * 12))


@pytest.mark.parametrize("counts", ["~30)~40", "~40)~49", "~2..49)~48..49"])
def test_repetitions_beyond_what_a_number_can_say(counts: str) -> None:
    with pytest.raises(ConstraintError, match="the grammar is too large"):
        limit_size(f'start: (("a"|"b"){counts}')


def test_a_catastrophic_pattern_is_an_ordinary_language() -> None:
    """Nothing here backtracks; only the judge must not be asked."""
    columns = columns_of(Regex("((a+)+)+b"))
    assert len(columns.grammar.edges) < 10
    assert accepts(columns, "a" * 5000 + "b")
    assert check(Regex("((a+)+)+b"), "a" * 5000 + "b").status == "unknown"
    assert effort("((a*)(a*)(a*)){1,300}", 300) == float("inf"), "and its effort is no number too large for one"


def test_letters_of_two_cases_are_known_once() -> None:
    points, others = both_cases()
    assert points == sorted(points)
    assert others[points.index(ord("k"))] == (ord("K"),)
    assert all(chr(point).lower() == chr(point) == chr(point).upper() for point in range(0x20000, 0x110000))


def test_a_long_chain_of_rules() -> None:
    """And of as many that all begin something, of which those that end soonest are kept."""
    chain = "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000))
    assert accepts(columns_of(Grammar(f'{chain}\nr3000 ::= "a" root?\nroot ::= r0 "c"', "gbnf")), "aacc")
    several = "\n".join(f'r{i} ::= r{i + 1} | "b"' for i in range(3000))
    columns = columns_of(Grammar(f'{several}\nr3000 ::= "a" root?\nroot ::= r0 "c"', "gbnf"))
    assert accepts(columns, "bc")
    assert len(columns.first.pairs) <= 400


LARKS = [
    ("start: " + '("a" | "b") ' * 30, "'start' stands for more than 2000 alternatives"),
    ("start: " + '["a"] ' * 30, "'start' stands for more than 2000 alternatives"),
    ('start: ("a" | "b")~40', "'start' stands for more than 2000 alternatives"),
    ('start: x\nx: (("a"? "b"?)~3)+', ""),
    ('start: ("c" (' + '"a"? ' * 20 + '"d")+)', "'start' stands for more than 2000 alternatives"),
    (
        "start: A0\n" + "\n".join(f"A{i}: A{i + 1} A{i + 1}" for i in range(40)) + '\nA40: "a"',
        "the terminal A0 has more than 100000 characters",
    ),
    ('start: x{"a"}\nx{p}: y{p}\ny{p}: p', "uses a template in the template 'x'"),
    ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "the grammar is nested too deeply"),
    ("start: A0\n" + "\n".join(f"A{i}: A{i + 1}" for i in range(5000)) + '\nA5000: "a"', "nested too deeply"),
]


@pytest.mark.parametrize(("text", "reason"), LARKS, ids=range(len(LARKS)))
def test_lark_grammars(text: str, reason: str) -> None:
    if not reason:
        limit_size(text)
        return
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        columns_of(Grammar(text, "lark"))


@pytest.mark.parametrize(
    "body",
    [
        '"a" | "b"',
        '"a" ("b" | "c" "d") "e"?',
        '("a" | "b") ("c" | "d")* ["e"]',
        'x+ ("a"~1..3) x~2 -> named',
        '/[a|b(]/ "(|" // a | b\n | "c"? ("d" | "e")',
        '("a" | "b")~2..3',
        '"a".."c" (x | ("y" | "z") "w"?)',
    ],
)
def test_alternatives_are_counted_as_lark_writes_them_out(body: str) -> None:
    text = f'start: {body}\nx: "x"'
    rules = lark.Lark(text, parser="earley", lexer="dynamic_complete").rules
    found = whole(bodies_of(text)[0]["start"], lambda _: Size())
    assert found.ways == sum(rule.origin.name == "start" for rule in rules)


def test_the_judge_of_a_finished_text_comes_to_an_end() -> None:
    """Every level is looked at twice by jsonschema: a text of 60 levels would take it for ever."""
    inner = {"$ref": "#/$defs/t"}
    branches = [
        {"properties": {"a": inner}, "required": ["a", "b"]},
        {"type": ["object", "null"], "properties": {"a": inner}},
    ]
    rules = {"$defs": {"t": {"anyOf": branches}}, "$ref": "#/$defs/t"}
    text = '{"a":' * 60 + "{}" + "}" * 60
    assert check(schema(rules), text).status == "unknown"
    assert check(schema(rules), '{"a": {"a": {}}}').status == "satisfied"
    nested = {"$defs": {"t": {"$schema": "http://json-schema.org/draft-07/schema#", "anyOf": branches}}, **inner}
    assert check(schema(nested), text).status == "unknown", "whatever dialect a part claims"


def test_languages_are_kept_within_bounds() -> None:
    compiler = Compiler(BYTES)
    for number in range(40):
        compiler.start(spec_of({"type": "json_schema", "schema": {"type": "string", "maxLength": number + 1}}), (), 99)
    assert len(compiler._kept) <= 16
    assert len(BYTES.kept) <= MOST_KEPT


def test_what_was_used_last_is_kept() -> None:
    kept = Kept()
    for key in range(MOST_KEPT + 9):
        kept.put(key, -key)
        assert kept.get(0) == 0
    assert len(kept) == MOST_KEPT
    assert kept.get(9) is None
    assert kept.get(MOST_KEPT) == -MOST_KEPT
