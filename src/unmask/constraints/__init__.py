"""Hard constraints: texts in a language and in budget by construction, or a refusal before anything is decoded.

regex, choice, JSON Schema, Lark and GBNF become grammars (`expr`, `grammar`), grammars become places in a text that
know which tokens may follow (`columns`, `masks`, `matcher`). Nothing here looks at a text from outside, but for the
last check.
"""

from unmask.constraints.check import check
from unmask.constraints.compiler import Compiler
from unmask.constraints.expr import ConstraintError
from unmask.constraints.specs import FIELDS, Choice, Grammar, JsonObject, JsonSchema, Regex, Spec, spec_of
from unmask.constraints.vocabulary import Vocabulary

__all__ = [
    "FIELDS",
    "Choice",
    "Compiler",
    "ConstraintError",
    "Grammar",
    "JsonObject",
    "JsonSchema",
    "Regex",
    "Spec",
    "Vocabulary",
    "check",
    "spec_of",
]
