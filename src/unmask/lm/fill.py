"""`LM.fill`: gaps of any length, candidates and the choice among them, all by requests to the engine.

In place a gap is filled room by room: where one is full before the model ends the gap, what was written becomes part of
the prefix and the suffix moves on. Where it is an adapter that has learned gaps, some of several candidates are those
of the causal rows without it: the prefix continued, by `lm.branching`. Every candidate is a plain request, so several
run in one batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unmask.lm.branching import OTHERS, Branch, Root, branches
from unmask.lm.cutting import cuts, endings
from unmask.lm.filling import IN_PLACE, LONG_TOKEN, PREFIX, SUFFIX_TOKENS, Filling
from unmask.lm.follow import Follow
from unmask.lm.options import Options, causal
from unmask.lm.ranking import Score, scores
from unmask.lm.result import Event, Generation, Numbers
from unmask.types import Request

if TYPE_CHECKING:
    from unmask.lm.lm import LM

CUTS, FEWEST_CUTS = 16, 3  # places at which continued prefixes may be cut: all of one candidate, each of many
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
    unique = dict[str, Candidate]()
    for way, (request, follow), room in zip(every, ready, rooms, strict=True):
        first = go_on(lm, prefix, suffix, way, room)
        # One that needed further rooms is not parted from: the others would end with the first.
        parts = way.others and len(first.generations) == 1
        others = beside(lm, suffix, first, request, follow, way.others, options.logprobs) if parts else []
        for one in (first, *others):
            for candidate in ends(suffix, options, filling, request, follow, one):
                unique.setdefault(candidate.text, candidate)
    made = list(unique.values())
    if len(made) > 1:
        found = scores(lm, prefix, [candidate.text for candidate in made], suffix)
        made = [replace(candidate, score=score) for candidate, score in zip(made, found, strict=True)]
    return Filled(max(made, key=lambda candidate: candidate.score.whole if candidate.score else 0.0), tuple(made))


@dataclass(frozen=True, slots=True)
class Way:
    """How one candidate is made. blocks: its room; None: what may be needed. others: so many more part from it."""

    options: Options
    filling: Filling
    blocks: int | None = None
    others: int = 0


def ways(lm: LM, layout: str, options: Options, filling: Filling) -> list[Way]:
    """Those of all candidates. Sampled ones differ by their seeds; greedy ones by their rooms in place, and else by
    where they part from the first."""
    count = filling.candidates
    if count == 1:
        return [Way(options, filling)]
    helped = layout == IN_PLACE and continues(lm, options, filling)
    if options.temperature > 0:
        made = [Way(replace(options, seed=options.seed + number), filling) for number in range(count - helped)]
        return [*made, continuing(options, filling)] if helped else made
    if layout != IN_PLACE:
        if options.mode == "fastdiffuser" or options.soft:
            raise ValueError("candidates above 1 need a temperature above 0 here: they would all be the same")
        return [with_others(options, filling, count - 1)]
    if filling.length is not None:
        raise ValueError("candidates above 1 need a temperature above 0 here: they would all be the same")
    if lm.traits.gap_adapter is not None:
        if options.soft:
            raise ValueError("candidates above 1 need a temperature above 0 here: they would all be the same")
        beside = count // 2 if helped else 0
        made = [with_others(options, filling, count - beside - 1)]
        return [*made, continuing(options, filling, beside - 1)] if beside else made
    size = options.block_size or lm.traits.block_size
    most = max(lm.traits.gap_room // size, 1)
    if options.max_tokens is not None:
        most = min(most, options.max_tokens // size + 1)
    made = [Way(options, filling, blocks) for blocks in range(1, min(count - helped, most) + 1)]
    return [*made, continuing(options, filling, count - len(made) - 1)] if helped else made


def continues(lm: LM, options: Options, filling: Filling) -> bool:
    """Whether causal rows that know nothing of gaps continue the prefix beside what is filled in place: of much of a
    text they are the better writers. Not where a model has learned gaps as a whole, nor where an end has to be met that
    they do not see."""
    whole = lm.traits.gap_causal and lm.traits.gap_adapter is None
    return not (whole or filling.length is not None or options.constraints)


def continuing(options: Options, filling: Filling, others: int = 0) -> Way:
    most = CONTINUED if options.max_tokens is None else options.max_tokens
    way = replace(filling, layout=PREFIX, untrained=True)
    return with_others(causal(replace(options, max_tokens=most)), way, others)


def with_others(options: Options, filling: Filling, others: int) -> Way:
    """Where others part from it, its tokens have to be known with what else was likely."""
    known = replace(options, logprobs=max(options.logprobs or 0, OTHERS)) if others else options
    return Way(known, filling, others=others)


def beside(
    lm: LM, suffix: str, first: Candidate, request: Request, follow: Follow, count: int, logprobs: int | None
) -> list[Candidate]:
    """So many more candidates that part from a greedy one. logprobs: of `Options`, as asked."""
    names = lm.tokenizer.encode(suffix[: SUFFIX_TOKENS * LONG_TOKEN])[:SUFFIX_TOKENS] if first.layout == PREFIX else ()
    root = Root(request, follow, frozenset(names), lm.tokenizer.special_ids, logprobs)
    found = branches(root, first.generations[0].tokens, count)
    streams = [None if one.done else lm.submit(one.request, one.follow) for one in found]
    made = [
        whole(one, first.generations[0]) if stream is None else lm.finish(stream)
        for one, stream in zip(found, streams, strict=True)
    ]
    return [candidate_of(first.layout, suffix, (generation,)) for generation in made]


def whole(branch: Branch, greedy: Generation) -> Generation:
    """One that its head is all of, which cost nothing more than the greedy text did."""
    hit = branch.follow.stream.hit
    nothing = Numbers(**dict.fromkeys(Numbers.__slots__, 0))
    return replace(
        greedy,
        text="".join(branch.follow.text),
        token_ids=tuple(token.id for token in branch.head),
        tokens=branch.head,
        finish_reason="stop",
        stopped_by=hit.text if hit else None,
        stats=nothing,
    )


def ends(
    suffix: str, options: Options, filling: Filling, request: Request, follow: Follow, made: Candidate
) -> list[Candidate]:
    """A continued prefix ended wherever the suffix may go on; what has seen the suffix, as it is."""
    if made.layout != PREFIX or not suffix:
        return [made]
    last, most = made.generations[-1], max(CUTS // filling.candidates, FEWEST_CUTS)
    if not options.hard:
        texts = cuts(made.text, suffix, most, whole=last.finish_reason == "stop")
    elif request.constraint is not None and last.text == made.text:
        texts = [*endings(request.constraint, request.max_tokens, last.token_ids, follow.blank)[:most], made.text]
    else:
        texts = [made.text]
    unlike = {text: replace(made, text=text, ended=made.ended and text == made.text) for text in texts}
    return list(unlike.values())


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
            return candidate_of(lm.filler.layout(filling), suffix, tuple(done))
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


def candidate_of(layout: str, suffix: str, generations: tuple[Generation, ...]) -> Candidate:
    last = generations[-1]
    ended = last.finish_reason == "stop" and last.stopped_by is None
    trimmed = last.stopped_by is not None and suffix.startswith(last.stopped_by)
    return Candidate(layout, "".join(one.text for one in generations), generations, ended, trimmed)


def check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be text, got {type(text).__name__}")
