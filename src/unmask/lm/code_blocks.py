"""An oracle that looks at the fenced code of a Markdown text, as chat models write it, and at nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from unmask.types import ByteSpan, Oracle, Verdict, View, Violation

FENCE = re.compile(rb"^(`{3,}|~{3,})[^\n`]*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CodeBlocks:
    """`oracle` on the contents of each block; a text that has ended without any is violated."""

    oracle: Oracle

    @property
    def name(self) -> str:
        return self.oracle.name

    @property
    def partial(self) -> bool:
        return self.oracle.partial

    def check(self, view: View) -> Verdict:
        data, found = view.text.encode(), list[Verdict]()
        blocks = list(code_blocks(data, view.written.start))
        for span, closed in blocks:
            if closed or view.complete or self.partial:
                found.append(moved(self.oracle.check(part_of(view, data, span, closed)), span.start))
        if not blocks and view.complete:
            message, stop = "the text has no block of code", view.written.end
            return Verdict("violated", message, (Violation(message, ByteSpan(stop, stop), "no-code-block", self.name),))
        wrong = [said for said in found if said.status == "violated"]
        if wrong:
            return Verdict("violated", wrong[0].detail, tuple(fault for said in wrong for fault in said.violations))
        return next((said for said in found if said.status == "unknown"), Verdict("satisfied"))


def code_blocks(data: bytes, start: int) -> Iterator[tuple[ByteSpan, bool]]:
    """The contents of each fenced block from `start` on, and whether its end has come."""
    while opened := FENCE.search(data, start):
        fence = re.escape(opened[1][:1]) + b"{%d,}" % len(opened[1])
        closing = re.compile(rb"^" + fence + rb"[ \t]*$", re.MULTILINE).search(data, opened.end())
        yield ByteSpan(opened.end(), closing.start() if closing else len(data)), closing is not None
        if closing is None:
            return
        start = closing.end()


def part_of(view: View, data: bytes, span: ByteSpan, closed: bool) -> View:
    """The view of one block: its own text, and what of it may still change."""
    size = span.end - span.start
    first, last = (min(max(place - span.start, 0), size) for place in view.editable)
    ends = tuple(end - span.start for end in view.token_ends if span.start < end <= span.end)
    text = data[span.start : span.end].decode()
    return replace(
        view, text=text, editable=ByteSpan(first, last), complete=closed or view.complete, token_ends=ends, sent=first
    )


def moved(said: Verdict, by: int) -> Verdict:
    return said._replace(violations=tuple(fault.moved(by) for fault in said.violations))
