"""Who owns which KV page: allocation that keeps a request's pages adjacent, sharing of equal prefixes, one way to free.

Plain Python. A page with no owner may still hold a prefix that a later request can reuse, until it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from unmask.types import Ids

ROOT = 0  # parent of first pages


class Pages:
    """`count` pages of `size` rows. A page is in use while its owner count is positive."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.owners = [0] * count
        self.in_use = 0
        # Known contents: (node of the page before, tokens, kind) <-> page. Nodes are never reused, pages are.
        self.known: dict[tuple[int, Ids, str], int] = {}
        self.label: dict[int, tuple[int, Ids, str]] = {}
        self.node: dict[int, int] = {}
        self.nodes = ROOT
        self.idle: dict[int, None] = {}  # known pages without an owner, least recently freed first

    @property
    def free(self) -> int:
        return self.count - self.in_use

    def extend(self, owned: list[int], rows: int, most: int = 0) -> bool:
        """Append pages to `owned` until it holds `rows` rows; False, and nothing taken, where too few are free.

        most: rows that it may come to hold; for so many it is given room to grow, if there is any.
        """
        wanted = -(-rows // self.size) - len(owned)
        if wanted > self.free:
            return False
        for _ in range(wanted):
            owned.append(self._take(owned[-1] + 1 if owned else None, -(-max(rows, most) // self.size) - len(owned)))
        return True

    def _take(self, preferred: int | None, room: int) -> int:
        if preferred is not None and preferred < self.count and self._blank(preferred):
            page = preferred
        else:
            page = self._start_of_room(room)
        self._forget(page)
        self.owners[page] = 1
        self.in_use += 1
        return page

    def _blank(self, page: int) -> bool:
        return self.owners[page] == 0 and page not in self.label

    def _start_of_room(self, room: int) -> int:
        """Where a new run of pages begins: as low as it can grow to `room` pages, so that memory which was never needed
        is never touched. A neighbour in use is taken to grow to as many.

        Where none has that much room, in the largest blank run, from its middle if a neighbour may grow into it;
        without any blank page, the known one that was idle longest.
        """
        largest = (0, 0)
        for first, length in self._blank_runs():
            before = next((i for i in range(first) if not self.owners[first - 1 - i]), first)  # pages in use before it
            ahead = max(room - before, 0) if before else 0
            if ahead + room <= length:
                return first + ahead
            largest = max(largest, (length, first + (length // 2 if before else 0)), key=lambda found: found[0])
        return largest[1] if largest[0] else next(iter(self.idle))

    def _blank_runs(self) -> Iterator[tuple[int, int]]:
        """(first page, length) of every longest run of blank pages."""
        first = 0
        for blank, run in groupby(range(self.count), self._blank):
            length = sum(1 for _ in run)
            if blank:
                yield first, length
            first += length

    def _forget(self, page: int) -> None:
        self.idle.pop(page, None)
        if page in self.label:
            del self.known[self.label.pop(page)]
            del self.node[page]

    def release(self, owned: list[int]) -> None:
        """Give up all pages of one request: the only way pages are freed. A prefix is later forgotten from its end."""
        for page in reversed(owned):
            self.owners[page] -= 1
            if self.owners[page] == 0:
                self.in_use -= 1
                if page in self.label:
                    self.idle[page] = None
        owned.clear()

    def remember(self, owned: Sequence[int], ids: Ids, known: int, kind: str) -> int:
        """Label the pages that ids fill completely, from page number `known` on, for reuse. Returns the new `known`.

        A page whose contents are known under another page already is left unlabelled, and so are those after it.
        """
        full = len(ids) // self.size
        while known < full:
            parent = ROOT if known == 0 else self.node.get(owned[known - 1], -1)
            key = (parent, ids[known * self.size : (known + 1) * self.size], kind)
            page = owned[known]
            if parent == -1 or (key in self.known and self.known[key] != page):
                return full
            if page not in self.label:
                self.nodes += 1
                self.known[key], self.label[page], self.node[page] = page, key, self.nodes
            known += 1
        return known

    def reuse(self, ids: Ids, kind: str) -> list[int]:
        """Pages with the longest known prefix of `ids`, now owned by the caller too. At least one id is left over."""
        found = list[int]()
        parent = ROOT
        for start in range(0, (len(ids) - 1) // self.size * self.size, self.size):
            page = self.known.get((parent, ids[start : start + self.size], kind))
            if page is None:
                break
            if self.owners[page] == 0:
                self.in_use += 1
                self.idle.pop(page, None)
            self.owners[page] += 1
            found.append(page)
            parent = self.node[page]
        return found

    def check(self, owned: Sequence[Sequence[int]]) -> None:
        """Assert that owner counts are exactly the pages that live requests hold."""
        counts = [0] * self.count
        for pages in owned:
            for page in pages:
                counts[page] += 1
        assert counts == self.owners, "a page is owned by nobody, or twice"
        assert self.in_use == sum(1 for owners in counts if owners)
