"""What fills a gap in a text: which layout a checkpoint has for it, and the request that asks for one room of it.

"in-place": the suffix sits behind the room and is seen (`types.Request.room`), for checkpoints that have learned it.
"psm", "spm": prefix and suffix in a prompt, by the tokenizer's fill-in-the-middle tokens. "prefix": the prefix alone is
continued, by a model that has learned neither; the suffix then only chooses where to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmask.lm.constraining import Constraining
from unmask.lm.follow import Follow
from unmask.lm.options import Options, default_mode, request_of
from unmask.text import Tokenizer
from unmask.text.fim import Fim, fim_of
from unmask.text.healing import Healer
from unmask.types import Ids, Request, Traits

IN_PLACE, PREFIX = "in-place", "prefix"
LAYOUTS = (IN_PLACE, "psm", "spm", PREFIX)
GAP, WHOLE = "gap", "whole"
SUFFIX_TOKENS = 256  # of a suffix are shown; training shows fewer
LONG_TOKEN = 32  # characters; what lies beyond so many times as much is not tokenised at all
# A middle that goes on with the suffix's own beginning has run past its end: so much of it is proof enough.
OVERLAP, OVERLAP_VISIBLE = 16, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How a gap is filled, beside the options of any generation.

    layout: one of LAYOUTS; None takes the best that the checkpoint has. length: exactly so many tokens.
    candidates: so many fillings, of which the one that the causal rows like best is taken, together with the first
        tokens of the suffix.
    heal: whether the last token of the prefix may be written anew, as the beginning of a longer one; None: except in
        place, where torn tokens were learned.
    untrained: a model that has not learned it may try, by layout "prefix".
    constrain: what a hard constraint is about: the text of the "gap", or prefix, gap and suffix together, as a "whole".
    """

    layout: str | None = None
    length: int | None = None
    candidates: int = 1
    heal: bool | None = None
    untrained: bool = False
    constrain: str = GAP

    def __post_init__(self) -> None:
        if self.layout not in (None, *LAYOUTS):
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        if self.length is not None and self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")
        if not 1 <= self.candidates <= 64:
            raise ValueError(f"candidates must be between 1 and 64, got {self.candidates}")
        if self.constrain not in (GAP, WHOLE):
            raise ValueError(f"constrain must be {GAP} or {WHOLE}, got {self.constrain!r}")


