"""Lark and GBNF grammars: read as their authors mean them, or refused with the reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.walks import accepts, columns_of, text_of
from unmask.constraints import ConstraintError, Grammar, check, spec_of
from unmask.constraints.lark_syntax import parser

SUMS = """
start: sum
?sum: product | sum "+" product -> add
?product: atom | product "*" atom
?atom: NUMBER | "-" atom | "(" sum ")"
%import common.NUMBER
%import common.WS_INLINE
%ignore WS_INLINE
"""
LETTERS = """
start: pair ("," pair)*
pair: KEY "=" [VALUE] tail~1..2
tail: "!" | "?"i | /[x-z]+/
KEY: /[a-c]/
VALUE: KEY "0".."9"
"""
NAMES = 'start: "{" (pair ("," pair)*)? "}"\npair: ESCAPED_STRING ":" start | INT\n%import common (ESCAPED_STRING, INT)'
LARKS = {"sums": SUMS, "letters": LETTERS, "names": NAMES, "words": "start: WORD (WORD)*\nWORD: /[ab]+/ /c?/"}


def lark(text: str) -> Grammar:
    return Grammar(text, "lark")


def gbnf(text: str) -> Grammar:
    return Grammar(text, "gbnf")


@pytest.mark.parametrize("name", LARKS)
def test_lark_parses_the_texts(name: str) -> None:
    for seed in range(25):
        text = text_of(lark(LARKS[name]), seed, budget=40)
        assert check(lark(LARKS[name]), text).status == "satisfied", text


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["sums", "letters", "words"]), st.text("abc01+*(-) =!xz,", max_size=7))
def test_texts_are_those_that_lark_parses(name: str, text: str) -> None:
    expected = check(lark(LARKS[name]), text).status == "satisfied"
    assert accepts(columns_of(lark(LARKS[name])), text) == expected


def test_a_quoted_string_of_lark_is_one_without_looking_behind() -> None:
    columns = columns_of(lark("start: ESCAPED_STRING\n%import common.ESCAPED_STRING"))
    assert all(accepts(columns, text) for text in ('""', '"a"', '"a\\"b"', '"\\\\"'))
    assert not any(accepts(columns, text) for text in ('"', '"a"b"', '"\\"', "a"))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ('root ::= "a" | "b" root', ["a", "bba"], ["", "ab"]),
        ('root ::= [a-c]+ ("," [^a-z\\]] )? # so\n', ["abc", "a,0"], ["a,b", ",", "a,]"]),
        ('root ::= x{2} y{1,} z{0,2}\nx ::= "x"\ny ::= "y"\nz ::= "z"', ["xxy", "xxyyzz"], ["xy", "xxzz", "xxyzzz"]),
        ('root ::= "\\x41\\u00e9\\n\\"" .', ['Aé\n"!'], ["Aé"]),
        ("root ::= [\\-a]+ | ( )", ["-a", ""], ["b"]),
        ('root ::= root "+" root | [0-9]', ["1", "1+2+3"], ["1+", "+"]),
        ("root-1 ::= [x]\nroot ::= root-1", ["x"], ["y"]),
    ],
)
def test_gbnf(text: str, inside: list[str], outside: list[str]) -> None:
    columns = columns_of(gbnf(text))
    for sample in inside:
        assert accepts(columns, sample), sample
    for sample in outside:
        assert not accepts(columns, sample), sample


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (lark("start: a"), "the grammar is wrong: Rule 'a' used but not defined"),
        (lark("start: ("), "the grammar is wrong: Unclosed parenthesis"),
        (lark('begin: "a"'), "the grammar is wrong"),
        (lark("start: /a(?=b)/"), "uses lookahead and lookbehind"),
        (lark("start: A\n%import .secret (A)"), "imports '.secret'; only Lark's own libraries can be imported"),
        (lark("start: A\n%import /etc/passwd.A"), "only Lark's own libraries can be imported"),
        (lark('start: "a" ~ 1..100000'), "repeats something 100000 times; at most 1000"),
        (lark("start: start"), "its language is empty"),
        (lark('start: "a" start'), "its language is empty"),
        (lark("start: /" + "(x" * 200 + ")" * 200 + "/"), "levels of nesting"),
        (gbnf('root = "a"'), "is wrong in line 1"),
        (gbnf('root ::= "a'), "is wrong in line 1"),
        (gbnf('a ::= "a"'), "has no rule 'root'"),
        (gbnf("root ::= b"), "has no rule 'b'"),
        (gbnf('root ::= "a" )'), "a closing parenthesis has no opening one"),
        (gbnf('root ::= ( "a"'), "it is not closed"),
        (gbnf("root ::= *"), "nothing stands before it"),
        (gbnf("root ::= [b-a]"), "a range runs backwards"),
        (gbnf('root ::= "a"{3,1}'), "the second number is below the first"),
        (gbnf('root ::= "a"{}'), "a number is expected"),
        (gbnf('root ::= "a"\nroot ::= "b"'), "the rule 'root' is given twice"),
        (gbnf("root ::= " + "(" * 500 + '"a"' + ")" * 500), "parentheses are nested more than"),
        (gbnf('root ::= "a"{1000}{1000}'), "too large"),
        (
            gbnf("\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)) + '\nr40 ::= "a"\nroot ::= r0'),
            "has 1073741824 bytes or more",
        ),
        (
            gbnf("\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(20)) + '\nr20 ::= "a"\nroot ::= r0'),
            "needs about 1048576",
        ),
        (gbnf('root ::= ""'), "no text but the empty one"),
        (gbnf('root ::= "' + "a" * 300_000 + '"'), "more than 200000 characters"),
    ],
)
def test_refusals_name_their_cause(grammar: Grammar, reason: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        text_of(grammar, 0)


def test_an_ambiguous_grammar_stays_small() -> None:
    """Exponentially many parses, and texts that can still be anything: a column holds no more than its bound."""
    text = 'root ::= "a" root root | "a" x | "b" root y root | "a"\nx ::= "c" root\ny ::= root | x root | ""'
    columns = columns_of(gbnf(text))
    column = columns.first
    for byte in b"ab" * 100 + b"a" * 100:
        after = columns.step(column, byte)
        assert after is not None
        assert len(after.pairs) <= 400
        column = after
    assert columns.ending(column) is not None


def test_syntax_is_told_from_the_text() -> None:
    assert spec_of({"type": "grammar", "text": "root ::= [a]"}) == gbnf("root ::= [a]")
    assert spec_of({"type": "grammar", "text": 'start: "a"'}) == lark('start: "a"')
    assert parser(SUMS) is parser(SUMS)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("regex", "must be an object with a type"),
        ({"type": "xml"}, "type must be one of regex, choice, json_schema, json_object, grammar, got 'xml'"),
        ({"type": "regex"}, "a constraint of type 'regex' needs the field 'pattern'"),
        ({"type": "regex", "pattern": "a", "flags": "i"}, "has no field 'flags'; it has: pattern"),
        ({"type": "regex", "pattern": 3}, "pattern must be text, got 3"),
        ({"type": "choice", "values": []}, "values must be a list of at least one text"),
        ({"type": "choice", "values": "ab"}, "values must be a list of at least one text"),
        ({"type": "choice", "values": [1]}, "values must be texts, got 1"),
        ({"type": "json_schema", "schema": "{"}, "schema is no JSON"),
        ({"type": "json_schema", "schema": [1]}, "schema must be an object, got [1]"),
        ({"type": "grammar", "text": "a", "syntax": "bnf"}, "syntax must be 'lark' or 'gbnf', got 'bnf'"),
        ({"type": "regex", "pattern": "\ud800"}, "holds a lone surrogate"),
    ],
)
def test_specs_that_are_wrong(given: dict, reason: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(reason)):
        spec_of(given)
