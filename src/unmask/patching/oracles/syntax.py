"""Whether a text is valid Python, or, while it is being written, can still become so."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from unmask.patching.oracles.prefix import newer_python, stuck
from unmask.patching.oracles.python import SYNTAX, fault, source_of
from unmask.types import ByteSpan, Verdict, View, Violation


@dataclass(frozen=True, slots=True)
class Syntax:
    """Of a whole text what the interpreter's own compiler says; of one that goes on what `prefix` says of its
    beginning, and "unknown" where that grammar is older than the text. Nothing is run."""

    name: str = SYNTAX
    partial: bool = True

    def check(self, view: View) -> Verdict:
        return whole(view) if view.complete else beginning(view)


def whole(view: View) -> Verdict:
    source = source_of(view)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(source.text, view.path or "text.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        found = fault(source, error)
        return Verdict("violated", found.message, (found,))
    except (ValueError, RecursionError, MemoryError) as error:
        everything = ByteSpan(0, len(source.data))
        return Verdict("violated", str(error), (Violation(str(error), everything, "invalid-syntax", SYNTAX),))
    return Verdict("satisfied")


def beginning(view: View) -> Verdict:
    text = view.text.encode()[: view.editable.end].decode("utf-8", "ignore")
    at = stuck(text)
    if at is None:
        return Verdict("satisfied")
    if newer_python(text, at[0]):
        return Verdict("unknown", "the grammar of beginnings does not know this syntax")
    span = ByteSpan(len(text[: at[0]].encode()), len(text[: at[1]].encode()))
    message = f"nothing valid begins like this: {text[at[0] : at[1]][:40]!r}"
    return Verdict("violated", message, (Violation(message, span, "invalid-syntax", SYNTAX),))
