"""`LM.fill`: gaps of any length, candidates and the choice among them, all by requests to the engine.

In place a gap is filled room by room: where one is full before the model ends the gap, what was written becomes part of
the prefix and the suffix moves on. Where the causal rows have not learned gaps, one of several candidates is theirs:
the prefix continued. Every way is a plain request, so several run in one batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unmask.lm.filling import IN_PLACE, PREFIX, Filling
from unmask.lm.options import Options, causal
from unmask.lm.ranking import Score, scores
from unmask.lm.result import Event, Generation, Numbers
from unmask.types import Request

if TYPE_CHECKING:
    from unmask.lm.lm import LM

CUTS = 12  # line ends at which a continued prefix may be cut
CONTINUED = 64  # tokens that a prefix is continued by, unless told


@dataclass(frozen=True, slots=True)
class Candidate:
    """One filling, made by a layout of `lm.filling`. ended: the model ended the gap itself. trimmed: it ran into the
    beginning of the suffix and was cut there. score: None where there was nothing to choose from."""

    layout: str
    text: str
    generations: tuple[Generation, ...]
    ended: bool
    trimmed: bool
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class Filled:
    """chosen: the candidate that goes into the gap, of all candidates."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        return self.chosen.text

    @property
    def layout(self) -> str:
        return self.chosen.layout

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
    ready = [lm.filler.prepare(prefix, suffix, way.options, way.filling, way.blocks) for way in every]
    rooms = [Room(request, lm.submit(request, follow)) for request, follow in ready]
    made = [go_on(lm, prefix, suffix, way, room) for way, room in zip(every, rooms, strict=True)]
    if suffix:
        made = [one for candidate in made for one in (cuts(candidate) if candidate.layout == PREFIX else [candidate])]
    made = list({candidate.text: candidate for candidate in reversed(made)}.values())[::-1]
    if len(made) > 1:
        found = scores(lm, prefix, [candidate.text for candidate in made], suffix)
        made = [replace(candidate, score=score) for candidate, score in zip(made, found, strict=True)]
    return Filled(max(made, key=lambda candidate: candidate.score.whole if candidate.score else 0.0), tuple(made))


@dataclass(frozen=True, slots=True)
class Way:
    """How one candidate is made. blocks: its room; None: what may be needed."""

    options: Options
    filling: Filling
    blocks: int | None = None


def ways(lm: LM, layout: str, options: Options, filling: Filling) -> list[Way]:
    """One for each candidate. Sampled ones differ by their seeds; greedy ones, in place, by their rooms."""
    if filling.candidates == 1:
        return [Way(options, filling)]
    beside = continuing(lm, options, filling) if layout == IN_PLACE else []
    count = filling.candidates - len(beside)
    if options.temperature > 0:
        return [*(Way(replace(options, seed=options.seed + number), filling) for number in range(count)), *beside]
    if layout != IN_PLACE or filling.length is not None:
        raise ValueError("candidates above 1 need a temperature above 0 here: they would all be the same")
    size = options.block_size or lm.traits.block_size
    most = max(lm.traits.gap_room // size, 1)
    if options.max_tokens is not None:
        most = min(most, options.max_tokens // size + 1)
    return [*(Way(options, filling, blocks) for blocks in range(1, min(count, most) + 1)), *beside]


def continuing(lm: LM, options: Options, filling: Filling) -> list[Way]:
    """The prefix continued by causal rows that know nothing of gaps, which are the better writers. None where they
    have learned gaps, and where an end has to be met that they do not see."""
    if lm.traits.gap_causal or filling.length is not None or options.constraints:
        return []
    most = CONTINUED if options.max_tokens is None else options.max_tokens
    return [Way(causal(replace(options, max_tokens=most)), replace(filling, layout=PREFIX, untrained=True))]


@dataclass(frozen=True, slots=True)
class Room:
    """A request that is under way."""

    request: Request
    events: Iterator[Event]


def go_on(lm: LM, prefix: str, suffix: str, way: Way, room: Room) -> Candidate:
    """One candidate: room after room, in place, until the gap ends or all that is wanted is written.

    A room that a way names is an estimate of the length, and is not gone beyond.
    """
    done, options, filling = list[Generation](), way.options, way.filling
    while True:
        generation = lm.finish(room.events)
        done.append(generation)
        wanted = filling.length or options.max_tokens
        full = generation.finish_reason == "length" and room.request.room == room.request.max_tokens
        more = full and wanted is not None and wanted > room.request.max_tokens
        if not more or way.blocks is not None or options.constraints:
            ended = generation.finish_reason == "stop" and generation.stopped_by is None
            trimmed = generation.stopped_by is not None and suffix.startswith(generation.stopped_by)
            text = "".join(one.text for one in done)
            return Candidate(lm.filler.layout(filling), text, tuple(done), ended, trimmed)
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
