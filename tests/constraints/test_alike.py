"""What is found once for several languages, and rules that become one: nothing changes by either."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.reference import regulars, sources, texts, vocabularies
from tests.constraints.walks import BYTES
from unmask.constraints import spec_of
from unmask.constraints.alike import numbered
from unmask.constraints.columns import Columns
from unmask.constraints.compiler import source_of
from unmask.constraints.expr import Alt, Bytes, ConstraintError, Expr, Ref, Repeat, Seq, Source
from unmask.constraints.found import Found
from unmask.constraints.grammar import FAR, compile_source
from unmask.constraints.joined import joined
from unmask.constraints.masks import Masks
from unmask.constraints.vocabulary import Vocabulary

LONGEST = 6


@settings(max_examples=100, deadline=None)
@given(sources)
def test_joined_rules_are_the_same_language(source: Source) -> None:
    made = joined(source)
    assert texts(made, LONGEST) == texts(source, LONGEST)
    assert set(made.rules) <= set(source.rules)


def test_what_is_joined() -> None:
    rules: dict[str, Expr] = {
        "S": Seq((Ref("A"), Ref("B"), Ref("B"))),
        "A": Ref("C"),
        "B": Repeat(Ref("S"), 0, 1),
        "C": Bytes(b"ab"),
    }
    assert joined(Source(rules, "S")).rules.keys() == {"S", "B"}, "A and C are called once"
    choice: dict[str, Expr] = {
        "S": Alt((Ref("A"), Ref("C"))),
        "A": Seq((Ref("S"), Bytes(b"a"))),
        "C": Seq((Ref("S"), Bytes(b"b"))),
    }
    assert joined(Source(choice, "S")).rules.keys() == {"S", "A", "C"}, "parts of an alternative stay apart"


def same(one: Found, other: Found, size: int) -> bool:
    def every(found: Found) -> list[int]:
        costs = np.full(size, FAR)
        costs[slice(None) if found.ids is None else found.ids] = found.costs
        return costs.tolist()

    return every(one) == every(other) and all(
        sorted(a.tolist()) == sorted(b.tolist()) for a, b in ((one.ends, other.ends), (one.open, other.open))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(regulars, min_size=2, max_size=3), vocabularies)
def test_states_with_one_number_have_the_same_tokens(several: list[Source], vocabulary: Vocabulary) -> None:
    first, longest = dict[int, Found](), int(vocabulary.trie.depth.max())
    for source in several:
        try:
            masks = Masks(Columns(compile_source(source), vocabulary))
        except ConstraintError:
            continue
        for state, number in numbered(masks.columns, longest).items():
            found = masks.alone(state)
            assert same(first.setdefault(number, found), found, vocabulary.size)


def numbers_of(schema: dict, vocabulary: Vocabulary = BYTES) -> set[int]:
    grammar = compile_source(source_of(spec_of({"type": "json_schema", "schema": schema})))
    return set(numbered(Columns(grammar, vocabulary), int(vocabulary.trie.depth.max())).values())


@settings(max_examples=60, deadline=None)
@given(st.lists(regulars, min_size=2, max_size=3), vocabularies, st.integers(0, 40))
def test_what_differs_in_long_tokens_only(several: list[Source], vocabulary: Vocabulary, most: int) -> None:
    """What is shared is what is found alone, wherever long tokens begin."""
    with mock.patch("unmask.constraints.vocabulary.MOST_LONG", most):
        for source in several:
            try:
                masks = Masks(Columns(compile_source(source), vocabulary))
            except ConstraintError:
                continue
            for state in masks.numbered:
                assert same(masks.shared(state), masks.alone(state), vocabulary.size)


@settings(max_examples=60, deadline=None)
@given(vocabularies, st.integers(0, 40))
def test_the_way_to_long_tokens(vocabulary: Vocabulary, most: int) -> None:
    with mock.patch("unmask.constraints.vocabulary.MOST_LONG", most):
        size, below = vocabulary.trie.long
    long = {data for data in vocabulary.ids if len(data) > size}
    reached, stack = set[bytes](), [(0, b"")]
    while stack:
        node, data = stack.pop()
        reached |= {data} & vocabulary.ids.keys()
        stack += [(after, data + bytes((byte,))) for byte, after in below.get(node, ())]
    assert {data for data in reached if len(data) > size} == long
    assert sum(map(len, below.values())) <= most or size == 0


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ({"type": "string"}, {"type": "array", "items": {"type": "string"}}, True),
        ({"type": "string", "maxLength": 9}, {"properties": {"a": {"type": "string", "maxLength": 7}}}, True),
        ({"type": "string", "minLength": 3, "maxLength": 3}, {"type": "string", "pattern": "^[0-9]*$"}, False),
    ],
)
def test_strings_of_several_schemas_are_the_same(one: dict, other: dict, shared: bool) -> None:
    """With single bytes one byte ahead is all that is compared; with long tokens, as much as these are long."""
    long = Vocabulary((*BYTES.tokens, b'"abcdef"', b"aaaaaa", b'aa":', "\u00e9\u00e9\u00e9".encode()))
    common = numbers_of(one, long) & numbers_of(other, long)
    assert (len(common) > 3) == shared
