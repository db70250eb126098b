"""Where a text that was written without a look at the suffix may end, so that the suffix goes on from there."""

from __future__ import annotations

import re

from unmask.text import TextStream
from unmask.types import Ids, Matcher


def cuts(text: str, suffix: str, most: int, whole: bool) -> list[str]:
    """The text cut at its first line ends, and at places of its first line that read like the beginning of the suffix.
    whole: as it is, too, which it is in any case where nothing of that is there. The suffix is not empty."""
    if suffix[0] in "\r\n":
        places = [found.start() for found in re.finditer(r"\r?\n", text)]
    else:
        beginning = re.match(r"\s*(?:\w+|\S|$)", suffix)
        assert beginning is not None  # whatever the suffix is, spaces and all
        line = text.split("\n", 1)[0]
        inside = [found.start() for found in re.finditer(re.escape(beginning[0]), line)]
        places = sorted({*inside, *(found.end() for found in re.finditer(r"\n", text))})
    texts = [text[:place] for place in places[:most]]
    return list(dict.fromkeys([*texts, text] if whole or not places else texts))


def endings(start: Matcher, budget: int, ids: Ids, stream: TextStream) -> list[str]:
    """All beginnings of a constrained text, but the empty one, that the constraint lets end. stream: before any id."""
    place: Matcher | None = start
    texts, text = list[str](), ""
    for number, token in enumerate(ids):
        place = place and place.take(token, budget - number)
        stream, more = stream.feed((token,))
        text += more
        if place is not None and place.accepting and text:
            texts.append(text)
    return list(dict.fromkeys(texts))
