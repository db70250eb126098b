"""A file as it is patched: its bytes, lines and columns, and what a model sees around a part of it.

Parts are spans of bytes of the file, so that a byte order mark, tabs, CRLF line ends and letters of several bytes
are left exactly as they are. A model sees plain text: no mark, and LF wherever a line ends.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from unmask.types import ByteSpan

BOM = b"\xef\xbb\xbf"
LARGEST = 1 << 20  # bytes of a file that is patched
ENDS = re.compile(rb"\r\n|\n|\r")


def holds(outer: ByteSpan, inner: ByteSpan) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def touches(one: ByteSpan, other: ByteSpan) -> bool:
    """Whether they share a byte, or one is a place at or in the other."""
    if one.start == one.end or other.start == other.end:
        return one.start <= other.end and other.start <= one.end
    return one.start < other.end and other.start < one.end


@dataclass(frozen=True)
class Source:
    """The bytes of a text file and where its lines are. Lines and columns count from 1, columns in characters."""

    data: bytes

    @classmethod
    def of(cls, data: bytes, name: str = "the file") -> Source:
        """ValueError for what is no text that can be patched."""
        if len(data) > LARGEST:
            raise ValueError(f"{name}: {len(data)} bytes, more than the {LARGEST} that are patched")
        if b"\0" in data:
            raise ValueError(f"{name}: not a text file (a zero byte at {data.index(0)})")
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: not UTF-8 (byte 0x{data[error.start]:02x} at {error.start})") from None
        return cls(data)

    @cached_property
    def first(self) -> int:
        """Where the text begins: after a byte order mark."""
        return len(BOM) if self.data.startswith(BOM) else 0

    @cached_property
    def text(self) -> str:
        """All of it without the mark, line ends as they are."""
        return self.data[self.first :].decode()

    @cached_property
    def rows(self) -> tuple[ByteSpan, ...]:
        """The lines without their ends; none after a last line end."""
        found, start = list[ByteSpan](), self.first
        for end in ENDS.finditer(self.data):
            found.append(ByteSpan(start, end.start()))
            start = end.end()
        if start < len(self.data) or not found:
            found.append(ByteSpan(start, len(self.data)))
        return tuple(found)

    @cached_property
    def newline(self) -> str:
        """The line end that is commonest here; LF where there is none."""
        ends = Counter(ENDS.findall(self.data)).most_common(1)
        return bytes(ends[0][0]).decode() if ends else "\n"

    def row(self, line: int) -> ByteSpan:
        if not 1 <= line <= len(self.rows):
            raise ValueError(f"line {line}: the file has lines 1 to {len(self.rows)}")
        return self.rows[line - 1]

    def line(self, offset: int) -> int:
        """The line that a byte stands in (or whose end it is part of)."""
        return max(bisect_right(self.rows, offset, key=lambda row: row.start), 1)

    def at(self, line: int, column: int) -> int:
        """The byte of a column; one after the last is the end of the line."""
        row = self.row(line)
        letters = self.data[row.start : row.end].decode()
        if not 1 <= column <= len(letters) + 1:
            raise ValueError(f"line {line} has columns 1 to {len(letters) + 1}, not {column}")
        return row.start + len(letters[: column - 1].encode())

    def near(self, line: int, column: int) -> int:
        """As `at`, the nearest there is: for what tools report, who count the end of a file in their own ways."""
        row = self.rows[min(max(line, 1), len(self.rows)) - 1]
        letters = self.data[row.start : row.end].decode()
        return row.start + len(letters[: max(column - 1, 0)].encode())

    def indent(self, line: int) -> ByteSpan:
        """The spaces and tabs that a line begins with."""
        row = self.row(line)
        letters = self.data[row.start : row.end]
        return ByteSpan(row.start, row.start + len(letters) - len(letters.lstrip(b" \t\f")))

    def seen(self, part: ByteSpan) -> tuple[str, str]:
        """What a model sees before and after a part."""
        return plain(self.data[self.first : max(part.start, self.first)]), plain(self.data[part.end :])

    def inside(self, part: ByteSpan) -> str:
        """The part as a model writes it."""
        return plain(self.data[part.start : part.end])

    def spliced(self, part: ByteSpan, text: str) -> Source:
        """The file with other text in a part, with its own line ends, and with a last line end if it had one."""
        if part.end == len(self.data) and part.start < part.end:
            ended = self.data.endswith((b"\n", b"\r"))
            text = text.rstrip("\n") + "\n" * ended
        new = plain(text.encode()).replace("\n", self.newline)
        return Source(self.data[: part.start] + new.encode() + self.data[part.end :])


def plain(data: bytes) -> str:
    """Text with LF as the end of every line."""
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")
