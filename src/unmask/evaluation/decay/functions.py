"""Tier B: sixty small functions to write, with a right body and inputs for each; twenty kinds, three of each.

What a function gives back on its inputs is what the right body gives; the tests hold that against values by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

VALUES: tuple[tuple[Any, ...], ...] = (
    ([],),
    ([6],),
    ([3, 8, 1],),
    ([12, -4, 9, 30],),
    ([5, 5, 10, 2, 7],),
    ([0, 21, 14],),
)
TEXTS: tuple[tuple[Any, ...], ...] = (("",), ("a",), ("hello",), ("over the moon",), ("zebra area",), ("aeon oboe",))
LISTS: tuple[tuple[Any, ...], ...] = (
    ([],),
    (["one"],),
    (["be", "apple", "sea"],),
    (["tree", "ox", "grass"],),
    (["a", "bb", "ccc", "dd"],),
    (["moon", "sun", "star"],),
)
NUMBERS: tuple[tuple[Any, ...], ...] = ((0,), (7,), (10,), (345,), (9081,), (77,))
RANGES: tuple[tuple[Any, ...], ...] = ((5, 0, 9), (-2, 0, 9), (12, 0, 9), (3, 3, 3), (7, -5, 6), (-9, -8, -1))

INTS, STRINGS = "list[int]", "list[str]"


@dataclass(frozen=True, slots=True)
class Asked:
    """parameters: (name, type). statement: what it returns. body: lines that leave it in `result`. inputs: arguments of
    the calls that are checked."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    statement: str
    body: tuple[str, ...]
    inputs: tuple[tuple[Any, ...], ...]


