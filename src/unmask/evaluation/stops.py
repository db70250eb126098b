"""Where a completed function ends: the stop strings of HumanEval, and how many tokens a text has up to one."""

from __future__ import annotations

from collections.abc import Sequence

from unmask.text import Tokenizer

# Those of the paper (arXiv 2107.03374, section 3.2), and the end of a code block, which chat models write.
HUMAN_EVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n```")


def tokens_until(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str]) -> int:
    """How many leading ids hold the text before the first stop string; all of them where there is none."""
    parts = [tokenizer.token_bytes(token) for token in ids]
    whole = b"".join(parts)
    places = [place for stop in stops if (place := whole.find(stop.encode())) >= 0]
    if not places:
        return len(ids)
    size, end = 0, min(places)
    for number, part in enumerate(parts):
        if size >= end:
            return number
        size += len(part)
    return len(ids)
