"""JSON Schema -> grammar. Every text of the grammar is valid under the schema; not every valid one is in it: properties
come in the schema's order, names that it does not list only where it says `additionalProperties`.

A keyword that cannot be kept by construction is refused with its path, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmask.constraints import json_text, regex
from unmask.constraints.expr import (
    EMPTY,
    NOTHING,
    ConstraintError,
    Expr,
    Ref,
    Repeat,
    Seq,
    Source,
    alt,
    maybe,
    text,
)
from unmask.constraints.formats import FORMATS
from unmask.constraints.json_text import COLON, COMMA, SPACE
from unmask.constraints.judge import Judge, JudgeError
from unmask.constraints.limits import DEEPEST, Meter
from unmask.constraints.schema_parts import Json, disjoint, kinds_of, merged, pointer
from unmask.constraints.schema_shape import checked, refusal

NOTES = frozenset(
    {"title", "description", "default", "examples", "$schema", "$comment", "$defs", "definitions", "deprecated"}
    | {"readOnly", "writeOnly", "contentMediaType", "contentEncoding", "discriminator", "nullable"}
)
OF_KIND: dict[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "array": frozenset({"items", "prefixItems", "additionalItems", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
ANYWHERE = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"})
KNOWN = NOTES | ANYWHERE | frozenset[str]().union(*OF_KIND.values())
MOST_NAMES = 200  # of one object
MOST_SPELLED = 100  # characters of strings of bounded length that are spelled out, see `json_text.string_of_length`


def source(schema: str) -> Source:
    """ConstraintError with the path of what is not supported, or of what contradicts itself."""
    root = checked(schema)
    maker = Maker(root)
    start = maker.named(root, "#")
    return Source(maker.rules, start.name if isinstance(start, Ref) else maker.define("#", start))


class Maker:
    """Collects the rules of one schema. A rule is named by the path of what it stands for."""

    def __init__(self, root: Json) -> None:
        self.root = root
        self.rules: dict[str, Expr] = dict(json_text.RULES)
        self.depth = 0
        self.meter = Meter()
        self.spelled = 0

    def define(self, name: str, expr: Expr) -> str:
        self.rules[name] = expr
        return name

    def named(self, schema: Json, path: str) -> Expr:
        """A reference to the rule of a schema, which is made on the way."""
        if path not in self.rules:
            self.rules[path] = NOTHING  # found by whatever refers to it from inside
            self.depth += 1
            if self.depth > 4 * DEEPEST:
                raise refusal(path, f"refers deeper than {4 * DEEPEST} levels")
            self.rules[path] = self.value(schema, path)
            self.depth -= 1
        return Ref(path)

    def value(self, schema: Json, path: str) -> Expr:
        self.meter.state()  # what stands for it has one at least
        if schema is True or schema == {}:
            return Ref("any")
        if schema is False:
            return NOTHING
        assert isinstance(schema, Mapping)
        self.check_keywords(schema, path)
        if "$ref" in schema:
            return self.reference(schema, path)
        if "const" in schema or "enum" in schema:
            return self.listed(schema, path)
        for keyword in ("allOf", "anyOf", "oneOf"):
            if keyword in schema:
                return self.combined(schema, keyword, path)
        return alt([self.of_kind(kind, schema, path) for kind in kinds_of(schema)])

    def check_keywords(self, schema: Mapping[str, Any], path: str) -> None:
        for name, value in schema.items():
            harmless = (name == "uniqueItems" and value is False) or (name == "$id" and path == "#")
            if name not in KNOWN and not name.startswith("x-") and not harmless:
                raise refusal(f"{path}/{name}", "is a keyword that is not supported")

    def reference(self, schema: Mapping[str, Any], path: str) -> Expr:
        target = schema["$ref"]
        found = pointer(self.root, target, f"{path}/$ref")
        beside = {name: value for name, value in schema.items() if name not in NOTES and name != "$ref"}
        if not beside:
            return self.named(found, target.rstrip("/"))
        return self.value(merged([found, beside], path, self.root), path)

    def listed(self, schema: Mapping[str, Any], path: str) -> Expr:
        """`const` and `enum`: the values that everything else beside them allows."""
        taken = "const" if "const" in schema else "enum"
        values = [schema["const"]] if "const" in schema else list(schema["enum"])
        beside = {name: value for name, value in schema.items() if name not in NOTES and name != taken}
        kept = values
        if beside:
            whole = beside | {name: self.root[name] for name in ("$defs", "definitions") if name in _mapping(self.root)}
            try:
                judge = Judge(whole, values)
                kept = [value for value in values if judge.fault(value) is None]
            except JudgeError as error:
                raise refusal(f"{path}/{taken}", f"cannot be compared with what stands beside it: {error}") from None
        if not kept:
            raise refusal(path, "allows no value at all")
        return alt([json_text.literal(value) for value in kept])

    def combined(self, schema: Mapping[str, Any], keyword: str, path: str) -> Expr:
        branches = schema[keyword]
        beside = {name: value for name, value in schema.items() if name not in NOTES and name != keyword}
        if keyword == "allOf":
            return self.value(merged([*branches, beside], path, self.root), path)
        if beside:
            branches = [
                merged([branch, beside], f"{path}/{keyword}/{i}", self.root) for i, branch in enumerate(branches)
            ]
        if keyword == "oneOf":
            for i, one in enumerate(branches):
                for other in branches[:i]:
                    if not disjoint(one, other, self.root, self.meter):
                        raise refusal(f"{path}/oneOf", "has branches that a value may fit at once; use anyOf")
        return alt([self.named(branch, f"{path}/{keyword}/{i}") for i, branch in enumerate(branches)])

    def of_kind(self, kind: str, schema: Mapping[str, Any], path: str) -> Expr:
        used = OF_KIND["number" if kind == "integer" else kind] & schema.keys()
        if not used:
            return Ref(kind)
        if kind == "string":
            return self.string(schema, path)
        if kind in ("integer", "number"):
            return self.number(kind, schema, path)
        return self.array(schema, path) if kind == "array" else self.object(schema, path)

    def string(self, schema: Mapping[str, Any], path: str) -> Expr:
        names = [name for name in ("pattern", "format") if name in schema]
        lengths = [name for name in ("minLength", "maxLength") if name in schema]
        if names and (lengths or len(names) > 1):
            raise refusal(f"{path}/{(names + lengths)[1]}", f"is not supported beside {names[0]}")
        try:
            if "pattern" in schema:
                return json_text.quoted(regex.within(schema["pattern"]))
            if "format" in schema:
                if schema["format"] not in FORMATS:
                    known = ", ".join(FORMATS)
                    raise ConstraintError(
                        f"is {schema['format']!r:.40}, a format that is not supported; known: {known}"
                    )
                return json_text.quoted(regex.whole(FORMATS[schema["format"]]))
        except ConstraintError as error:
            raise refusal(f"{path}/{names[0]}", str(error) if "format" in schema else f"is refused: {error}") from None
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        if most is not None and most < least:
            raise refusal(f"{path}/maxLength", f"({most}) is below minLength ({least}): no value fits")
        most = None if most is None else int(most)
        counted = least + 1 if most is None else most
        spelled = self.spelled + counted <= MOST_SPELLED
        self.spelled += counted if spelled else 0
        return json_text.string_of_length(least, most, spelled)

    def number(self, kind: str, schema: Mapping[str, Any], path: str) -> Expr:
        lows = [(json_text.bound(schema[n]), n == "minimum") for n in ("minimum", "exclusiveMinimum") if n in schema]
        highs = [(json_text.bound(schema[n]), n == "maximum") for n in ("maximum", "exclusiveMaximum") if n in schema]
        low = max(lows, key=lambda found: (found[0], not found[1]), default=None)
        high = min(highs, key=lambda found: (found[0], found[1]), default=None)
        if kind == "number":
            found = json_text.numbers(low, high)
        else:
            least = None if low is None else json_text.ceiling(low[0])
            most = None if high is None else json_text.floor(high[0])
            least = least + 1 if low and least == low[0] and not low[1] else least  # type: ignore[operator]
            most = most - 1 if high and most == high[0] and not high[1] else most  # type: ignore[operator]
            found = json_text.integers(least, most)
        if found == NOTHING or (low and high and low[0] > high[0]):
            raise refusal(path, "has bounds between which there is no number")
        return found

    def array(self, schema: Mapping[str, Any], path: str) -> Expr:
        first, rest, name = schema.get("prefixItems", []), schema.get("items", True), "items"
        if isinstance(rest, list):  # before draft 2020-12
            first, rest, name = rest, schema.get("additionalItems", True), "additionalItems"
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        most = None if most is None else int(most)
        if rest is False:
            most = len(first) if most is None else min(most, len(first))
        if most is not None and most < least:
            raise refusal(f"{path}/minItems", f"({least}) is above what the array may hold ({most}): no value fits")
        places = "prefixItems" if name == "items" else "items"
        shown = first if most is None else first[:most]
        items = [self.named(part, f"{path}/{places}/{i}") for i, part in enumerate(shown)]
        more: Expr = EMPTY
        if rest is not False and (most is None or most > len(items)):
            again = Seq((COMMA, self.named(rest, f"{path}/{name}")))
            more = Repeat(again, max(0, least - len(items)), None if most is None else most - len(items))
        if not items:
            return self.plain_array(more, least, most)
        # Item i and all after it, from the last one back.
        tail: Expr = more
        for i in range(len(items) - 1, -1, -1):
            here = Seq((*((COMMA,) if i else ()), items[i], tail))
            tail = here if i < least else maybe(here)
            tail = Ref(self.define(f"{path}/{places}/{i}/", tail))
        return Seq((text("["), SPACE, tail, SPACE, text("]")))

    def plain_array(self, more: Expr, least: int, most: int | None) -> Expr:
        if not isinstance(more, Repeat) or most == 0:
            return Seq((text("["), SPACE, text("]")))
        item = more.body.parts[1] if isinstance(more.body, Seq) else EMPTY
        filled = Seq((item, Repeat(more.body, max(0, least - 1), None if most is None else most - 1), SPACE))
        return Seq((text("["), SPACE, filled if least else maybe(filled), text("]")))

    def object(self, schema: Mapping[str, Any], path: str) -> Expr:
        extra = schema.get("additionalProperties", "properties" not in schema)
        listed = dict(schema.get("properties", {}))
        required = list(dict.fromkeys(schema.get("required", ())))
        for name in required:
            if name not in listed:
                if extra is False and "additionalProperties" in schema:
                    raise refusal(f"{path}/required", f"asks for {name!r:.80}, which additionalProperties forbids")
                listed[name] = extra or True
        if len(listed) > MOST_NAMES:
            raise refusal(f"{path}/properties", f"has more than {MOST_NAMES} names")
        pairs = {
            name: Ref(self.define(f"{path}/properties/{name}/", Seq((json_text.literal(name), COLON, place))))
            for name, part in listed.items()
            for place in (self.named(part, f"{path}/properties/{name}"),)
        }
        free: Expr | None = None
        if extra is not False:
            if any(len(name) > 100 for name in listed):
                raise refusal(f"{path}/additionalProperties", "is not supported beside names of over 100 characters")
            name = json_text.other_than(listed) if listed else Ref("string")
            free = Seq((name, COLON, self.named(extra, f"{path}/additionalProperties")))
        least, most = int(schema.get("minProperties", 0)), schema.get("maxProperties")
        if least > max(1, len(required)) and free is not None:
            raise refusal(f"{path}/minProperties", "is not supported where names are free: they may be given twice")
        inside = Members(self, path, pairs, set(required), free, least, None if most is None else int(most))
        return Seq((text("{"), SPACE, inside.expr(), text("}")))


class Members:
    """The members of an object, listed ones in order: rule by rule, each with how many are out where that counts."""

    def __init__(
        self,
        maker: Maker,
        path: str,
        pairs: dict[str, Ref],
        required: set[str],
        free: Expr | None,
        least: int,
        most: int | None,
    ) -> None:
        self.maker, self.path, self.pairs, self.required, self.free = maker, path, list(pairs.items()), required, free
        self.counts = least > len(required) or most is not None
        self.least, self.most = least, most

    def expr(self) -> Expr:
        found = self.members(0, 0)
        if found == NOTHING:
            raise refusal(self.path, "asks for a number of properties that no object has")
        return found

    def members(self, index: int, out: int) -> Expr:
        """What may follow before the brace, with the listed names from `index` on still to come and `out` given."""
        name = f"{self.path}/members/{index}/{out if self.counts else min(out, 1)}"
        if name not in self.maker.rules:
            self.maker.define(name, NOTHING)
            self.maker.define(name, self.ways(index, out))
        return NOTHING if self.maker.rules[name] == NOTHING else Ref(name)

    def ways(self, index: int, out: int) -> Expr:
        before = (COMMA,) if out else ()
        if index == len(self.pairs):
            return self.rest(out)
        # As many required names in a row as there are go into one rule.
        upto = index
        while upto < len(self.pairs) and self.pairs[upto][0] in self.required:
            upto += 1
        if upto > index:
            row = [part for _, pair in self.pairs[index:upto] for part in (COMMA, pair)]
            after = self.members(upto, out + upto - index)
            return NOTHING if after == NOTHING else Seq((*before, *row[1:], after))
        ways = [self.members(index + 1, out)]
        if self.most is None or out < self.most:
            after = self.members(index + 1, out + 1)
            ways.append(NOTHING if after == NOTHING else Seq((*before, self.pairs[index][1], after)))
        kept = [way for way in ways if way != NOTHING]
        return alt(kept) if kept else NOTHING

    def rest(self, out: int) -> Expr:
        most = None if self.most is None else self.most - out
        if most is not None and most < 0:
            return NOTHING
        end = SPACE if out else EMPTY
        if self.free is None or most == 0:
            return end if out >= self.least else NOTHING
        missing = max(0, self.least - out)
        again = Seq((COMMA, self.free))
        if out:
            return Seq((Repeat(again, missing, most), SPACE))
        filled = Seq((self.free, Repeat(again, max(0, missing - 1), None if most is None else most - 1), SPACE))
        return filled if missing else maybe(filled)


def _mapping(value: Json) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