# name, parameters, statement, body, inputs, what stands for {k} in the three of the kind.
KINDS: tuple[tuple[str, str, str, str, tuple[tuple[Any, ...], ...], tuple[Any, ...]], ...] = (
    (
        "sum_multiples_{k}",
        "values: list[int]",
        "the sum of those values that are multiples of {k}",
        "result = sum(value for value in values if value % {k} == 0)",
        VALUES,
        (2, 3, 7),
    ),
    (
        "count_above_{k}",
        "values: list[int]",
        "how many of the values are above {k}",
        "result = sum(1 for value in values if value > {k})",
        VALUES,
        (2, 5, 9),
    ),
    (
        "without_every_{k}",
        "values: list[int]",
        "the values without each {k}th one",
        "result = [value for place, value in enumerate(values, 1) if place % {k}]",
        VALUES,
        (2, 3, 4),
    ),
    (
        "rotated_{k}",
        "values: list[int]",
        "the values with the first {k} of them moved to the end",
        "result = values[{k}:] + values[:{k}]",
        VALUES,
        (1, 2, 3),
    ),
    (
        "padded_{k}",
        "text: str",
        "the text with dots after it up to {k} characters",
        "result = text.ljust({k}, '.')",
        TEXTS,
        (4, 8, 12),
    ),
    (
        "longer_than_{k}",
        "words: list[str]",
        "the words of more than {k} letters, in their order",
        "result = [word for word in words if len(word) > {k}]",
        LISTS,
        (1, 2, 3),
    ),
    (
        "stretched_{k}",
        "text: str",
        "the text with each character written {k} times",
        "result = ''.join(letter * {k} for letter in text)",
        TEXTS,
        (2, 3, 4),
    ),
    (
        "digit_sum_times_{k}",
        "number: int",
        "the sum of the digits of the number, times {k}",
        "result = {k} * sum(int(digit) for digit in str(number))",
        NUMBERS,
        (2, 3, 5),
    ),
    (
        "limited_plus_{k}",
        "value: int, low: int, high: int",
        "the value, made no less than low and no more than high, plus {k}",
        "result = min(max(value, low), high) + {k}",
        RANGES,
        (1, 4, 10),
    ),
    (
        "jumps_over_{k}",
        "values: list[int]",
        "how many neighbouring values differ by more than {k}",
        "result = sum(1 for one, two in zip(values, values[1:]) if abs(one - two) > {k})",
        VALUES,
        (1, 4, 8),
    ),
    (
        "in_groups_of_{k}",
        "values: list[int]",
        "the values in lists of {k}, the last of which may be shorter",
        "result = [values[place:place + {k}] for place in range(0, len(values), {k})]",
        VALUES,
        (2, 3, 4),
    ),
    (
        "shifted_{k}",
        "text: str",
        "the text with each letter from a to z moved {k} places on in the alphabet, z being followed by a",
        "result = ''.join(\n    chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text\n)",
        TEXTS,
        (1, 3, 13),
    ),
    (
        "mean_times_{k}",
        "values: list[int]",
        "{k} times the mean of the values, rounded down to a whole number before that; 0 without values",
        "result = {k} * (sum(values) // len(values)) if values else 0",
        VALUES,
        (2, 3, 10),
    ),
    (
        "without_{k}",
        "text: str",
        "the text without the letter {k}",
        "result = text.replace('{k}', '')",
        TEXTS,
        ("a", "e", "o"),
    ),
    (
        "words_with_{k}",
        "words: list[str]",
        "how many of the words have the letter {k}",
        "result = sum(1 for word in words if '{k}' in word)",
        LISTS,
        ("a", "e", "o"),
    ),
    (
        "power_sum_{k}",
        "values: list[int]",
        "the sum of the values to the power of {k}",
        "result = sum(value ** {k} for value in values)",
        VALUES,
        (2, 3, 4),
    ),
    (
        "ends_{k}",
        "values: list[int]",
        "the first {k} values and after them the last {k} values",
        "result = values[:{k}] + values[-{k}:]",
        VALUES,
        (1, 2, 3),
    ),
    (
        "running_from_{k}",
        "values: list[int]",
        "the running totals of the values, beginning with {k}",
        "result = [{k}]\nfor value in values:\n    result.append(result[-1] + value)",
        VALUES,
        (0, 1, 100),
    ),
    (
        "initials_{k}",
        "words: list[str]",
        "the first {k} letters of each word, all in one text",
        "result = ''.join(word[:{k}] for word in words)",
        LISTS,
        (1, 2, 3),
    ),
    (
        "smallest_{k}",
        "values: list[int]",
        "the {k} smallest values, the smallest first",
        "result = sorted(values)[:{k}]",
        VALUES,
        (1, 2, 3),
    ),
)
# For the examples before a task.
SHOWN = (
    Asked(
        "doubled",
        (("values", INTS),),
        "each value times 2",
        ("result = [2 * value for value in values]",),
        (([1, 2],), ([],), ([0],), ([-3],), ([5, 5],), ([9],)),
    ),
    Asked(
        "joined",
        (("words", STRINGS), ("mark", "str")),
        "the words in one text with the mark between them",
        ("result = mark.join(words)",),
        ((["a", "b"], "-"), ([], "-"), (["a"], ""), (["x", "y"], ", "), (["n"], "n"), (["p", "q", "r"], "")),
    ),
)


@cache
def functions() -> tuple[Asked, ...]:
    """The sixty, kind by kind; all first ones come before the second ones."""
    made = list[Asked]()
    for turn in range(3):
        for name, parameters, statement, body, inputs, choices in KINDS:
            k = str(choices[turn])
            names = tuple((one.split(": ")[0], one.split(": ")[1]) for one in parameters.split(", "))
            lines = tuple(body.replace("{k}", k).split("\n"))
            made.append(Asked(name.replace("{k}", k), names, statement.replace("{k}", k), lines, inputs))
    return tuple(made)


def expected(asked: Asked) -> list[Any]:
    """What the right body gives back on the inputs."""
    return [outcome(asked.body, [name for name, _ in asked.parameters], arguments) for arguments in asked.inputs]


def outcome(body: Sequence[str], names: Sequence[str], arguments: Sequence[Any]) -> Any:
    """`result` after our own lines, which are no program of anybody else's."""
    known: dict[str, Any] = dict(zip(names, arguments, strict=True))
    exec("\n".join(body), known)
    return known["result"]
