"""What the corpus offers to make prompts of: whole functions, heads of files, paragraphs of prose."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Material:
    """What the corpus offers. functions: whole ones, dedented; files: their heads; paragraphs: prose."""

    functions: tuple[str, ...]
    files: tuple[str, ...]
    paragraphs: tuple[str, ...]


def material_from(corpus: Path, most: int = 20_000) -> Material:
    """Read a corpus of JSON lines (corpus.build_corpus) for functions of 5 to 40 lines with a docstring, heads of files
    and paragraphs of 40 to 160 words; of each at most so many, spread over the corpus. Raises OSError and ValueError
    for a file that is not there or broken.
    """
    functions, heads, paragraphs = list[str](), list[str](), list[str]()
    with corpus.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            text, python = str(row["text"]), str(row["source"]).endswith(".py")
            if python:
                functions += _functions(text)
                heads.append("\n".join(text.split("\n")[:60]))
            else:
                paragraphs += _paragraphs(text)
    return Material(*(tuple(found[:: max(1, len(found) // most)]) for found in (functions, heads, paragraphs)))


def _functions(text: str) -> list[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # of another Python than this one
        return []
    found, lines = [], text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and ast.get_docstring(node):
            body = lines[node.lineno - 1 : node.end_lineno]
            if 5 <= len(body) <= 40 and max(map(len, body)) <= 120:
                found.append("\n".join(line[node.col_offset :] for line in body))
    return [function for function in found if _sound(function)]


def _sound(function: str) -> bool:
    """Whether a function is still itself without its indentation, which a string of several lines may not survive."""
    try:
        node = ast.parse(function).body[0]
    except SyntaxError:
        return False
    return isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None


def _paragraphs(text: str) -> list[str]:
    found = []
    for part in re.split(r"\n\s*\n", text):
        plain = " ".join(re.sub(r":[\w:+-]+:`~?([^`<]+?)(?: <[^`]*>)?`|``([^`]*)``", r"\1\2", part).split())
        prose = not re.search(r"^\s|\.\. |::|[*|>{}=_]{2}|`", part[:1] + plain)
        if prose and 40 <= len(plain.split()) <= 160 and plain[0].isupper() and plain.endswith("."):
            found.append(plain)
    return found


def head_of(function: str) -> str:
    """Signature and docstring of a function, without a newline at the end."""
    node = ast.parse(function).body[0]
    assert isinstance(node, ast.FunctionDef)
    return "\n".join(function.split("\n")[: node.body[0].end_lineno])