class Filler:
    """Layouts and requests of one checkpoint."""

    def __init__(
        self, tokenizer: Tokenizer, traits: Traits, stop_ids: Ids, max_position: int, constraining: Constraining
    ) -> None:
        self.tokenizer, self.traits, self.stop_ids, self.max_position = tokenizer, traits, stop_ids, max_position
        self.constraining = constraining
        self.bos: Ids = (tokenizer.bos_id,) if tokenizer.add_bos and tokenizer.bos_id is not None else ()
        self.fim: Fim | None = fim_of(tokenizer)
        self.healer = Healer(tokenizer, traits.mask_id)

    @property
    def layouts(self) -> tuple[str, ...]:
        """What the checkpoint can fill gaps with, the best first; none where it has not learned to."""
        in_place = (IN_PLACE,) if self.traits.gap_end is not None else ()
        return (*in_place, *(self.fim.orders if self.fim else ()))

    def layout(self, filling: Filling) -> str:
        """The layout to use; ValueError where the checkpoint has not learned the one that is asked for, or any."""
        known = self.layouts
        if filling.layout == PREFIX or (filling.layout is None and not known):
            if filling.untrained:
                return PREFIX
            raise ValueError(
                "this model cannot fill a gap: it was not trained with gaps (`unmask convert --infill`), and its"
                " tokenizer has no fill-in-the-middle tokens; untrained=True (--untrained) lets it continue the prefix"
                " alone"
            )
        if filling.layout is not None and filling.layout not in known:
            allowed = " or ".join(map(repr, known or (PREFIX,)))
            raise ValueError(f"layout must be {allowed} here, got {filling.layout!r}")
        return filling.layout or known[0]

    def mode(self, layout: str, mode: str | None) -> str:
        """The mode to use; ValueError for one whose rows have not learned the layout."""
        if layout != IN_PLACE or (self.traits.gap_causal and self.traits.gap_adapter is None):
            return mode or default_mode(self.traits)
        if self.traits.gap_causal:  # rows that nobody has learned to draft behind: AR is quickest
            if mode == "fastdiffuser":
                raise ValueError(
                    f"mode must be 'ar' or 'self-speculation' to fill a gap with this checkpoint, got {mode!r}"
                )
            return "ar" if mode in (None, "auto") else mode
        if mode not in (None, "auto", "fastdiffuser"):
            raise ValueError(f"mode must be 'fastdiffuser' to fill a gap with this checkpoint, got {mode!r}")
        return "fastdiffuser"

    def prepare(
        self, prefix: str | Sequence[int], suffix: str, options: Options, filling: Filling, blocks: int | None = None
    ) -> tuple[Request, Follow]:
        """One request, in place for one room at most, and what makes text of its updates.

        prefix: text, or ids, which get no bos token. Of the suffix the first SUFFIX_TOKENS are shown. blocks: the room,
        in place; None: what may be needed. Raises ValueError as `layout`, `mode` and `request_of`.
        """
        layout = self.layout(filling)
        options = replace(options, mode=self.mode(layout, options.mode))
        if filling.length is not None:
            options = replace(options, max_tokens=filling.length, min_tokens=filling.length)
        if filling.constrain == WHOLE and not options.hard:
            raise ValueError("constrain 'whole' has nothing to act on: no hard constraint is among the constraints")
        before = self.tokenizer.encode(prefix) if isinstance(prefix, str) else tuple(prefix)
        bos = self.bos if isinstance(prefix, str) else ()
        heal = filling.heal if filling.heal is not None else layout != IN_PLACE
        before, written = self.healer.begin(before) if heal and before and not options.hard else (before, b"")
        shown = suffix[: SUFFIX_TOKENS * LONG_TOKEN] if layout != PREFIX else ""
        after = self.tokenizer.encode(shown)[:SUFFIX_TOKENS]
        if layout == IN_PLACE:
            request = self.in_place((*bos, *before) or self.beginning(), after, options, blocks)
        elif layout == PREFIX or self.fim is None:
            request = request_of(
                (*bos, *before) or self.beginning(), options, self.traits, self.stop_ids, self.max_position
            )
        else:
            prompt = (*bos, *self.fim.prompt(before, after, layout))
            ends = tuple(dict.fromkeys((*self.stop_ids, *self.fim.ends)))
            request = request_of(prompt, options, self.traits, ends, self.max_position)
        stop = options.stop if options.hard else (*options.stop, *overlap(suffix))
        seen = prefix if isinstance(prefix, str) else self.tokenizer.decode(prefix)
        seen = seen[: len(seen) - len(written.decode())]  # which is written again
        around = (seen, suffix) if filling.constrain == WHOLE else ("", "")
        request = self.constraining.constrained(request, options, stop, seen, suffix, around)
        if written:
            request = replace(request, constraint=self.healer.start(written))
        mode = options.mode or default_mode(self.traits)
        return request, Follow(self.tokenizer, request, stop, mode, options.hard, len(written.decode()), around)

    def beginning(self) -> Ids:
        """What stands for nothing before the gap."""
        start = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else next(iter(self.stop_ids), None)
        if start is None:
            raise ValueError("the prefix is empty, and the tokenizer has no token to begin a text with")
        return (start,)

    def gap(self, prefix: str, suffix: str, tokens: int) -> Request:
        """A gap between two texts, as wide as was learned, or, for more tokens, of as many blocks as they need."""
        size = self.traits.block_size
        room = max(-(-tokens // size) * size, self.traits.gap_room)
        before = (*self.bos, *self.tokenizer.encode(prefix)) or self.beginning()
        after = self.tokenizer.encode(suffix[: SUFFIX_TOKENS * LONG_TOKEN])[:SUFFIX_TOKENS]
        return Request(before, room, traits=self.traits, suffix=after, room=room)

    def in_place(self, prefix: Ids, suffix: Ids, options: Options, blocks: int | None) -> Request:
        traits = self.traits
        assert traits.gap_end is not None
        size = options.block_size or traits.block_size
        widest = max(traits.gap_room // size, 1) * size
        wanted = widest - 1 if options.max_tokens is None else options.max_tokens
        room = min((wanted // size + 1) * size, widest if blocks is None else blocks * size)
        limit = min(wanted, room if blocks is None else max(room - 1, 1))  # an estimate leaves room for the end
        chosen = replace(options, max_tokens=limit, min_tokens=min(options.min_tokens, limit))
        ends = tuple(dict.fromkeys((traits.gap_end, *self.stop_ids)))
        request = request_of(prefix, chosen, traits, ends, self.max_position)
        if traits.gap_end not in request.stop_ids:  # ignore_eos is about the end of a text
            request = replace(request, stop_ids=(traits.gap_end, *request.stop_ids))
        return replace(request, suffix=suffix, room=room)


def overlap(suffix: str) -> tuple[str, ...]:
    """The beginning of the suffix that a middle must not run into, as a stop string; none of a short one."""
    visible = 0
    for place, letter in enumerate(suffix, 1):
        visible += not letter.isspace()
        if place >= OVERLAP and visible >= OVERLAP_VISIBLE:
            return (suffix[:place],)
    return ()
