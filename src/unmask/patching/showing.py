"""What a model sees beside a file while it fills a gap: what is wanted, and other files. Nothing of it is written.

What is wanted stands as comments above the gap's line, at its indentation: models that only continue text have learned
to read those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from unmask.patching.source import Source, plain
from unmask.types import ByteSpan

LONGEST, FILES = 2000, 16  # characters of an instruction, other files
# What begins and ends a comment, by the ends of file names; where none is known, as in Python.
HASH = ("# ", "")
SIGNS: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".html", ".htm", ".xml", ".svg", ".md", ".vue"), ("<!-- ", " -->")),
    **dict.fromkeys((".sql", ".lua", ".hs", ".elm"), ("-- ", "")),
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".java", ".kt", ".scala", ".swift"), ("// ", "")),
    **dict.fromkeys((".js", ".jsx", ".mjs", ".ts", ".tsx", ".go", ".rs", ".php", ".dart", ".zig"), ("// ", "")),
    **dict.fromkeys((".css", ".scss", ".less"), ("/* ", " */")),
    **dict.fromkeys((".lisp", ".el", ".clj", ".scm", ".asm", ".ini"), ("; ", "")),
    **dict.fromkeys((".tex", ".erl"), ("% ", "")),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """comments: what is wanted, line by line, without indentation. context: other files, each after a comment with its
    name."""

    comments: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

    def before(self, source: Source, place: ByteSpan) -> str:
        """What stands before a part, with the comments above its line."""
        prefix, _ = source.seen(place)
        line = source.line(place.start)
        row = source.row(line)
        above, _ = source.seen(ByteSpan(row.start, row.start))
        indent = source.inside(source.indent(line))
        return above + "".join(f"{indent}{comment}\n" for comment in self.comments) + prefix[len(above) :]

    def unsaid(self, text: str, old: str = "") -> str:
        """A filling without what only repeats the comments; rows that it has from the old text stay."""
        if not self.comments:
            return text
        given, kept = text.split("\n"), list[tuple[int, str]]()
        stay = {row.strip() for row in old.split("\n")}
        for number, row in enumerate(given):
            left = row if row.strip() in stay else self.bare(row)
            if left or left == row:
                kept.append((number, left))
        rows = [row for _, row in kept]
        if kept and kept[0][0] > 0 and rows[0].strip():  # the gap may begin behind an indentation
            rows[0] = given[0][: len(given[0]) - len(given[0].lstrip())] + rows[0].lstrip()
        return "\n".join(rows)

    def bare(self, row: str) -> str:
        """A row without the comments at its end; one that has none as it is."""
        while end := next((comment for comment in self.comments if row.rstrip().endswith(comment)), ""):
            row = row.rstrip().removesuffix(end).rstrip()
        return row


def check_shown(instruction: str | None, context: Mapping[str, str]) -> None:
    """ValueError for an instruction that says nothing or too much, for too many files, and for what is no text."""
    if instruction is not None and not isinstance(instruction, str):
        raise ValueError(f"instruction must be text, got {instruction!r:.80}")
    if not isinstance(context, Mapping):
        raise ValueError(f"context must map names to texts, got {context!r:.80}")
    for pair in context.items():
        if not all(isinstance(one, str) for one in pair):
            raise ValueError(f"context must map names to texts, got {pair!r:.80}")
    if instruction is not None and not instruction.strip():
        raise ValueError("instruction must say something")
    if len(instruction or "") > LONGEST:
        raise ValueError(f"instruction must have at most {LONGEST} characters, got {len(instruction or '')}")
    if len(context) > FILES:
        raise ValueError(f"context must have at most {FILES} files, got {len(context)}")


def shown_of(path: str, instruction: str | None, context: Mapping[str, str]) -> Shown:
    """path: of the file that is patched, whose comments are written in its own way."""
    begin, end = signs(path)
    wanted = [row.strip() for row in (instruction or "").splitlines()]
    files = [(*signs(name), " ".join(name.split()), plain(text.encode())) for name, text in context.items()]
    return Shown(
        tuple(f"{begin}{row}{end}" for row in wanted if row),
        tuple(f"{first}{name}{last}\n{text.rstrip()}\n\n" for first, last, name, text in files if text.strip()),
    )


def signs(path: str) -> tuple[str, str]:
    return SIGNS.get(PurePath(path).suffix.lower(), HASH)
