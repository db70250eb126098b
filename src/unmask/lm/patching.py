"""`LM.patch`: who fills the gaps of a patch. Greedy fillings and sampled ones, ranked by the causal rows.

A model that has not learned to fill continues the prefix, where it is allowed to, cut after each of its first lines.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unmask.constraints.oracles import Avoids, Contains, Length
from unmask.lm.code_blocks import CodeBlocks
from unmask.lm.fill import Filled, fill
from unmask.lm.filling import IN_PLACE, LONG_TOKEN, PREFIX, SUFFIX_TOKENS, Filling
from unmask.lm.options import Options, options_of
from unmask.lm.ranking import Score, scores
from unmask.patching import Asked, Candidate, Gap, Mended, Patched, Written, series_of, task_of

if TYPE_CHECKING:
    from unmask.lm.lm import LM
    from unmask.text import Tokenizer
    from unmask.types import Oracle

VARIETY = 0.8  # temperature of further candidates where none is given
SPARE = 24  # tokens that a filling may be longer than twice what it replaces
PREFIX_TOKENS = 1024  # of what is before a gap are shown
CONTEXT_TOKENS = 1024  # of other files


@dataclass(frozen=True, slots=True)
class ModelFills:
    """A `patching.Fills` by `lm.fill.fill`. Forwards: of all generations, and every candidate that is scored
    counts as one, though several may share it."""

    lm: LM
    options: Options
    filling: Filling

    def __call__(self, gap: Gap) -> tuple[Sequence[Candidate], int]:
        options = self.fitted(gap)
        gap = self.near(gap, options.max_tokens or self.lm.traits.gap_room)
        if gap.choices:  # nothing has to be written
            ranked, scored = self.ranked(gap, dict.fromkeys(gap.choices))
            return ranked[: gap.count], scored
        made = [one for filled in self.filled(gap, options) for one in filled.candidates]
        ranked, scored = self.ranked(gap, {one.text: one.score for one in reversed(made)})
        runs = {id(run): run for one in made for run in one.generations}.values()
        return ranked[: gap.count], sum(run.stats.nfe + run.stats.prefills for run in runs) + scored

    def filled(self, gap: Gap, options: Options) -> list[Filled]:
        """A greedy filling, in place one of every room, and as many sampled ones as are missing then."""
        made, warm = list[Filled](), options
        if options.temperature == 0:
            layout, warm = self.lm.filler.layout(self.filling), replace(options, temperature=VARIETY)
            rooms = layout == IN_PLACE and not options.constraints
            made.append(self.fill(gap, options, gap.count if rooms else 1))
        missing = gap.count - len({one.text for filled in made for one in filled.candidates})
        return [*made, self.fill(gap, warm, missing)] if missing > 0 else made

    def near(self, gap: Gap, room: int) -> Gap:
        """With as much before and after it as fits beside the room; what is before begins with a line. Other files
        have what is left then."""
        tokenizer, context = self.lm.tokenizer, self.lm.config.max_position
        before = tokenizer.encode(gap.prefix[-PREFIX_TOKENS * LONG_TOKEN :])
        after = tokenizer.encode(gap.suffix[: SUFFIX_TOKENS * LONG_TOKEN])[: min(SUFFIX_TOKENS, context // 4)]
        free = context - room - len(after) - 8  # for the tokens that a layout adds
        most = max(min(free, PREFIX_TOKENS), 1)
        prefix = gap.prefix if len(before) <= most else tokenizer.decode(before[-most:]).partition("\n")[2]
        others = beginnings(tokenizer, gap.context, min(free - min(len(before), most), CONTEXT_TOKENS))
        return replace(gap, prefix=others + prefix, suffix=tokenizer.decode(after))

    def fill(self, gap: Gap, options: Options, count: int) -> Filled:
        filling = replace(self.filling, candidates=count)
        if self.lm.filler.layout(filling) != PREFIX:
            return fill(self.lm, gap.prefix, gap.suffix, options, filling)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # `fills_of` has told it
            return fill(self.lm, gap.prefix, gap.suffix, options, filling)

    def fitted(self, gap: Gap) -> Options:
        """The options with room for what was there before."""
        options, lm = self.options, self.lm
        if options.max_tokens is None and self.filling.length is None:
            wanted = min(2 * len(lm.tokenizer.encode(gap.old)) + SPARE, lm.config.max_position // 2)
            if lm.filler.layout(self.filling) != IN_PLACE or wanted > lm.traits.gap_room:
                options = replace(options, max_tokens=wanted)  # else a gap in place ends in the room it has
        return options

    def ranked(self, gap: Gap, made: Mapping[str, Score | None]) -> tuple[list[Candidate], int]:
        """Candidates with their scores, the best first, and how many had to be scored."""
        exact = bool(self.options.hard)
        if len(made) < 2:
            return [Candidate(text, exact=exact) for text in made], 0
        known = {text: score.whole for text, score in made.items() if score is not None}
        rest = [text for text in made if text not in known]
        for text, score in zip(rest, scores(self.lm, gap.prefix, rest, gap.suffix), strict=True):
            known[text] = score.whole
        ordered = sorted(known, key=lambda text: -known[text])
        return [Candidate(text, known[text], exact) for text in ordered], len(known)


def beginnings(tokenizer: Tokenizer, files: Sequence[str], room: int) -> str:
    """As many whole lines from the beginning of each file as fit into its share of the room, in tokens; where one needs
    less, the others have more. Short ones first, so that none is cut for one that is long."""
    shown = dict[int, str]()
    for done, number in enumerate(sorted(range(len(files)), key=lambda number: len(files[number]))):
        text = files[number]
        share = max(room // (len(files) - done) - 2, 0)  # 2: for an end, and for tokens cut otherwise where texts meet
        kept = tokenizer.decode(tokenizer.encode(text[: share * LONG_TOKEN])[:share])
        lines = kept[: kept.rfind("\n") + 1]
        some = f"{lines}\n" if "\n" in lines.strip() else ""  # more than its name
        shown[number] = text if kept == text else some
        room -= len(tokenizer.encode(shown[number])) + 1
    return "".join(shown[number] for number in range(len(files)))


def fills_of(
    lm: LM, options: Mapping[str, Any], layout: str | None = None, heal: bool | None = None, untrained: bool = False
) -> ModelFills:
    """ValueError for a model that has not learned to fill, unless `untrained` lets it continue the prefix."""
    filling = Filling(layout=layout, heal=heal, untrained=untrained)
    if lm.filler.layout(filling) == PREFIX:
        warnings.warn(
            "this model has not learned to fill gaps: it continues what is before one, and what follows chooses where"
            " to stop",
            stacklevel=5,
        )
    return ModelFills(lm, options_of(options), filling)


def patch(lm: LM, text: str | bytes, path: str, given: Mapping[str, Any]) -> Patched:
    """See `LM.patch`."""
    asked, fills = parted(lm, given)
    return task_of(as_bytes(text), path, asked).run(fills)


def patch_all(lm: LM, text: str | bytes, path: str, max_faults: int, given: Mapping[str, Any]) -> Mended:
    """See `LM.patch_all`."""
    asked, fills = parted(lm, given)
    return series_of(as_bytes(text), path, asked, max_faults).run(fills)


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def parted(lm: LM, given: Mapping[str, Any]) -> tuple[Asked, ModelFills]:
    """What is asked for, and who fills."""
    own = {name: value for name, value in given.items() if name in Asked.__slots__}
    how = {name: given[name] for name in ("layout", "heal", "untrained") if name in given}
    fills = fills_of(lm, {name: value for name, value in given.items() if name not in {*own, *how}}, **how)
    return Asked(**own | {"oracles": tuple(map(about_written, own.get("oracles", ())))}), fills


def about_written(oracle: Oracle) -> Oracle:
    """An oracle that looks at the written part alone, as one that no old text excuses; any other as it is."""
    return Written(oracle) if isinstance(oracle, Avoids | CodeBlocks | Contains | Length) else oracle
