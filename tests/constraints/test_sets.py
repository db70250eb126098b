"""Sets of ids: as bytes, as rows of booleans, and at the picks."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from unmask.constraints.matcher import lowest, with_ids
from unmask.engine.readout import Wanted, members, pick
from unmask.types import Read, Request, Sampling, contains

id_sets = st.sets(st.integers(0, 40), min_size=1)


@given(id_sets, st.sets(st.integers(0, 60), max_size=3))
def test_a_set_of_bytes(ids: set[int], more: set[int]) -> None:
    made = with_ids(b"", tuple(ids))
    assert [id for id in range(100) if contains(made, id)] == sorted(ids)
    assert lowest(made) == min(ids)
    both = with_ids(made, tuple(more))
    assert [id for id in range(100) if contains(both, id)] == sorted(ids | more)
    for width in (3, 41, 61, 64):
        assert members([both], width)[0].tolist() == [id in ids | more for id in range(width)]


@given(
    st.lists(st.one_of(st.none(), id_sets), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.1, 1.0, 3.0]),
    st.integers(0, 5),
)
def test_only_allowed_ids_are_picked(sets: list[set[int] | None], temperature: float, seed: int) -> None:
    """A set that is shorter than the vocabulary, rows with and without one, and the numbers that go with a pick."""
    request = Request((1,), 4, sampling=Sampling(temperature, seed=seed))
    read = Read(0, tuple(range(len(sets))), detail=True)
    rows = [
        Wanted(request, read, i, -1, None, allowed=None if ids is None else with_ids(b"", tuple(ids)))
        for i, ids in enumerate(sets)
    ]
    logits = torch.randn(len(sets), 64, generator=torch.Generator().manual_seed(seed))
    packed = pick(logits, rows, 0)
    for i, ids in enumerate(sets):
        if ids is not None:
            assert int(packed[i, 0]) in ids
            probs = logits[i, sorted(ids)].softmax(dim=0)
            assert torch.isclose(packed[i, 1], probs[sorted(ids).index(int(packed[i, 0]))], atol=1e-5)
        elif temperature == 0:
            assert int(packed[i, 0]) == int(logits[i].argmax())
