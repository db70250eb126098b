"""Grammars in Lark's notation, read by Lark itself. A terminal may end wherever its expression lets it (as with Lark's
`lexer="dynamic_complete"`); ignored terminals may stand before, between and after all others.
"""

from __future__ import annotations

import re
from functools import lru_cache

import lark
from lark.lexer import Pattern, PatternStr

from unmask.constraints import regex
from unmask.constraints.expr import EMPTY, ConstraintError, Expr, Ref, Repeat, Seq, Source, alt, seq, text
from unmask.constraints.lark_size import limit_size
from unmask.constraints.limits import LONGEST_SOURCE

IMPORT = re.compile(r"^\s*%import\s+(?!common\b|unicode\b|lark\b|python\b)(\S+)", re.MULTILINE)
# Lark's ESCAPED_STRING looks behind itself; said without, it is the same but for what cannot be told apart anyway.
SAME = {r'".*?(?<!\\)(\\\\)*?"': r'"([^"\\\n]|\\[^\n])*"', r"\".*?(?<!\\)(\\\\)*?\"": r'"([^"\\\n]|\\[^\n])*"'}
MOST_COUNT = 1000


@lru_cache(maxsize=8)
def parser(grammar: str) -> lark.Lark:
    """Lark's own parser for a grammar. ConstraintError in one line where Lark refuses it."""
    if len(grammar) > LONGEST_SOURCE:
        raise ConstraintError(f"the grammar has more than {LONGEST_SOURCE} characters")
    if outside := IMPORT.search(grammar):
        raise ConstraintError(f"the grammar imports {outside[1]!r:.80}; only Lark's own libraries can be imported")
    counts = [
        int(number) for pair in re.findall(r"~\s*(\d+)(?:\s*\.\.\s*(\d+))?", grammar) for number in pair if number
    ]
    if max(counts, default=0) > MOST_COUNT:
        raise ConstraintError(f"the grammar repeats something {max(counts)} times; at most {MOST_COUNT} are taken")
    limit_size(grammar)
    try:
        return lark.Lark(grammar, parser="earley", lexer="dynamic_complete", import_paths=[])
    except (lark.exceptions.LarkError, re.error) as error:
        raise ConstraintError(f"the grammar is wrong: {' '.join(str(error).split()):.300}") from None
    except (RecursionError, OverflowError, AssertionError, KeyError, ValueError) as error:
        raise ConstraintError(f"the grammar cannot be read: {type(error).__name__}") from None


def source(grammar: str) -> Source:
    read = parser(grammar)
    ignored = [Ref(f"token {name}") for name in read.ignore_tokens]
    between: Expr = Ref("ignored") if ignored else EMPTY
    rules: dict[str, Expr] = {"ignored": Repeat(alt(ignored), 0, None)} if ignored else {}
    for terminal in read.terminals:
        rules[f"token {terminal.name}"] = of_pattern(terminal.name, terminal.pattern)
    ways = dict[str, list[Expr]]()
    for rule in read.rules:
        parts = list[Expr]()
        for symbol in rule.expansion:
            if symbol.is_term:
                parts += [Ref(f"token {symbol.name}"), between] if ignored else [Ref(f"token {symbol.name}")]
            else:
                parts.append(Ref(f"rule {symbol.name}"))
        ways.setdefault(f"rule {rule.origin.name}", []).append(seq(*parts) if parts else EMPTY)
    rules |= {name: alt(found) for name, found in ways.items()}
    start = f"rule {read.options.start[0]}"
    return Source({**rules, "text": Seq((between, Ref(start)))}, "text")


def of_pattern(name: str, pattern: Pattern) -> Expr:
    if isinstance(pattern, PatternStr) and not pattern.flags:
        return text(pattern.value)
    expression = SAME.get(pattern.value, pattern.value)
    if isinstance(pattern, PatternStr):
        expression = re.escape(pattern.value)
    flags = "".join(sorted(pattern.flags))
    try:
        return regex.whole(f"(?{flags}:{expression})" if flags else expression)
    except ConstraintError as error:
        raise ConstraintError(f"the terminal {name}: {error}") from None
