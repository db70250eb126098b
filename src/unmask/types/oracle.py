"""What a soft constraint is: an oracle looks at text and says whether it is fine, and where it is not.

Spans are half-open ranges of UTF-8 bytes of the text looked at; one with start == end is an insertion point: something
is missing there. Strategies know tokens only: a `Judge` stands between them and the oracles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from unmask.types.settings import Ids

Status = Literal["satisfied", "violated", "unknown"]


class ByteSpan(NamedTuple):
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault. span: what is wrong, as one would underline it. code: short and stable, such as "undefined-name".

    blame: where a change may mend it, if that is not the span itself: a name's definition as well as its use, say.
    severity: above 0; what a text is scored by is the sum over its faults. source: name of the oracle that found it.
    """

    message: str
    span: ByteSpan
    code: str = ""
    source: str = ""
    blame: tuple[ByteSpan, ...] = ()
    severity: float = 1.0

    @property
    def blamed(self) -> tuple[ByteSpan, ...]:
        return self.blame or (self.span,)

    def plain(self) -> dict[str, object]:
        return {
            "message": self.message,
            "code": self.code,
            "source": self.source,
            "span": list(self.span),
            "severity": self.severity,
        }

    def moved(self, by: int) -> Violation:
        """The same fault in a text with so many more bytes before it."""
        blame = tuple(ByteSpan(start + by, end + by) for start, end in self.blame)
        return replace(self, span=ByteSpan(self.span.start + by, self.span.end + by), blame=blame)


class Verdict(NamedTuple):
    """What a constraint or an oracle says of a text. detail: why, where it is violated or could not be decided.

    "unknown" is for what could not be checked (no such tool, no time, a checker that failed); it is never "satisfied".
    """

    status: Status
    detail: str = ""
    violations: tuple[Violation, ...] = ()

    def plain(self) -> dict[str, object]:
        """As JSON has it."""
        told = {"status": self.status, "detail": self.detail}
        return told | ({"violations": [fault.plain() for fault in self.violations]} if self.violations else {})


@dataclass(frozen=True, slots=True)
class View:
    """A text to be judged, all of it known: a model's open places hold its best guess.

    text: what stands before the written part, the written part, and what follows it. editable: the bytes that may still
    change; faults elsewhere are reported, and nothing is done about them. complete: nothing more will be written; if
    not, the written part goes on where `editable` ends, and a fault is only what no continuation could mend.
    token_ends: byte offsets at which the tokens of `editable` end, ascending; empty where it was not written in tokens.
    path: name of the file that the text is, where it is one. sent: so many bytes right before `editable` were written
    as well, and cannot be changed any more.
    """

    text: str
    editable: ByteSpan
    complete: bool = True
    token_ends: tuple[int, ...] = ()
    path: str | None = None
    sent: int = 0

    @property
    def written(self) -> ByteSpan:
        return ByteSpan(self.editable.start - self.sent, self.editable.end)

    @classmethod
    def of(cls, text: str, *, path: str | None = None) -> View:
        """A whole text, all of which may change."""
        return cls(text, ByteSpan(0, len(text.encode())), path=path)


class Oracle(Protocol):
    """name: for messages and for `Violation.source`. partial: it can judge text that goes on (`View.complete` false);
    one that cannot is asked about whole texts only. `check` may be called from any thread; if it raises, the verdict is
    "unknown"."""

    @property
    def name(self) -> str: ...
    @property
    def partial(self) -> bool: ...
    def check(self, view: View) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A question about a draft of which no token is unknown; its request is parked until it is answered.

    output: all tokens that were written. sure: so many leading ones have been sent, and stay. complete: they end there.
    """

    output: Ids
    sure: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer. blamed: indices of output tokens that had better be others; missing: of those before which something
    is missing; both ascending and none of them sure. score: sum of the severities, of faults in sure tokens too.

    certain: no later look can find fault with these tokens, so that they may be sent. ended: the text ends here,
    whatever the decoder thinks: a stop string was met.
    """

    verdict: Verdict
    blamed: Ids = ()
    missing: Ids = ()
    certain: bool = True
    ended: bool = False

    @property
    def score(self) -> float:
        return sum(violation.severity for violation in self.verdict.violations)


class Judge(Protocol):
    """The oracles of one request, in terms of its tokens. vocab: ids below it may stand in an output."""

    @property
    def vocab(self) -> int: ...
    def judge(self, ask: Ask) -> Finding: ...
