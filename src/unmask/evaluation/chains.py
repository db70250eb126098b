"""Chains of small steps to be worked out one after the other: sums, and texts that are rewritten. Drawn from a seed.

Each step changes what the step before has left, so that one slip spoils all that follows, unless it is taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

KINDS = ("arithmetic", "rewriting")
SHORTEST, LONGEST = 2, 6  # steps
LARGEST = 999  # number in a sum


@dataclass(frozen=True, slots=True)
class Chain:
    """start: what it begins with. steps: in words. states: after each step. The answer: a line per step, with both."""

    kind: str
    name: str
    start: str
    steps: tuple[str, ...]
    states: tuple[str, ...]

    @property
    def question(self) -> str:
        return f"Start: {self.start}. {' '.join(f'{step}.' for step in self.steps)}\n"

    @property
    def answer(self) -> str:
        return "\n".join(line_of(step, state) for step, state in zip(self.steps, self.states, strict=True))


def line_of(step: str, state: str | None) -> str:
    return f"{step}: {state}"


def draw(kind: str, seed: int, number: int) -> Chain:
    """Chain `number` of a kind; lengths take turns."""
    random = Random(f"{kind} {seed} {number}")
    length = SHORTEST + number % (LONGEST - SHORTEST + 1)
    state = str(random.randint(2, 20)) if kind == "arithmetic" else " ".join(random.choices("abc", k=4))
    start, steps, states = state, list[str](), list[str]()
    while len(steps) < length:
        step = proposed(kind, random)
        after = apply(kind, step, state)
        if after is not None and after != state:
            state = after
            steps.append(step)
            states.append(state)
    return Chain(kind, f"{kind}-{seed}-{number}", start, tuple(steps), tuple(states))


def proposed(kind: str, random: Random) -> str:
    if kind == "rewriting":
        return random.choice(list(REWRITES))
    word = random.choice(("Add", "Take", "Times"))
    return f"{word} {random.randint(2, 3 if word == 'Times' else 9)}"


REWRITES: dict[str, Callable[[list[str]], list[str]]] = {
    "Reverse": lambda letters: letters[::-1],
    "Swap the first two": lambda letters: [*letters[1::-1], *letters[2:]],
    "Move the first to the end": lambda letters: [*letters[1:], letters[0]],
    "Write the last twice": lambda letters: [*letters, letters[-1]],
    "Drop the first": lambda letters: letters[1:],
    "Change a to b": lambda letters: ["b" if letter == "a" else letter for letter in letters],
    "Change b to c": lambda letters: ["c" if letter == "b" else letter for letter in letters],
    "Change c to a": lambda letters: ["a" if letter == "c" else letter for letter in letters],
}


def apply(kind: str, step: str, state: str) -> str | None:
    """The state after a step; None where the step cannot be taken from there, or leads out of what chains hold."""
    if kind == "rewriting":
        letters = state.split()
        if len(letters) < 2 or any(letter not in ("a", "b", "c") for letter in letters):
            return None
        after = REWRITES[step](letters)
        return " ".join(after) if 2 <= len(after) <= 7 else None
    if not state.isdecimal():
        return None
    word, number = step.split()
    value = {"Add": int(state) + int(number), "Take": int(state) - int(number), "Times": int(state) * int(number)}[word]
    return str(value) if 0 <= value <= LARGEST else None


def prompt(chain: Chain, seed: int, shots: int) -> str:
    """Examples of the same kind, which are never asked, and the question."""
    shown = (draw(chain.kind, seed, -1 - number) for number in range(shots))
    return "".join(f"{one.question}{one.answer}\n\n" for one in shown) + chain.question


@dataclass(frozen=True, slots=True)
class Checked:
    """last: the last line is right. right: lines that are; valid: those that follow from the state written in the line
    before them, right or not; of `steps`."""

    last: bool
    right: int
    valid: int
    steps: int


def check(chain: Chain, text: str) -> Checked:
    """Lines of an answer against the right ones; lines that are missing are wrong, and further ones do not count."""
    lines = [line.strip() for line in text.strip("\n").split("\n")]
    written = (lines + [""] * len(chain.steps))[: len(chain.steps)]
    before = (chain.start, *(line.rpartition(": ")[2] for line in written))
    right = [line == wanted for line, wanted in zip(written, chain.answer.split("\n"), strict=True)]
    valid = sum(
        line == line_of(step, apply(chain.kind, step, state))
        for line, step, state in zip(written, chain.steps, before, strict=False)
    )
    return Checked(right[-1], sum(right), valid, len(right))
