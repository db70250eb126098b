"""Whether the beginning of a Python text can still become valid Python: a parser that is fed token by token.

The grammar is the one that comes with Lark. Two things make it a judge of beginnings: no line is closed and no block
is left at the end of what is there, and a last token that may still grow is forgiven ("i" may become "if", a string may
end).
"""

from __future__ import annotations

import keyword
import re
import threading
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.indenter import DedentError, PythonIndenter

# Strings that are open at the end of the text; a quote in one line may only be open in the last one.
OPEN = re.compile(
    r"""(?:[rbfu]{0,2})(?:(?:\"\"\"|''').*|"(?:[^"\n\\]|\\.)*\\?|'(?:[^'\n\\]|\\.)*\\?|!|\\\s*)""",
    re.DOTALL | re.IGNORECASE,
)
FINISHED = set("()[]{},;~")  # tokens that nothing can be added to
# Where this grammar is older than Python: type parameters, `type` statements, `except*`, quotes within f-strings.
NEWER = re.compile(
    r"\b(?:class|def)\s+\w+\s*\[|^\s*type\s+\w|\bexcept\s*\*|\b[rR]?[fF][rR]?[\"']|\[.*\*|\bin\b.*,\s*\*", re.MULTILINE
)
WITH = re.compile(r"^\s*(?:async\s+)?with\s*\(", re.MULTILINE)  # whose brackets go over several lines
FAR = 1000  # characters that such a line is looked for before a fault
KEYWORDS = frozenset(keyword.kwlist)


# What Lark's grammar says, and what Python has come to say since.
AMENDED = {
    'decorator: "@" dotted_name [ "(" [arguments] ")" ] _NEWLINE': 'decorator: "@" test _NEWLINE',
    'poststarparams: ("," paramvalue)* ["," kwparams]': 'poststarparams: ("," paramvalue)* ["," [kwparams]]',
    'annassign: testlist_star_expr ":" test ["=" test]': (
        'annassign: testlist_star_expr ":" test ["=" (yield_expr|testlist_star_expr)]'
    ),
    '"return" [testlist]': '"return" [testlist_star_expr]',
    'yield_expr: "yield" [testlist]': 'yield_expr: "yield" [testlist_star_expr]',
    'exprlist "in" testlist ":"': 'exprlist "in" testlist_star_expr ":"',
    '"except" [test ["as" name]] ":"': '"except" ["*"] [test ["as" name]] ":"',
    'with_item: test ["as" name]': 'with_item: test ["as" expr]',
    '"match" test ":"': '"match" testlist_star_expr ":"',
    "?subscript: test | (": "?subscript: test | star_expr | (",
    """arguments: argvalue ("," argvalue)*  ("," [ starargs | kwargs])?
         | starargs
         | kwargs
         | comprehension{test}""": """arguments: _argument ("," _argument)* [","]
         | comprehension{test}
_argument: argvalue | "*" test | "**" test""",
    """starargs: stararg ("," stararg)* ("," argvalue)* ["," kwargs]
stararg: "*" test
kwargs: "**" test ("," argvalue)*
""": "",
    r"""STRING: /([ubf]?r?|r[ubf])("(?!"").*?(?<!\\)(\\\\)*?"|'(?!'').*?(?<!\\)(\\\\)*?')/i""": (
        r"""STRING: /([ubf]?r?|r[ubf])("(?!"")(?:[^"\\\n]|\\(?:\r?\n|.))*"|'(?!'')(?:[^'\\\n]|\\(?:\r?\n|.))*')/i"""
    ),
    "comprehension{comp_result}: comp_result comp_fors [comp_if]": "comprehension{comp_result}: comp_result comp_fors",
    "comp_fors: comp_for+": "comp_fors: comp_for (comp_for | comp_if)*",
}


class Beginning(PythonIndenter):
    """Indentation, but for the last line, which may still go on."""

    end = 0

    def handle_NL(self, token: Token) -> Iterator[Token]:  # noqa: N802  (Lark's name)
        if token.end_pos != self.end:
            yield from super().handle_NL(token)
        elif self.paren_level == 0 and "\n" in token:
            yield token

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        self.paren_level, self.indent_level = 0, [0]
        for token in stream:
            if token.type == self.NL_type:
                yield from self.handle_NL(token)
            elif token.type == "NAME" and token in KEYWORDS:  # the lexer knows those that may stand here, and no others
                raise UnexpectedToken(token, set())  # type: ignore[no-untyped-call]
            else:
                yield token
            self.paren_level += (token.type in self.OPEN_PAREN_types) - (token.type in self.CLOSE_PAREN_types)


@cache
def parser() -> tuple[Lark, Beginning, threading.Lock]:
    """Half a second of work, once. The indenter has a state: one text at a time."""
    indenter = Beginning()
    grammar = files("lark").joinpath("grammars/python.lark").read_text(encoding="utf-8")
    for old, new in AMENDED.items():
        assert old in grammar, old
        grammar = grammar.replace(old, new)
    made = Lark(grammar, parser="lalr", start="file_input", postlex=indenter, maybe_placeholders=False)
    return made, indenter, threading.Lock()


def stuck(text: str) -> tuple[int, int] | None:
    """Characters of the first token after which no valid Python can be reached any more; None where there is none."""
    lark, indenter, lock = parser()
    with lock:
        indenter.end = len(text)
        going: Any = lark.parse_interactive(text)
        last = 0
        try:
            for token in going.iter_parse():
                last = token.end_pos or last
        except UnexpectedToken as error:
            growing = may_grow(error.token, len(text)) or OPEN.fullmatch(text, error.token.start_pos or 0)
            return None if growing else place(error.token, text)
        except UnexpectedCharacters as error:
            at = error.pos_in_stream or 0
            return None if OPEN.fullmatch(text, at) else (at, at + 1)
        except DedentError:
            start, end = text.rfind("\n", 0, last) + 1, text.find("\n", last)
            return start, len(text) if end < 0 else end
    return None


def may_grow(token: Token, end: int) -> bool:
    """Whether a token is the last one and may still become another."""
    return token.end_pos == end and token.type != "_NEWLINE" and str(token) not in FINISHED


def place(token: Token, text: str) -> tuple[int, int]:
    start = min(token.start_pos or 0, max(len(text) - 1, 0))
    return start, max(token.end_pos or 0, start + 1)


def newer_python(text: str, at: int) -> bool:
    """Whether the line of a fault has something that the grammar does not know."""
    start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    line = text[start : len(text) if end < 0 else end]
    return bool(NEWER.search(line) or WITH.search(text[max(at - FAR, 0) : at]))
