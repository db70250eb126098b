"""Drafts that need no model: what followed the same tokens the last time they stood in the context.

Prompt lookup (Saxena 2023; `prompt_lookup_num_tokens` of transformers): good where text is repeated or edited.
"""

from __future__ import annotations

from dataclasses import replace

from unmask.decoding.common import speculation
from unmask.decoding.quadspec import obedient
from unmask.types import Draft, Ids, State
from unmask.types.settings import LONGEST_MATCH

# Tokens that are drafted at a time.
LOOKUP_LENGTH = 16
# The context is searched this far back.
REACH = 8192


def continuation(ids: Ids, shortest: int, length: int) -> tuple[int, Ids]:
    """(tokens that match, the `length` tokens that followed them), of the longest match of the end of `ids`.

    Of equal matches the latest counts; a match that runs into the end goes on as the period that it is. (0, ()) where
    fewer than `shortest` tokens match.
    """
    ids = ids[-REACH:]
    text = "".join(map(chr, ids))  # strings are searched by the machine, tuples by the interpreter
    match, place = 0, -1
    for size in range(shortest, min(LONGEST_MATCH, len(ids) - 1) + 1):
        found = text.rfind(text[-size:], 0, -1)
        if found < 0:
            break
        match, place = size, found + size
    if not match:
        return 0, ()
    period = len(ids) - place
    return match, tuple(ids[place + i % period] for i in range(length))


def looked_up(state: State) -> tuple[Draft, ...]:
    """What followed the end of the text before, as a draft: no longer than what may be emitted, and as far as a
    constraint lets it stand. Nothing where too little matches, or where the settings want no drafts."""
    settings = speculation(state)
    if not settings.lookup or settings.draft_block_size < 2 or not state.output:
        return ()
    match, tokens = continuation(state.ids, settings.lookup, min(LOOKUP_LENGTH, state.remaining - 1))
    found = tuple(Draft(token, 0.0, -1, 0.0, match + i) for i, token in enumerate(tokens))
    return obedient(replace(state, draft=found)).draft
