"""Log-likelihoods of candidates: the numbers of a dense forward, however they share rows, forwards and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tinymodel import VOCABULARY, write_model
from unmask import LM
from unmask.lm.ranking import Piece, likelihoods, log_likelihoods, pieces
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch
from unmask.types import Ids


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return LM.load(write_model(tmp_path_factory.mktemp("plain")), dtype="float32", max_tokens_cached=1024)


def dense(lm: LM, ids: Ids, first: int) -> list[float]:
    n = len(ids)
    with torch.no_grad():
        hidden = lm.decoder(Batch(torch.tensor(ids), torch.arange(n), n - 1), dense_attend(np.tri(n, dtype=np.bool_)))
        logs = lm.decoder.logits(hidden).double().log_softmax(dim=-1)
    return [float(logs[i - 1, ids[i]]) for i in range(first, n)]


def some_ids(seed: int, count: int) -> Ids:
    return tuple(np.random.default_rng(seed).integers(0, VOCABULARY - 4, count).tolist())


@pytest.mark.parametrize("chunk", [4, 32, 256])
@pytest.mark.parametrize("start", [1, 5, 70, 130])
def test_several_texts_at_once(lm: LM, chunk: int, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm.engine, "config", replace(lm.engine.config, prefill_chunk=chunk))
    head = some_ids(start, start)
    texts = [
        (head + some_ids(i, size), first) for i, (size, first) in enumerate([(9, start), (3, start), (40, start + 2)])
    ]
    texts += [(head[:start], start), texts[0]]  # one with nothing to tell, one twice
    for _ in range(2):  # the second time the memory may know the beginning
        found = log_likelihoods(lm, texts)
        for (ids, first), each in zip(texts, found, strict=True):
            assert each == pytest.approx(dense(lm, ids, first), abs=1e-4)
        lm.generate(head, mode="ar", max_tokens=1)
    assert lm.engine.pages.in_use == 0


def test_nothing_to_tell(lm: LM) -> None:
    assert log_likelihoods(lm, []) == []
    assert log_likelihoods(lm, [((1, 2), 2)]) == [[]]


def test_too_little_memory_is_an_error_and_keeps_nothing(lm: LM) -> None:
    with pytest.raises(ValueError, match="tokens do not fit the key/value memory"):
        log_likelihoods(lm, [(some_ids(0, 2000), 3)])
    assert lm.engine.pages.in_use == 0


def test_groups_shrink_to_the_memory_there_is(lm: LM) -> None:
    head = some_ids(1, 900)
    texts = [(head + some_ids(i, 60), 900) for i in range(4)]
    found = log_likelihoods(lm, texts)
    assert [len(each) for each in found] == [60] * 4
    assert found[1] == pytest.approx(log_likelihoods(lm, texts[1:2])[0], abs=1e-4)


def test_middles_and_what_follows_them(lm: LM) -> None:
    """Together they are the log-likelihood of everything behind the token that leads into the middle."""
    prefix, suffix = "the cat and", " the dog and the bird"
    middles = [" a b", " the", "", "é\n"]
    for middle, found in zip(middles, likelihoods(lm, prefix, middles, suffix, 3), strict=True):
        ids = lm.encode(prefix + middle + suffix)
        known = len(found.middle) + len(found.suffix)
        assert len(found.suffix) == 3
        cut = next(
            n
            for n in range(len(ids))
            if dense(lm, ids, n)[:known] == pytest.approx([*found.middle, *found.suffix], abs=1e-4)
        )
        assert lm.tokenizer.decode(ids[:cut]) == prefix
        inside = lm.tokenizer.decode(ids[cut : cut + len(found.middle)])
        assert inside == middle


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 20), st.integers(1, 25))
def test_pieces_are_all_rows_once_and_never_too_many(tails: Sequence[int], shared: int, most: int) -> None:
    rows = [(number, shared + tail) for number, tail in enumerate(tails)]
    plans = list(pieces(rows, shared, most))
    done = dict.fromkeys(range(len(tails)), shared)
    for plan in plans:
        assert sum(piece.stop - piece.start for piece in plan) <= most
        assert len({piece.start for piece in plan}) == 1, "all of them go on behind the same kept rows"
        for piece in plan:
            assert isinstance(piece, Piece)
            assert done[piece.text] == piece.start < piece.stop
            done[piece.text] = piece.stop
    assert done == dict(rows)
