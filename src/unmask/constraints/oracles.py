"""Soft constraints that need to know nothing but text: a user's own function, and a few plain demands.

Unlike a hard constraint they promise nothing: what they find fault with is written anew a few times, and the result
says whether it has helped. Each is a `types.Oracle`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from unmask.constraints.expr import ConstraintError
from unmask.types import ByteSpan, Verdict, View, Violation

FINE = 0.5  # a number from here on says that a character or token may stay
MOST_FAULTS = 64  # that one look reports


@dataclass(frozen=True, slots=True)
class ConstraintOracle:
    """A function that says of a text, place by place, whether it may stay.

    check_fn: gets the whole text (a prompt that was given as text, what was written so far, a suffix) and returns one
    bool, or one number between 0 and 1, for each character of it, or for each token that was written and may still
    change. partial: False where it can judge whole texts only; text that is being written then goes out at the end.
    """

    check_fn: Callable[[str], Iterable[bool | float]]
    name: str = "check_fn"
    partial: bool = True

    def check(self, view: View) -> Verdict:
        places = [float(value) for value in self.check_fn(view.text)]
        ends = tuple(view.token_ends)
        if len(places) == len(view.text):
            return verdict(self.name, wrong_characters(view.text, places))
        if len(places) == len(ends):
            starts = (view.editable.start, *ends[:-1])
            return verdict(self.name, wrong_runs(places, list(map(ByteSpan, starts, ends))))
        raise ConstraintError(
            f"{self.name} must return a value for each of the text's {len(view.text)} characters, or for each of its"
            f" {len(ends)} tokens that may change; it has returned {len(places)}"
        )


def wrong_characters(text: str, places: Sequence[float]) -> list[tuple[ByteSpan, float]]:
    ends, size = list[int](), 0
    for letter in text:
        size += len(letter.encode())
        ends.append(size)
    return wrong_runs(places, list(map(ByteSpan, (0, *ends[:-1]), ends)))


def wrong_runs(places: Sequence[float], spans: Sequence[ByteSpan]) -> list[tuple[ByteSpan, float]]:
    """Runs of places that may not stay, each with how wrong its worst place is."""
    found = list[tuple[ByteSpan, float]]()
    for wrong, run in groupby(range(len(places)), key=lambda i: not places[i] >= FINE):
        if wrong:
            part = list(run)
            worst = 1.0 - min(max(min(places[i] for i in part), 0.0), FINE)
            found.append((ByteSpan(spans[part[0]].start, spans[part[-1]].end), worst))
    return found


def verdict(name: str, wrong: Sequence[tuple[ByteSpan, float]]) -> Verdict:
    if not wrong:
        return Verdict("satisfied")
    message = f"{name} finds fault here"
    faults = tuple(Violation(message, span, "check", name, severity=severity) for span, severity in wrong[:MOST_FAULTS])
    return Verdict("violated", message, faults)


@dataclass(frozen=True, slots=True)
class Contains:
    """The written part has this text in it."""

    text: str
    name: str = "contains"
    partial: bool = True

    def check(self, view: View) -> Verdict:
        start, stop = view.written
        if not view.complete or self.text.encode() in view.text.encode()[start:stop]:
            return Verdict("satisfied")
        message = f"the text does not contain {self.text!r:.80}"
        return Verdict("violated", message, (Violation(message, ByteSpan(stop, stop), "missing-text", self.name),))


@dataclass(frozen=True, slots=True)
class Avoids:
    """None of these texts comes, neither within the written part nor across its ends. words: only as whole words."""

    texts: tuple[str, ...]
    words: bool = False
    name: str = "not_contains"
    partial: bool = True

    def check(self, view: View) -> Verdict:
        data, faults = view.text.encode(), list[Violation]()
        for text in self.texts:
            pattern = re.escape(text.encode())
            for match in re.finditer(rb"(?<!\w)" + pattern + rb"(?!\w)" if self.words else pattern, data):
                span = ByteSpan(*match.span())
                if span.start < view.written.end and view.written.start < span.end:
                    faults.append(Violation(f"the text contains {text!r:.80}", span, "banned-text", self.name))
        if not faults:
            return Verdict("satisfied")
        faults.sort(key=lambda fault: fault.span)
        return Verdict("violated", faults[0].message, tuple(faults[:MOST_FAULTS]))


@dataclass(frozen=True, slots=True)
class Length:
    """How long the written part may be, in characters, words and lines; None: as it comes."""

    min_characters: int = 0
    max_characters: int | None = None
    max_words: int | None = None
    max_lines: int | None = None
    name: str = "length"
    partial: bool = True

    def check(self, view: View) -> Verdict:
        data = view.text.encode()
        start, stop = view.written
        text = data[start:stop].decode("utf-8", "replace")
        words = [match.start() for match in re.finditer(r"\S+", text)]
        lines = [0, *(match.end() for match in re.finditer("\n", text.rstrip("\n")))]
        for what, most, starts in (
            ("characters", self.max_characters, range(len(text))),
            ("words", self.max_words, words),
            ("lines", self.max_lines, lines),
        ):
            if most is not None and len(starts) > most:
                message = f"the text has more than {most} {what}"
                span = ByteSpan(start + len(text[: starts[most]].encode()), stop)
                return Verdict("violated", message, (Violation(message, span, "too-long", self.name),))
        if view.complete and len(text) < self.min_characters:
            message = f"the text has {len(text)} characters, fewer than {self.min_characters}"
            return Verdict("violated", message, (Violation(message, ByteSpan(stop, stop), "too-short", self.name),))
        return Verdict("satisfied")
