"""Sixty JSON Schemas of growing difficulty, ten of each level, and what is asked for under each, in words.

Written for this suite. All of them are within the draft 2020-12 but one, which says that it is older.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

Schema = Mapping[str, Any]
Level = Mapping[str, tuple[str, Schema]]  # name -> (what is asked for, the schema)
KINDS: tuple[Schema, ...] = tuple({"type": kind} for kind in ("string", "integer", "number", "boolean", "null"))
TEXT, WHOLE, NUMBER, FLAG, NONE = KINDS
PER_LEVEL = 10
EXAMPLE = (
    'Each answer is one JSON document that is valid under the schema.\n\nSchema: {"type": "object", "properties":'
    ' {"colour": {"enum": ["red", "blue"]}, "size": {"type": "integer"}}, "required": ["colour", "size"]}\n'
    'Task: A small red thing.\nJSON:\n{"colour": "red", "size": 1}\n\n'
)


@dataclass(frozen=True, slots=True)
class Task:
    """level: of LEVELS. ask: what the document should say."""

    level: str
    name: str
    ask: str
    schema: Schema

    @property
    def prompt(self) -> str:
        """To be continued with the document: an example, the schema, the task."""
        return f"{EXAMPLE}Schema: {json.dumps(self.schema, ensure_ascii=False)}\nTask: {self.ask}\nJSON:\n"


def record(**parts: Schema) -> Schema:
    """An object with these members and no others, all of them required."""
    return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}


def optional(needed: tuple[str, ...], **parts: Schema) -> Schema:
    """An object with these members and no others, some of them required."""
    return {**record(**parts), "required": list(needed)}


def listed(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    bounds = {"minItems": least} | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": items, **bounds}


def tuple_of(*items: Schema) -> Schema:
    """An array of exactly these."""
    return {"type": "array", "prefixItems": list(items), "minItems": len(items), "items": False}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def always(value: Any) -> Schema:
    return {"const": value}


def whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def pattern(expression: str) -> Schema:
    return {"type": "string", "pattern": expression}


def shaped(name: str) -> Schema:
    return {"type": "string", "format": name}


def short(most: int, least: int = 1) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most}


def map_of(values: Schema, most: int) -> Schema:
    """An object whose names are free."""
    return {"type": "object", "additionalProperties": values, "minProperties": 1, "maxProperties": most}


def ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def defining(root: Schema, **parts: Schema) -> Schema:
    return {"$defs": parts, **root}


DAYS = one_of("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ADDRESS = record(street=TEXT, city=TEXT, code=pattern("^[0-9]{5}$"))

FLAT: Level = {
    "person": ("Ada, who is 36 years old.", record(name=TEXT, age=WHOLE)),
    "book": ("The novel Emma by Jane Austen, from 1815.", record(title=TEXT, author=TEXT, year=WHOLE)),
    "city": ("Paris.", record(name=TEXT, country=TEXT, people=WHOLE, capital=FLAG)),
    "weather": ("A rainy day in London at 11.5 degrees.", record(place=TEXT, celsius=NUMBER, raining=FLAG)),
    "product": ("A lamp for 24.90 that can be had.", record(name=TEXT, price=NUMBER, in_stock=FLAG)),
    "film": ("A black and white film of 88 minutes.", record(title=TEXT, director=TEXT, minutes=WHOLE, colour=FLAG)),
    "account": (
        "Account 7 of somebody at example.org, in use, without a note.",
        record(id=WHOLE, email=TEXT, active=FLAG, note={"type": ["string", "null"]}),
    ),
    "song": ("A song of three minutes and who sings it.", record(title=TEXT, artist=TEXT, seconds=WHOLE)),
    "server": ("A web server on port 443.", record(host=TEXT, port=WHOLE, secure=FLAG, load=NUMBER)),
    "pet": ("The cat Tom.", optional(("name",), name=TEXT, species=TEXT, age=WHOLE, tame=FLAG)),
}

VALUES: Level = {
    "light": ("A traffic light that is red for 40 s.", record(colour=one_of("red", "green"), seconds=whole(1, 90))),
    "ticket": (
        "An open bug that matters much.",
        record(kind=always("bug"), priority=one_of("low", "normal", "high"), open=FLAG),
    ),
    "rating": ("Four stars and a word of praise.", record(stars=whole(1, 5), text=TEXT)),
    "dice": ("What a die shows.", one_of(1, 2, 3, 4, 5, 6)),
    "chance": ("How likely rain is.", record(event=TEXT, chance={"type": "number", "minimum": 0, "maximum": 1})),
    "cold": (
        "The temperature of ice in degrees Celsius.",
        record(celsius={"type": "number", "exclusiveMinimum": -273.15, "exclusiveMaximum": 1000}),
    ),
    "day": ("The first of May 2001.", record(year=whole(1900, 2100), month=whole(1, 12), day=whole(1, 31))),
    "answer": ("Nobody knows.", record(question=TEXT, answer=one_of(True, False, None, "unknown"))),
    "dose": (
        "Half a gram.",
        record(amount={"type": "number", "exclusiveMinimum": 0, "maximum": 500}, unit=one_of("mg", "g", "ml")),
    ),
    "header": (
        "Version 2 of the format, with 12 entries.",
        record(format=always({"name": "box", "version": [2, 0]}), entries={"type": ["integer", "null"], "minimum": 0}),
    ),
}

ARRAYS: Level = {
    "tags": ("A few tags of a text about cooking.", listed(TEXT, 1, 4)),
    "triple": ("The numbers one, two, three.", listed(WHOLE, 3, 3)),
    "point": (
        "Latitude and longitude of Berlin.",
        tuple_of(*({"type": "number", "minimum": -most, "maximum": most} for most in (90, 180))),
    ),
    "matrix": ("The identity matrix of size three.", listed(listed(one_of(0, 1), 3, 3), 3, 3)),
    "shopping": ("Milk and bread.", listed(record(item=TEXT, count=whole(1, 20)), 1, 3)),
    "row": ("Name, age and whether they are married.", tuple_of(TEXT, WHOLE, FLAG)),
    "scores": ("Points of three players by their names.", map_of(whole(0, 100), 4)),
    "week": ("The days on which the shop is open.", record(open=listed(DAYS, 2, 7))),
    "bits": ("Sixteen bits.", listed(one_of(0, 1), 16, 16)),
    "old": (
        "A label and then numbers.",
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "type": "array",
            "items": [TEXT],
            "additionalItems": WHOLE,
            "minItems": 2,
            "maxItems": 5,
        },
    ),
}

STRINGS: Level = {
    "plate": ("The number plate of a car.", record(plate=pattern("^[A-Z]{2}-[0-9]{3,4}$"), owner=short(30))),
    "birth": ("Grace, born on the ninth of December 1906.", record(name=short(20), born=shaped("date"))),
    "contact": ("How to reach the office.", record(id=shaped("uuid"), email=shaped("email"))),
    "airport": ("Heathrow.", record(code=short(3, 3), name=short(40, 4))),
    "release": ("Release 1.4.2 of a program.", record(name=TEXT, version=pattern(r"^\d+\.\d+\.\d+$"))),
    "host": ("A printer in the network.", record(address=shaped("ipv4"), port=whole(1, 65535))),
    "palette": ("The colours of a flag.", listed(pattern("^#[0-9a-f]{6}$"), 2, 4)),
    "phone": ("A number in France.", record(country=short(2, 2), number=pattern(r"^\+[1-9][0-9]{7,14}$"))),
    "opening": (
        "From nine to half past five.",
        record(**dict.fromkeys(("opens", "closes"), pattern("^([01][0-9]|2[0-3]):[0-5][0-9]$"))),
    ),
    "path": ("Where the log is.", record(file=pattern("^(/[a-z0-9_]{1,12}){1,5}$"), lines={"type": "integer"})),
}

NESTED: Level = {
    "customer": (
        "Mary Smith in Springfield, with two telephones.",
        record(
            name=record(first=TEXT, last=TEXT), address=ADDRESS, phones=listed(record(kind=TEXT, number=TEXT), 1, 2)
        ),
    ),
    "payment": (
        "Paid by card.",
        record(
            amount=NUMBER,
            by={
                "anyOf": [
                    record(card=pattern("^[0-9]{16}$"), expires=pattern("^[0-9]{2}/[0-9]{2}$")),
                    record(account=TEXT, bank=TEXT),
                ]
            },
        ),
    ),
    "shape": (
        "A rectangle, 3 wide and 4 high.",
        {
            "oneOf": [
                record(kind=always("circle"), radius=NUMBER),
                record(kind=always("rectangle"), width=NUMBER, height=NUMBER),
                record(kind=always("point")),
            ]
        },
    ),
    "employee": (
        "Joan of the sales department, number 12.",
        {
            "allOf": [
                {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
                {"properties": {"number": whole(1, 999), "department": TEXT}, "required": ["number", "department"]},
            ]
        },
    ),
    "order": (
        "Two pens and a book, to be sent by mail.",
        record(
            id=WHOLE,
            lines=listed(record(product=record(name=TEXT, price=NUMBER), count=whole(1, 9)), 1, 3),
            delivery=record(method=one_of("mail", "shop"), express=FLAG),
        ),
    ),
    "boxes": (
        "A pearl in a box in a box.",
        reduce(lambda inner, name: record(**{name: inner}), ("box", "case", "chest", "room", "house"), TEXT),
    ),
    "cells": ("A row of a table.", listed({"anyOf": [WHOLE, short(12, 0), NONE]}, 2, 5)),
    "staff": ("Two people by their short names.", map_of(record(name=TEXT, role=one_of("lead", "member")), 3)),
    "settings": (
        "Dark, with a font of size 12.",
        optional(
            ("theme",),
            theme=one_of("light", "dark"),
            font=optional(("size",), family=TEXT, size=whole(6, 72)),
            proxy={"anyOf": [NONE, record(host=TEXT, port=whole(1, 65535))]},
            plugins=listed(TEXT, 0, 3),
        ),
    ),
    "log": (
        "Somebody logs in and buys something.",
        listed(
            {
                "oneOf": [
                    record(event=always("login"), user=TEXT, at=pattern("^[0-9]{2}:[0-9]{2}$")),
                    record(event=always("sale"), items=listed(WHOLE, 1, 3), total=NUMBER),
                ]
            },
            1,
            3,
        ),
    ),
}

RECURSIVE: Level = {
    "chain": ("A chain of two links.", record(value=WHOLE, next={"anyOf": [{"$ref": "#"}, NONE]})),
    "tree": (
        "A root with two leaves.",
        defining(ref("tree"), tree=record(value=WHOLE, children=listed(ref("tree"), 0, 3))),
    ),
    "files": (
        "A folder with one file in it.",
        defining(
            ref("entry"),
            entry={
                "oneOf": [
                    record(kind=always("file"), name=short(20), bytes=whole(0, 10**9)),
                    record(kind=always("folder"), name=short(20), entries=listed(ref("entry"))),
                ]
            },
        ),
    ),
    "sum": (
        "One plus two times three.",
        defining(
            ref("term"),
            term={"anyOf": [whole(0, 99), record(op=one_of("+", "-", "*"), left=ref("term"), right=ref("term"))]},
        ),
    ),
    "thread": (
        "A question and an answer to it.",
        defining(ref("post"), post=record(author=short(16), text=TEXT, replies=listed(ref("post"), 0, 2))),
    ),
    "company": (
        "A company of one person who owns none.",
        defining(
            ref("company"),
            company=record(name=TEXT, people=listed(ref("person"), 1, 2)),
            person=optional(("name",), name=TEXT, owns=ref("company")),
        ),
    ),
    "brackets": (
        "A number in ten brackets.",
        reduce(lambda inner, _: listed(inner, 1, 1), range(10), WHOLE),
    ),
    "wide": ("A survey of twenty answers.", record(**{f"q{number}": whole(1, 5) for number in range(1, 21)})),
    "aliases": (
        "A sender and a receiver.",
        {
            "definitions": {
                "a/b": {"$ref": "#/definitions/end"},
                "end": record(name=TEXT, place=short(20)),
                "both": {"allOf": [{"$ref": "#/definitions/end"}, {"properties": {"name": short(10)}}]},
            },
            **record(sender={"$ref": "#/definitions/a~1b"}, receiver={"$ref": "#/definitions/both"}),
        },
    ),
    "message": (
        "A message with any content.",
        record(id=WHOLE, content={}, more={"type": "object", "additionalProperties": {"type": ["string", "array"]}}),
    ),
}

LEVELS: dict[str, Level] = {
    "flat": FLAT,
    "values": VALUES,
    "arrays": ARRAYS,
    "strings": STRINGS,
    "nested": NESTED,
    "recursive": RECURSIVE,
}


def tasks(limit: int = PER_LEVEL) -> Iterator[Task]:
    """The first `limit` of each level."""
    for level, of in LEVELS.items():
        for name, (ask, schema) in list(of.items())[:limit]:
            yield Task(level, name, ask, schema)
