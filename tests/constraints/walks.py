"""Random texts of a language, byte by byte or token by token, and a vocabulary of single bytes."""

from __future__ import annotations

import random

from unmask.constraints import Compiler, Spec, Vocabulary
from unmask.constraints.columns import Column, Columns
from unmask.constraints.compiler import source_of
from unmask.constraints.grammar import compile_source
from unmask.constraints.matcher import Place

BYTES = Vocabulary(tuple(bytes((byte,)) for byte in range(256)))
_compiler = Compiler(BYTES)


def columns_of(spec: Spec) -> Columns:
    return Columns(compile_source(source_of(spec)), BYTES)


def reads(columns: Columns, text: str | bytes) -> Column | None:
    return columns.walk(columns.first, text.encode() if isinstance(text, str) else text)


def accepts(columns: Columns, text: str | bytes) -> bool:
    column = reads(columns, text)
    return column is not None and column.accepting


def ids(bits: bytes) -> list[int]:
    return [8 * i + bit for i, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1]


def text_of(spec: Spec, seed: int, budget: int = 200, compiler: Compiler = _compiler) -> str:
    """A random text of at most so many tokens. All byte classes are equally likely, or texts were all letters."""
    chance = random.Random(seed)
    place = compiler.start(spec, (), budget)
    data, klass = bytearray(), place.language.columns.grammar.klass
    while not place.over(budget):
        if place.accepting and chance.random() < 0.2:
            break
        groups = dict[int, list[int]]()
        for token in ids(place.allowed(budget)):
            groups.setdefault(klass[compiler.vocabulary.tokens[token][0]], []).append(token)
        token = chance.choice(groups[chance.choice(sorted(groups))])
        after = place.take(token, budget)
        assert isinstance(after, Place)
        data += compiler.vocabulary.tokens[token]
        place, budget = after, budget - 1
    assert place.accepting
    return data.decode()
