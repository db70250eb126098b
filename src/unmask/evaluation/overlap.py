"""Whether prompts were trained on: telling sequences of words that they share with files of training data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unmask.evaluation.prompts import Prompt
from unmask.training.near import Forbidden


def shared(prompts: Sequence[Prompt], files: Sequence[Path]) -> list[str]:
    """Names of prompts of which a text in the files holds a telling part (see `Forbidden`), in their order.

    files: JSON lines; every text in them counts, in whatever field. ValueError for a file that is something else.
    """
    anyone, each = Forbidden(prompt.known for prompt in prompts), [Forbidden([prompt.known]) for prompt in prompts]
    found = set[int]()
    for file in files:
        for text in texts_of(file):
            if anyone.found_in(text):
                found |= {number for number, one in enumerate(each) if number not in found and one.found_in(text)}
    return [f"{prompts[number].kind} {prompts[number].name}" for number in sorted(found)]


def texts_of(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield " ".join(strings(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{file} has a line that is not JSON") from error


def strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)
