"""Oracles of one request, in terms of its tokens (`types.Judge`): a draft becomes a text, faults become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmask.text import TextStream, Tokenizer
from unmask.text.offsets import Located, lexeme, located
from unmask.types import Ask, ByteSpan, Finding, Ids, Oracle, Verdict, View, Violation

MOST_FAULTS = 64  # that a result lists


@dataclass(frozen=True, eq=False, slots=True)
class Jury:
    """Faults are told in bytes of what was written; those before it have negative ones.

    before, after: what stands around the written text, as oracles see it. stops: texts that end it, as for
    `TextStream`. min_ids: no end before so many tokens."""

    oracles: tuple[Oracle, ...]
    tokenizer: Tokenizer
    before: str = ""
    after: str = ""
    stops: tuple[str, ...] = ()
    min_ids: int = 0

    @property
    def vocab(self) -> int:
        return self.tokenizer.vocab_size

    def judge(self, ask: Ask) -> Finding:
        stream, _ = TextStream(self.tokenizer, self.stops, min_ids=self.min_ids).feed(ask.output)
        ended = stream.hit is not None
        complete = ask.complete or ended
        ids = ask.output[: stream.hit.ids] if stream.hit is not None else ask.output
        draft = located(self.tokenizer, ids, final=complete)
        text = draft.text
        if stream.hit is not None:
            text = text[: text.rindex(stream.hit.text)]
        view = self.view(draft, text, min(ask.sure, len(ids)), complete)
        asked = [oracle for oracle in self.oracles if complete or oracle.partial]
        verdict = together([opinion(oracle, view) for oracle in asked])
        wrong, missing = self.tokens(verdict, view, draft, ask.sure)
        certain = complete or len(asked) == len(self.oracles)
        own = tuple(fault.moved(-view.written.start) for fault in verdict.violations)
        return Finding(verdict._replace(violations=own), wrong, missing, certain, ended)

    def view(self, draft: Located, text: str, sure: int, complete: bool) -> View:
        first, size = len(self.before.encode()), len(text.encode())
        start = min(draft.spans[sure].start if sure < len(draft.spans) else size, size)
        ends = tuple(first + min(span.end, size) for span in draft.spans[sure:])
        editable = ByteSpan(first + start, first + size)
        return View(self.before + text + self.after, editable, complete, ends, sent=start)

    def tokens(self, verdict: Verdict, view: View, draft: Located, sure: int) -> tuple[Ids, Ids]:
        """Tokens that are not sure and blamed, and those before which something is missing."""
        data, first = view.text.encode(), view.written.start
        wrong, missing = set[int](), set[int]()
        for span in (span for fault in verdict.violations for span in fault.blamed):
            if span.start == span.end:
                if view.editable.start <= span.start <= view.editable.end:
                    missing |= {draft.at(span.start - first)} - {None}  # type: ignore[arg-type]
                continue
            start, end = max(span.start, view.editable.start), min(span.end, view.editable.end)
            if start < end:
                whole = lexeme(data, ByteSpan(start, end))
                wrong |= set(draft.touching(ByteSpan(whole.start - first, whole.end - first)))
        return tuple(sorted(i for i in wrong if i >= sure)), tuple(sorted(i for i in missing if i >= sure))


def opinion(oracle: Oracle, view: View) -> Verdict:
    """What one oracle says. One that raises has not been able to say."""
    try:
        said = oracle.check(view)
    except Exception as error:
        return Verdict("unknown", f"{oracle.name} could not say: {type(error).__name__}: {error}"[:500])
    if said.status != "violated":
        return said
    faults = said.violations or (Violation(said.detail, view.editable),)
    named = tuple(replace(fault, source=fault.source or oracle.name) for fault in faults)
    return Verdict("violated", said.detail or faults[0].message, named)


def together(said: Sequence[Verdict]) -> Verdict:
    """One verdict of several: violated where one is, else unknown where one is."""
    wrong = [one for one in said if one.status == "violated"]
    if wrong:
        faults = [fault for one in wrong for fault in one.violations]
        return Verdict("violated", wrong[0].detail, tuple(faults[:MOST_FAULTS]))
    return next((one for one in said if one.status == "unknown"), Verdict("satisfied"))
