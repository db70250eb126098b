"""The last look at a finished text, by judges that share no code with what made it."""

from __future__ import annotations

import json
import re

import lark

from unmask.constraints import lark_syntax, regex
from unmask.constraints.judge import Judge, JudgeError
from unmask.constraints.limits import MOST_EFFORT
from unmask.constraints.specs import Choice, Grammar, JsonObject, JsonSchema, Regex, Spec
from unmask.types import Verdict

LONGEST_PARSED = 500  # characters: Lark's Earley parser may need the cube of it
SATISFIED = Verdict("satisfied")
TOO_LONG = Verdict("unknown", "Python's re might take too long to judge the pattern")


def check(spec: Spec, text: str) -> Verdict:
    """Whether a text obeys a spec; `unknown` where the judge cannot say."""
    if isinstance(spec, Regex):
        if regex.effort(spec.pattern, len(text)) > MOST_EFFORT:
            return TOO_LONG
        return SATISFIED if re.fullmatch(spec.pattern, text) else Verdict("violated", "re.fullmatch finds no match")
    if isinstance(spec, Choice):
        return SATISFIED if text in spec.values else Verdict("violated", "the text is none of the choices")
    if isinstance(spec, JsonObject):
        return of_json('{"type": "object"}', text)
    if isinstance(spec, JsonSchema):
        return of_json(spec.schema, text)
    return of_grammar(spec, text)


def of_json(schema: str, text: str) -> Verdict:
    try:
        value = json.loads(text)
    except ValueError as error:
        return Verdict("violated", f"the text is no JSON: {error}")
    except RecursionError:
        return Verdict("unknown", "the text is nested too deeply for json.loads")
    try:
        fault = Judge(json.loads(schema), [value]).fault(value)
    except JudgeError as error:
        return Verdict("unknown", str(error))
    return SATISFIED if fault is None else Verdict("violated", f"{fault.json_path}: {fault.message:.300}")


def of_grammar(spec: Grammar, text: str) -> Verdict:
    if spec.syntax != "lark":
        return Verdict("unknown", "nothing here parses GBNF but what made the text")
    if len(text) > LONGEST_PARSED:
        return Verdict("unknown", f"the text has more than the {LONGEST_PARSED} characters that Lark is asked to parse")
    try:
        lark_syntax.parser(spec.text).parse(text)
    except lark.exceptions.UnexpectedInput as error:
        return Verdict("violated", f"Lark: {' '.join(str(error).split()):.300}")
    return SATISFIED
