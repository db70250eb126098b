"""Pages: owned as often as they are held, reused only for the ids they hold, all free in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from unmask.engine.pages import Pages
from unmask.types import Ids

IDS = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple)
KINDS = st.sampled_from(["causal", "other"])


@dataclass(eq=False)
class Owner:
    ids: Ids
    kind: str
    kept: int
    known: int
    owned: list[int] = field(default_factory=list)


class Model(RuleBasedStateMachine):
    """Beside the pages, what has really been written to each: the whole prefix up to its end, and its kind."""

    owners = Bundle("owners")

    @initialize(count=st.integers(1, 9), size=st.integers(1, 3))
    def begin(self, count: int, size: int) -> None:
        self.pages = Pages(count, size)
        self.content = dict[int, tuple[Ids, str] | None]()
        self.live = list[Owner]()

    @rule(target=owners, ids=IDS, kind=KINDS)
    def arrive(self, ids: Ids, kind: str) -> Owner:
        owned, size = self.pages.reuse(ids, kind), self.pages.size
        assert len(owned) * size < len(ids), "nothing is left to run"
        for i, page in enumerate(owned):
            assert self.content[page] == (ids[: (i + 1) * size], kind), "a page with other ids was reused"
        owner = Owner(ids, kind, len(owned) * size, len(owned), owned)
        self.live.append(owner)
        return owner

    @rule(owner=owners, scratch=st.integers(0, 5), more=IDS)
    def step(self, owner: Owner, scratch: int, more: Ids) -> None:
        """Run all ids and some scratch rows, keep the ids; then there are a few more."""
        before, free, others = list(owner.owned), self.pages.free, self.held(besides=owner)
        rows = len(owner.ids) + scratch
        wanted = max(-(-rows // self.pages.size) - len(before), 0)
        assert self.pages.extend(owner.owned, rows) == (wanted <= free)
        if wanted > free:
            assert owner.owned == before, "pages were taken by a request that did not get enough"
            return
        assert owner.owned[: len(before)] == before
        taken = owner.owned[len(before) :]
        assert len(taken) == wanted == len(set(taken))
        assert not others & set(taken), "a page has two owners"
        self.content.update(dict.fromkeys(taken))
        size = self.pages.size
        for i in range(owner.kept // size, len(owner.ids) // size):
            self.content[owner.owned[i]] = (owner.ids[: (i + 1) * size], owner.kind)
        owner.kept = len(owner.ids)
        owner.known = self.pages.remember(owner.owned, owner.ids, owner.known, owner.kind)
        owner.ids += more

    @rule(owner=consumes(owners))
    def leave(self, owner: Owner) -> None:
        self.pages.release(owner.owned)
        assert not owner.owned
        self.live.remove(owner)

    def held(self, besides: Owner | None = None) -> set[int]:
        return {page for owner in self.live if owner is not besides for page in owner.owned}

    @invariant()
    def is_whole(self) -> None:
        if hasattr(self, "pages"):
            self.pages.check([owner.owned for owner in self.live])
            assert self.pages.in_use == len(self.held())
            assert self.pages.free + self.pages.in_use == self.pages.count
            assert set(self.pages.idle) == set(self.pages.label) - self.held()
            assert {page: key for key, page in self.pages.known.items()} == self.pages.label

    def teardown(self) -> None:
        if hasattr(self, "pages"):
            for owner in self.live:
                self.pages.release(owner.owned)
            assert self.pages.in_use == 0
            owned = list[int]()
            assert self.pages.extend(owned, self.pages.count * self.pages.size), "a free page cannot be had"


TestPages = Model.TestCase
TestPages.settings = settings(max_examples=150, stateful_step_count=30)


def filled(pages: Pages, ids: Ids, kind: str = "causal") -> list[int]:
    owned = pages.reuse(ids, kind)
    known = len(owned)
    assert pages.extend(owned, len(ids))
    pages.remember(owned, ids, known, kind)
    return owned


def test_prefix_is_found_while_its_owner_lives_and_after() -> None:
    pages = Pages(8, 2)
    first = filled(pages, (1, 2, 3, 4, 5))
    shared = pages.reuse((1, 2, 3, 4, 9), "causal")
    assert shared == first[:2]
    pages.release(first)
    assert pages.in_use == 2
    pages.release(shared)
    assert pages.in_use == 0
    assert len(pages.reuse((1, 2, 9), "causal")) == 1
    assert len(pages.reuse((1, 2, 3, 4, 9), "causal")) == 2


@pytest.mark.parametrize("ids", [(3, 4, 9), (1, 9, 3, 4, 9), (2, 1, 9), (1, 2)])
def test_no_page_serves_other_ids(ids: Ids) -> None:
    """Not the second page as a first one, not after another page, not in another order; one id is always left."""
    pages = Pages(8, 2)
    filled(pages, (1, 2, 3, 4))
    assert pages.reuse(ids, "causal") == []


def test_kinds_do_not_share() -> None:
    pages = Pages(8, 2)
    filled(pages, (1, 2, 3, 4))
    assert pages.reuse((1, 2, 3, 4), "other") == []


def test_same_ids_under_two_pages_are_known_once() -> None:
    pages = Pages(8, 2)
    first, second = list[int](), list[int]()
    assert pages.extend(first, 4)
    assert pages.extend(second, 4)
    assert pages.remember(first, (1, 2, 3, 4), 0, "causal") == 2
    assert pages.remember(second, (1, 2, 3, 4), 0, "causal") == 2
    assert len(pages.known) == 2
    pages.release(first)
    pages.release(second)
    assert pages.reuse((1, 2, 3, 4, 5), "causal") == [0, 1]


def test_what_was_idle_longest_is_forgotten_first_and_a_prefix_from_its_end() -> None:
    """Without its first page a prefix is of no use, so its last pages go first."""
    pages = Pages(4, 1)
    pages.release(filled(pages, (1, 2)))
    pages.release(filled(pages, (3, 4)))
    assert pages.extend([], 1)
    assert len(pages.reuse((1, 2, 9), "causal")) == 1
    assert len(pages.reuse((3, 4, 9), "causal")) == 2


def test_a_request_has_adjacent_pages_while_there_is_room() -> None:
    pages = Pages(16, 2)
    first, second = list[int](), list[int]()
    for rows in range(1, 9):
        assert pages.extend(first, rows, 8)
        assert pages.extend(second, rows, 8)
    for owned in (first, second):
        assert owned == list(range(owned[0], owned[0] + 4))


def test_a_request_that_may_grow_longer_than_there_is_room_still_grows() -> None:
    pages = Pages(16, 2)
    first, second = list[int](), list[int]()
    for rows in range(1, 17):
        assert pages.extend(first, rows, 1000)
        assert pages.extend(second, rows, 1000)
    assert sorted(first + second) == list(range(16))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=40))
def test_no_more_memory_is_touched_than_was_needed_at_a_time(steps: list[tuple[int, int]]) -> None:
    """Four places for requests of at most 12 rows: whoever comes and goes, they stay in the pages of four."""
    pages, places = Pages(1000, 2), [list[int]() for _ in range(4)]
    for place, rows in steps:
        if len(places[place]) * 2 >= rows:
            pages.release(places[place])
        assert pages.extend(places[place], rows, 12)
        assert max(places[place]) < 7 * 6, "the pages of four, and three gaps between them too small for a fifth"
