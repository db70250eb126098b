"""Texts with holes, texts before a suffix and blocks with tokens placed, each against trying everything."""

from __future__ import annotations

import re
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.constraints.reference import regulars, sources, texts, vocabularies
from unmask.constraints.blocks import floor_of
from unmask.constraints.canvas import Hole, fill
from unmask.constraints.columns import Columns
from unmask.constraints.expr import ConstraintError, Source
from unmask.constraints.grammar import Grammar, compile_source
from unmask.constraints.masks import Masks
from unmask.constraints.matcher import Language, Place
from unmask.constraints.vocabulary import Vocabulary
from unmask.types import Ids

LONGEST = 7
pieces = st.one_of(
    st.text("ab", max_size=2).map(str.encode),
    st.tuples(st.integers(0, 2), st.sampled_from([0, 1, None])).map(
        lambda found: Hole(found[0], None if found[1] is None else found[0] + found[1])
    ),
)


def compiled(source: Source, suffix: bytes = b"") -> Grammar | None:
    try:
        return compile_source(source, suffix)
    except ConstraintError as error:
        assert "allows no text" in str(error)  # noqa: PT017  (nothing this small is refused for its size)
        return None


@settings(max_examples=60, deadline=None)
@given(sources, st.lists(pieces, max_size=5))
def test_the_lightest_filling(source: Source, canvas: list[bytes | Hole]) -> None:
    grammar, known = compiled(source), texts(source, LONGEST)
    pattern = b"".join(
        re.escape(piece)
        if isinstance(piece, bytes)
        else b"([\\s\\S]{%d,%s})" % (piece.least, b"%d" % piece.most if piece.most is not None else b"")
        for piece in canvas
    )
    fixed = sum(len(piece) for piece in canvas if isinstance(piece, bytes))
    lightest = min((len(text) - fixed for text in known if re.fullmatch(pattern, text)), default=None)
    found = None if grammar is None else fill(grammar, canvas)
    if found is None:
        assert lightest is None
        return
    parts = iter(found)
    text = b"".join(piece if isinstance(piece, bytes) else next(parts) for piece in canvas)
    assert re.fullmatch(pattern, text)
    if len(text) <= LONGEST:
        assert text in known
        assert sum(map(len, found)) == lightest
    else:
        assert lightest is None
        column = Columns(grammar, BYTES)  # type: ignore[arg-type]
        end = column.walk(column.first, text)
        assert end is not None
        assert end.accepting


BYTES = Vocabulary((b"a", b"b", "é".encode()[:1], "é".encode()[1:]))


@settings(max_examples=60, deadline=None)
@given(sources, st.text("ab", min_size=1, max_size=3).map(str.encode))
def test_texts_before_a_suffix(source: Source, suffix: bytes) -> None:
    known = {text[: -len(suffix)] for text in texts(source, LONGEST) if text.endswith(suffix)}
    grammar = compiled(source, suffix)
    if grammar is None:
        assert not known
        return
    columns = Columns(grammar, BYTES)
    for size in range(LONGEST - len(suffix) + 1):
        for letters in product(b"ab", repeat=size):
            column = columns.walk(columns.first, bytes(letters))
            assert (column is not None and column.accepting) == (bytes(letters) in known)


SLOTS = st.lists(
    st.one_of(st.just(None), st.integers(1, 6)), min_size=1, max_size=4
)  # the rank of a placed token, or nothing placed
STOP = 0


@settings(max_examples=60, deadline=None)
@given(st.one_of(regulars, sources), vocabularies, SLOTS, st.integers(0, 9), st.integers(0, 4), st.data())
def test_a_block_is_filled_as_well_as_can_be(
    source: Source, vocabulary: Vocabulary, placed: list[int | None], salt: int, spare: int, data: st.DataObject
) -> None:
    grammar = compiled(source)
    if grammar is None:
        return
    columns = Columns(grammar, vocabulary)
    stops = (STOP,) if data.draw(st.booleans()) else ()
    start = Language(columns, Masks(columns), stops).start()
    budget = len(placed) + spare
    if not start.fits(budget):
        return
    every = ways(start, len(placed), budget)
    known = start.ending(budget, len(placed))[: len(placed)]
    assert known in every
    chosen = data.draw(st.sampled_from(sorted(every)))
    slots: list = [
        chosen[i] if rank is not None and i < len(chosen) else proposals(i, salt, vocabulary.size)
        for i, rank in enumerate(placed)
    ]
    fixed = [token if isinstance(token, int) else None for token in slots]
    fitting = [way for way in every if all(t is None or (i < len(way) and way[i] == t) for i, t in enumerate(fixed))]
    placed_up_to = max((i + 1 for i, token in enumerate(fixed) if token is not None), default=0)
    reach = data.draw(st.integers(placed_up_to, len(placed)))
    found = start.fill(slots, chosen[:reach], budget, len(slots))
    assert found in fitting
    upto = data.draw(st.integers(reach, len(placed)))
    begun = start.fill(slots, chosen[:reach], budget, upto)
    assert any(way[: len(begun)] == begun for way in fitting), "what is left out can still be filled"
    assert len(begun) >= upto or begun in fitting
    best = max(score(way, slots, stops) for way in fitting)
    if reach >= len(chosen):
        assert score(found, slots, stops) >= score(chosen, slots, stops) - 1e-9
    if grammar.regular:
        assert abs(score(found, slots, stops) - best) < 1e-9


@settings(max_examples=60, deadline=None)
@given(sources, vocabularies, st.lists(st.integers(0, 8), max_size=4))
def test_a_way_out_gets_shorter_with_every_token(source: Source, vocabulary: Vocabulary, tokens: list[int]) -> None:
    grammar = compiled(source)
    if grammar is None:
        return
    columns = Columns(grammar, vocabulary)
    place: Place | None = Language(columns, Masks(columns), ()).start()
    for token in tokens:
        assert place is not None
        place = place.take(token, 99) or place
    while place is not None and not place.accepting:
        assert place.column is not None
        budget = place.column.cost
        place = place.take(place.outward(budget), budget)
    assert place is not None


def proposals(slot: int, salt: int, size: int) -> tuple[tuple[int, float], ...]:
    first = (slot * 3 + salt) % size
    return ((first, -0.7), ((first + 1 + salt % 2) % size, -2.0))


def ways(place: Place, slots: int, budget: int) -> list[Ids]:
    """All ways through a block, by trying every token."""
    if slots == 0 or place.over(budget):
        return [()]
    found = list[Ids]()
    for token in range(place.language.columns.vocabulary.size):
        after = place.take(token, budget)
        if after is not None:
            found += [(token, *rest) for rest in ways(after, slots - 1, budget - 1)]
    return found


def score(way: Ids, slots: list, stops: Ids) -> float:
    total = 0.0
    for i, slot in enumerate(slots):
        if isinstance(slot, int):
            continue
        scores = dict(slot)
        if i < len(way):
            total += max(scores.get(way[i], floor_of(slot)), floor_of(slot))
        else:
            total += max([floor_of(slot), *(scores[token] for token in stops if token in scores)])
    return total
