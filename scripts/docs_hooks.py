"""What the docs site needs beside MkDocs: formulas as MathML, and no links to files that are not part of the site.

The pages are read on code hosts too, which draw $...$ themselves and have the whole repository to link to.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

CODE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1\s*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^\s$](?:[^$\n]*[^\s$])?)\$", re.DOTALL)
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    return outside_code(markdown, prose)


def outside_code(markdown: str, change: Any) -> str:
    """The text with everything but code changed. A link whose label is code counts as prose."""
    markdown = OUTSIDE.sub(r"\1", markdown)
    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])


def prose(text: str) -> str:
    return FORMULA.sub(formula, text)


def formula(match: re.Match[str]) -> str:
    shown, inline = match[1], match[2]
    return convert(shown.strip(), display="block") if shown else convert(inline)
