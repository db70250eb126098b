"""From specs to places: compiled languages, kept while they are in use, and the check before anything is decoded."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from threading import Lock

from unmask.constraints import gbnf, lark_syntax, regex, schema
from unmask.constraints.columns import Columns
from unmask.constraints.expr import ConstraintError, Source, alt, text
from unmask.constraints.grammar import FAR, compile_source, distances
from unmask.constraints.limits import LONGEST_SOURCE
from unmask.constraints.masks import Masks
from unmask.constraints.matcher import Language, Place
from unmask.constraints.search import fewest
from unmask.constraints.specs import Choice, JsonObject, JsonSchema, Regex, Spec
from unmask.constraints.vocabulary import Vocabulary
from unmask.types import Ids

MOST_LANGUAGES = 16  # kept at a time
MOST_CUT = 4000  # tokens of a shortest text that is worth cutting better


class Compiler:
    """Languages of one vocabulary. May be used by several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._kept = OrderedDict[tuple[Spec, bytes], Masks]()
        self._lock = Lock()

    def start(
        self, spec: Spec, stop_ids: Ids, max_tokens: int, before: bytes = b"", after: bytes = b"", joins: bool = False
    ) -> Place:
        """The place before the first token of a text that obeys `spec`.

        before, after: what stands on both sides of it and obeys together with it. joins: no space is taken off the
        text, because it goes on after another. ConstraintError where the spec cannot be compiled, allows no text here,
        or none of at most `max_tokens` tokens.
        """
        with self._lock:
            masks = self._kept.pop((spec, after), None) or compiled(spec, self.vocabulary, after)
            self._kept[spec, after] = masks
            while len(self._kept) > MOST_LANGUAGES:
                self._kept.popitem(last=False)
            place = Language(masks.columns, masks, stop_ids).start(joins or bool(before))
            column = masks.columns.walk(masks.columns.first, before)
            if column is None or column.cost >= FAR:
                raise ConstraintError("the constraint allows no text between the prefix and the suffix")
            return admitted(replace(place, column=column), max_tokens)


def compiled(spec: Spec, vocabulary: Vocabulary, after: bytes = b"") -> Masks:
    try:
        masks = Masks(Columns(compile_source(source_of(spec), after), vocabulary))
    except RecursionError:
        raise ConstraintError("the constraint is nested too deeply") from None
    grammar, first = masks.columns.grammar, masks.columns.first
    if first.cost >= FAR:
        if distances(grammar, frozenset(range(256)))[0][grammar.start[grammar.main]] >= FAR:
            raise ConstraintError(f"the shortest text that the constraint allows has {FAR} bytes or more")
        raise ConstraintError("no text that the constraint allows can be written with this model's vocabulary")
    return masks


def source_of(spec: Spec) -> Source:
    """The grammar that a spec stands for."""
    if isinstance(spec, Regex):
        return Source({"text": regex.whole(spec.pattern)}, "text")
    if isinstance(spec, Choice):
        if sum(map(len, spec.values)) > LONGEST_SOURCE:
            raise ConstraintError(f"the choices have more than {LONGEST_SOURCE} characters together")
        return Source({"text": alt([text(value) for value in spec.values])}, "text")
    if isinstance(spec, JsonSchema):
        return schema.source(spec.schema)
    if isinstance(spec, JsonObject):
        return schema.source('{"type": "object"}')
    return gbnf.source(spec.text) if spec.syntax == "gbnf" else lark_syntax.source(spec.text)


def admitted(place: Place, budget: int) -> Place:
    """The place, with a promise where its own estimate is above the budget; ConstraintError where no text fits."""
    assert place.column is not None
    if place.column.finished:
        raise ConstraintError("the constraint allows no text but the empty one")
    if place.over(budget):  # a request that asks for tokens ends with one
        raise ConstraintError(
            f"max_tokens is {budget}, and only the empty text is sure to end within it, which needs a stop token"
        )
    if place.fits(budget):
        return place
    if place.column.cost > MOST_CUT:
        raise ConstraintError(
            f"max_tokens is {budget}, but the shortest text that the constraint allows needs about "
            f"{place.column.cost} tokens"
        )
    masks, found = place.language.masks, place.short(FAR)
    if len(found) > budget and not place.unwritten:
        found = fewest(masks, place.column, len(found)) or found
    if len(found) > budget:
        raise ConstraintError(
            f"max_tokens is {budget}, but the shortest text that the constraint allows needs {len(found)} tokens"
        )
    return replace(place, promised=found)
