"""Token healing and fill-in-the-middle tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.text.vocabularies import BYTES, PIECES
from unmask.text import Tokenizer
from unmask.text.fim import FAMILIES, Fim, fim_of
from unmask.text.healing import Healer
from unmask.types import contains

HEALER = Healer(BYTES, never=0)
texts = st.text("the a\n", min_size=1, max_size=8)


@given(texts)
def test_what_is_cut_off_is_asked_for_again(text: str) -> None:
    ids = BYTES.encode(text)
    kept, written = HEALER.begin(ids)
    assert BYTES.decode(kept) + written.decode() == text
    assert len(kept) == len(ids) or (len(kept) == len(ids) - 1 and kept)
    if written:
        assert any(token != written and token.startswith(written) for token in HEALER.tokens)


def test_a_prompt_that_cannot_be_healed_stays() -> None:
    assert HEALER.begin(BYTES.encode("t")) == (BYTES.encode("t"), b"")  # nothing would be left
    end = BYTES.core.get_vocab()["<|im_end|>"]
    assert HEALER.begin((5, end)) == ((5, end), b"")
    assert HEALER.begin(BYTES.encode("aq")) == (BYTES.encode("aq"), b"")  # no token goes on from there
    half = BYTES.core.get_vocab()["Ã"]
    assert HEALER.begin((5, half)) == ((5, half), b"")
    assert HEALER.begin((5, 9999)) == ((5, 9999), b"")


@given(st.sampled_from([b"t", b"th", b"the", b" ", b" t", b"\n", b"ab"]), st.integers(0, 5))
def test_exactly_the_tokens_that_lead_on_are_allowed(written: bytes, budget: int) -> None:
    place = HEALER.start(written)
    assert not place.accepting
    assert not place.over(budget)
    allowed = place.allowed(budget)
    for id, token in enumerate(HEALER.tokens):
        leads = bool(token) and (token.startswith(written) or written.startswith(token))
        assert contains(allowed, id) == leads
        after = place.take(id, budget)
        assert (after is not None) == leads
        if after is not None:
            assert after.accepting == token.startswith(written)
            assert not after.accepting or all(contains(after.allowed(3), other) for other in range(len(HEALER.tokens)))
    way = place.ending(9, 4)
    assert len(way) == 4
    assert b"".join(HEALER.tokens[id] for id in way).startswith(written)
    assert len(place.ending(1)) == 1
    assert place.take(9999, 3) is None


@given(st.lists(st.lists(st.integers(1, 260), min_size=1, max_size=4), min_size=1, max_size=6), st.integers(0, 5))
def test_a_block_is_filled_with_what_leads_on(slots: list[list[int]], seed: int) -> None:
    """The first proposals that may stand there; where there is none, what was known or what is shortest."""
    written = [b"t", b"the", b" t"][seed % 3]
    place = HEALER.start(written)
    known = place.ending(20, len(slots))
    way = place.fill([[(id, 0.0) for id in slot] for slot in slots], known, 20, len(slots))
    assert len(way) == len(slots)
    text = b"".join(HEALER.tokens[id] for id in way)
    assert text.startswith(written) or written.startswith(text)
    at = place
    for id, slot in zip(way, slots, strict=True):
        fits = [one for one in slot if at.take(one, 20) is not None]
        assert not fits or id == fits[0]
        after = at.take(id, 20)
        assert after is not None
        at = after


def with_tokens(base: Tokenizer, *names: str) -> Tokenizer:
    core = type(base.core).from_str(base.core.to_str())
    core.add_special_tokens(list(names))
    return replace(base, core=core)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family[0])
def test_families_of_fill_in_the_middle_tokens(family: Any) -> None:
    prefix, suffix, middle, ends, orders = family
    tokenizer = with_tokens(BYTES, prefix, suffix, *([middle] if middle else []), *ends)
    ids = tokenizer.core.get_vocab()
    found = fim_of(tokenizer)
    assert found == Fim(
        ids[prefix], ids[suffix], ids[middle] if middle else None, tuple(ids[name] for name in ends), orders
    )
    text = [tokenizer.decode(found.prompt((1, 2), (3,), order), skip_special=False) for order in found.orders]
    before, after = BYTES.decode((1, 2)), BYTES.decode((3,))
    wanted = {
        "psm": f"{prefix}{before}{suffix}{after}{middle}",
        "spm": f"{prefix}{suffix}{after}{middle}{before}" if middle else f"{suffix}{after}{prefix}{before}",
    }
    assert text == [wanted[order] for order in found.orders]
    with pytest.raises(ValueError, match="layout must be"):
        found.prompt((1,), (2,), "msp")


def test_no_tokens_no_middle() -> None:
    assert fim_of(BYTES) is None
    assert fim_of(PIECES) is None
    assert fim_of(with_tokens(BYTES, "<fim_prefix>", "<fim_suffix>")) is None
