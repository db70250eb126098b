"""What a task of DecayBench is, whatever its tier: a prompt under some of its rules, a judge, a grammar of what a mask
can enforce, and an answer that satisfies all. Which rules come in which order is a Latin square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Judged:
    """passed: assertions that held, of `total`. kept: per active rule whether the answer obeys it; an answer that
    cannot be read obeys none."""

    passed: int
    total: int
    kept: dict[str, bool]

    @property
    def raw(self) -> float:
        """A%: share of the assertions that held."""
        return self.passed / self.total

    @property
    def satisfied(self) -> float:
        """V%: share of the active rules that are obeyed; 1 without any."""
        return sum(self.kept.values()) / len(self.kept) if self.kept else 1.0

    @property
    def strict(self) -> float:
        """A% as in arXiv 2605.06445: 0 for an answer that breaks any rule."""
        return self.raw if all(self.kept.values()) else 0.0

    @property
    def joint(self) -> bool:
        return self.passed == self.total and all(self.kept.values())


class Task(Protocol):
    """stops: texts that end an answer which nothing else ends. max_tokens: what an answer needs, as SmolLM2 counts."""

    @property
    def name(self) -> str: ...
    @property
    def rules(self) -> tuple[str, ...]:
        """Names of all its rules."""

    @property
    def maskable(self) -> frozenset[str]:
        """Those that `grammar` enforces."""

    @property
    def stops(self) -> tuple[str, ...]: ...
    @property
    def max_tokens(self) -> int: ...

    def prompt(self, active: Sequence[str], padding: int = 0) -> str:
        """Examples, then the task with a sentence per active rule, in that order, then so many sentences that ask for
        nothing. Under one more rule it is the same and a sentence more."""

    def answer(self, active: Sequence[str]) -> str:
        """A right answer that obeys the active rules: the certificate that there is one."""

    def kept(self, text: str, active: Sequence[str]) -> dict[str, bool]:
        """Per active rule whether the answer obeys it. Nothing is run for it."""

    def judge(self, text: str, active: Sequence[str]) -> Judged:
        """With the assertions."""

    def grammar(self, active: Sequence[str]) -> dict[str, Any]:
        """A constraint for `LM.generate` that all answers in the form asked for satisfy, if they obey the active rules
        that a mask can enforce. Its texts end by themselves."""


def williams(rules: Sequence[str], row: int) -> list[str]:
    """One row of a Williams square: over all rows each rule stands in each place once, and (their number being even)
    follows each other rule once, so that which rule and how many rules separate."""
    count = len(rules)
    first = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(count)]
    return [rules[(place + row) % count] for place in first]


# Sentences of the control of length: about as long as a rule, and asking for nothing.
PADDING = (
    "The team behind it has worked for many years.",
    "Questions are answered on most days by noon.",
    "An earlier draft was a little shorter than it.",
    "The office moved across the river last spring.",
    "Some readers know the matter and some do not.",
    "The weather was fine when it was written down.",
    "A printed copy lies in the second grey drawer.",
    "Nobody has complained about the last version.",
    "The meeting about it took less than an hour.",
    "Three people have read it before it was sent.",
    "It is one of many such texts, not the longest.",
    "The author has written on other matters too.",
)
