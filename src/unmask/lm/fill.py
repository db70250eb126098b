"""`LM.fill`: gaps of any length, candidates and the choice among them, all by requests to the engine.

In place a gap is filled room by room: where one is full before the model ends the gap, what was written becomes part of
the prefix and the suffix moves on. Every way is a plain request, so several run in one batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unmask.lm.filling import IN_PLACE, PREFIX, Filling
from unmask.lm.options import Options
from unmask.lm.ranking import Score, scores
from unmask.lm.result import Event, Generation, Numbers
from unmask.types import Request

if TYPE_CHECKING:
    from unmask.lm.lm import LM

CUTS = 12  # line ends at which a continued prefix may be cut
CONTINUED = 64  # tokens that a prefix is continued by, unless told


@dataclass(frozen=True, slots=True)
class Candidate:
    """One filling. ended: the model ended the gap itself. trimmed: it ran into the beginning of the suffix and was cut
    there. score: None where there was nothing to choose from."""

    text: str
    generations: tuple[Generation, ...]
    ended: bool
    trimmed: bool
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """text: what goes into the gap. layout: see `lm.filling`. chosen: the candidate it is from; candidates: all."""

    text: str
    layout: str
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def ended(self) -> bool:
        return self.chosen.ended

    @property
    def stats(self) -> Numbers:
        """Of the chosen candidate, over all its rooms."""
        return Numbers.total([generation.stats for generation in self.chosen.generations])


def fill(lm: LM, prefix: str, suffix: str, options: Options, filling: Filling) -> Filled:
    """See `LM.fill`."""
    layout = lm.filler.layout(filling)
    if layout == PREFIX:
        warnings.warn(
            "this model has not learned to fill gaps: it continues the prefix, and the suffix chooses where to stop",
            stacklevel=3,
        )
    if layout == PREFIX and options.max_tokens is None:
        options = replace(options, max_tokens=CONTINUED)
    # All first rooms are checked before any is queued, and queued before any is waited for: they share forwards.
    every = ways(lm, layout, options, filling)
    ready = [lm.filler.prepare(prefix, suffix, one, filling, blocks) for one, blocks in every]
    rooms = [Room(request, lm.submit(request, follow)) for request, follow in ready]
    made = [
        go_on(lm, prefix, suffix, one, filling, blocks, room) for (one, blocks), room in zip(every, rooms, strict=True)
    ]
    if layout == PREFIX and suffix:
        made = [cut for candidate in made for cut in cuts(candidate)]
    made = list({candidate.text: candidate for candidate in reversed(made)}.values())[::-1]
    if len(made) > 1:
        found = scores(lm, prefix, [candidate.text for candidate in made], suffix)
        made = [replace(candidate, score=score) for candidate, score in zip(made, found, strict=True)]
    chosen = max(made, key=lambda candidate: candidate.score.whole if candidate.score else 0.0)
    return Filled(chosen.text, layout, chosen, tuple(made))


def ways(lm: LM, layout: str, options: Options, filling: Filling) -> list[tuple[Options, int | None]]:
    """Options and room of each candidate. Sampled ones differ by their seeds; greedy ones, in place, by their rooms."""
    if filling.candidates == 1:
        return [(options, None)]
    if options.temperature > 0:
        return [(replace(options, seed=options.seed + number), None) for number in range(filling.candidates)]
    if layout != IN_PLACE or filling.length is not None:
        raise ValueError("candidates above 1 need a temperature above 0 here: they would all be the same")
    size = options.block_size or lm.traits.block_size
    most = max(lm.traits.gap_room // size, 1)
    if options.max_tokens is not None:
        most = min(most, options.max_tokens // size + 1)
    return [(options, blocks) for blocks in range(1, min(filling.candidates, most) + 1)]


@dataclass(frozen=True, slots=True)
class Room:
    """A request that is under way."""

    request: Request
    events: Iterator[Event]


def go_on(
    lm: LM, prefix: str, suffix: str, options: Options, filling: Filling, blocks: int | None, room: Room
) -> Candidate:
    """One candidate: room after room, in place, until the gap ends or all that is wanted is written.

    blocks: the one room there is to be; it is an estimate of the length, and is not gone beyond.
    """
    done = list[Generation]()
    while True:
        generation = lm.finish(room.events)
        done.append(generation)
        wanted = filling.length or options.max_tokens
        full = generation.finish_reason == "length" and room.request.room == room.request.max_tokens
        more = full and wanted is not None and wanted > room.request.max_tokens
        if not more or blocks is not None or options.constraints:
            ended = generation.finish_reason == "stop" and generation.stopped_by is None
            trimmed = generation.stopped_by is not None and suffix.startswith(generation.stopped_by)
            return Candidate("".join(one.text for one in done), tuple(done), ended, trimmed)
        before = prefix + "".join(one.text for one in done)
        options, filling = remaining(options, filling, generation.stats.tokens)
        request, follow = lm.filler.prepare(before, suffix, options, filling)
        room = Room(request, lm.submit(request, follow))


def remaining(options: Options, filling: Filling, written: int) -> tuple[Options, Filling]:
    """What is still wanted after so many more tokens."""
    if filling.length is not None:
        return options, replace(filling, length=filling.length - written)
    most = None if options.max_tokens is None else options.max_tokens - written
    return replace(options, max_tokens=most, min_tokens=max(options.min_tokens - written, 0)), filling


def cuts(candidate: Candidate) -> list[Candidate]:
    """A continued prefix cut after each of its first lines, with and without the line's end, and whole."""
    rows = candidate.text.splitlines(keepends=True)[:CUTS]
    texts = list[str]()
    for number in range(1, len(rows) + 1):
        whole = "".join(rows[:number])
        texts += [whole, whole.rstrip("\n")]
    return [replace(candidate, text=text, ended=False) for text in dict.fromkeys([*texts, candidate.text])]


def check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, got {type(text).__name__}")
