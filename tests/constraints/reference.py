"""Languages by brute force: what a grammar tree says, read off it as slowly and plainly as can be."""

from __future__ import annotations

from hypothesis import strategies as st

from unmask.constraints.expr import Alt, Bytes, Chars, Expr, Ref, Repeat, Seq, Source
from unmask.constraints.vocabulary import Vocabulary

LETTERS = "ab"
RULES = ("S", "A", "B")


def texts(source: Source, longest: int) -> frozenset[bytes]:
    """All texts of the language of at most so many bytes: the least fixpoint of its rules."""
    known: dict[str, frozenset[bytes]] = dict.fromkeys(source.rules, frozenset())
    while True:
        found = {name: derive(expr, known, longest) for name, expr in source.rules.items()}
        if found == known:
            return known[source.start]
        known = found


def derive(expr: Expr, known: dict[str, frozenset[bytes]], longest: int) -> frozenset[bytes]:
    if isinstance(expr, Bytes):
        return frozenset({expr.data} if len(expr.data) <= longest else ())
    if isinstance(expr, Chars):
        every = [chr(point).encode() for low, high in expr.ranges for point in range(low, high + 1)]
        return frozenset(data for data in every if len(data) <= longest)
    if isinstance(expr, Ref):
        return known[expr.name]
    if isinstance(expr, Alt):
        return frozenset().union(*(derive(part, known, longest) for part in expr.parts))
    if isinstance(expr, Seq):
        found = frozenset({b""})
        for part in expr.parts:
            found = joined(found, derive(part, known, longest), longest)
        return found
    assert isinstance(expr, Repeat)
    body = derive(expr.body, known, longest)
    layers = [frozenset({b""})]
    while expr.most is None or len(layers) <= expr.most:
        layers.append(joined(layers[-1], body, longest))
        if len(layers) > max(longest, expr.least) + 1:
            break
    return frozenset().union(*layers[expr.least :])


def joined(one: frozenset[bytes], other: frozenset[bytes], longest: int) -> frozenset[bytes]:
    return frozenset(a + b for a in one for b in other if len(a) + len(b) <= longest)


def spellings(vocabulary: Vocabulary, text: bytes) -> int | None:
    """Fewest tokens that spell a text."""
    if not text:
        return 0
    ways = [spellings(vocabulary, text[len(word) :]) for word in vocabulary.ids if text.startswith(word)]
    return min((1 + way for way in ways if way is not None), default=None)


def exprs(names: tuple[str, ...] = RULES) -> st.SearchStrategy[Expr]:
    leaves: st.SearchStrategy[Expr] = st.one_of(
        st.text(LETTERS, max_size=2).map(lambda text: Bytes(text.encode())),
        st.sampled_from([Chars(((97, 98),)), Chars(((97, 97), (0xE9, 0xE9)))]),
        st.sampled_from(names).map(Ref) if names else st.just(Bytes(b"a")),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: Seq(tuple(parts))),
            st.lists(inner, max_size=3).map(lambda parts: Alt(tuple(parts))),
            st.tuples(inner, st.integers(0, 2), st.sampled_from([0, 1, None])).map(
                lambda found: Repeat(found[0], found[1], None if found[2] is None else found[1] + found[2])
            ),
        ),
        max_leaves=6,
    )


sources = st.tuples(*[exprs()] * len(RULES)).map(lambda found: Source(dict(zip(RULES, found, strict=True)), "S"))
regulars = exprs(()).map(lambda expr: Source({"S": expr}, "S"))
vocabularies = st.lists(st.text(LETTERS, min_size=2, max_size=4), max_size=4).map(
    lambda words: Vocabulary((b"", b"a", b"b", "é".encode()[:1], "é".encode()[1:], *(w.encode() for w in words)))
)
