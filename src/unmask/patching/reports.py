"""What tools have said about a file: ruff, mypy, pytest and tracebacks, read into one shape and found in the file.

Ruff counts characters from 1, the end left out. mypy counts from 0, and its columns are wrong on lines with letters
beyond ASCII (measured with mypy 2.4.1), so of those only the line is used.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from unmask.patching.source import Source
from unmask.patching.tree import grown
from unmask.types import ByteSpan


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that a tool said. Lines and columns count from 1, the end column is left out; no column: all of it.

    indented: columns count from the first letter of the line, whose indentation the report has lost.
    """

    tool: str
    file: str
    code: str
    message: str
    line: int
    column: int | None = None
    end_line: int | None = None
    end_column: int | None = None
    indented: bool = False


def ruff(text: str) -> list[Report]:
    """Of `ruff check --output-format json`."""
    try:
        return [
            Report(
                "ruff",
                str(one["filename"]),
                str(one["code"] or one.get("name") or "invalid-syntax"),
                str(one["message"]),
                int(one["location"]["row"]),
                int(one["location"]["column"]),
                int(one["end_location"]["row"]),
                int(one["end_location"]["column"]),
            )
            for one in json.loads(text)
        ]
    except (ValueError, KeyError, TypeError):
        raise ValueError("the ruff report is not what `ruff check --output-format json` prints") from None


def mypy(text: str) -> list[Report]:
    """Of `mypy -O json`: one object a line; notes are left out."""
    found = list[Report]()
    try:
        for row in text.splitlines():
            if row.startswith("{"):
                one = json.loads(row)
                if one["severity"] == "error":
                    end = one.get("end_line"), one.get("end_column")
                    ends = (int(end[0]), int(end[1]) + 1) if None not in end else (None, None)
                    where = int(one["line"]), max(int(one["column"]), 0) + 1, *ends
                    found.append(Report("mypy", str(one["file"]), str(one["code"]), str(one["message"]), *where))
    except (ValueError, KeyError, TypeError):
        raise ValueError("the mypy report is not what `mypy -O json` prints") from None
    if not found and text.strip() and not text.startswith("{"):
        raise ValueError("the mypy report is not what `mypy -O json` prints")
    return found


FRAME = re.compile(r'^(?P<pad> *)File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in .*)?$')
MARKS = re.compile(r"^ *[~^]+ *$")
RAISED = re.compile(r"^(?P<code>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
PYTEST = re.compile(r"^(?P<file>[^\s:][^:\n]*\.py):(?P<line>\d+):(?: (?P<what>.*))?$")


def traceback(text: str) -> list[Report]:
    """Frames of Python's own tracebacks, the innermost first, with what was raised at their end. Where Python has
    underlined a part of the line, that part."""
    rows = text.splitlines()
    code, message = "", ""
    frames = list[Report]()
    found = list[Report]()
    for number, row in enumerate(rows):
        if frame := FRAME.match(row):
            start, end = marked(rows[number + 1 : number + 3])
            where = int(frame["line"]), start, None, end
            frames.append(Report("traceback", frame["file"], "", "", *where, indented=True))
        elif frames and (raised := RAISED.match(row)):
            code, message = raised["code"], raised["message"] or ""
            found += [replace(one, code=code, message=message) for one in reversed(frames)]
            frames = []
    return found


def marked(rows: Sequence[str]) -> tuple[int | None, int | None]:
    """Columns of what is underlined below a line of code, counted from that line's first letter.

    None where letters are two columns wide: some versions of Python count them once, some twice.
    """
    if len(rows) < 2 or not MARKS.match(rows[1]) or any(unicodedata.east_asian_width(one) in "WF" for one in rows[0]):
        return None, None
    pad = len(rows[0]) - len(rows[0].lstrip())
    start = len(rows[1]) - len(rows[1].lstrip())
    return (start - pad + 1, len(rows[1].rstrip()) - pad + 1) if start >= pad else (None, None)


def pytest(text: str) -> list[Report]:
    """Lines `file.py:12: ...` of failures, the innermost of each first, with the last error that pytest has quoted.
    ("E   " begins what it quotes.)"""
    found, frames, error = list[Report](), list[Report](), ""
    for row in text.splitlines():
        if row.startswith("E  ") and not error:
            error = row[1:].strip()
        elif place := PYTEST.match(row):
            frames.append(Report("pytest", place["file"], place["what"] or "", "", int(place["line"])))
        elif row.startswith(("____", "====", "----")) and frames:
            found += closed(frames, error)
            frames, error = [], ""
    return found + closed(frames, error)


def closed(frames: list[Report], error: str) -> list[Report]:
    raised = RAISED.match(error)
    code = raised["code"] if raised else ""
    message = (raised["message"] or "") if raised else error
    return [replace(one, code=code or one.code, message=message) for one in reversed(frames)]


READERS: dict[str, Callable[[str], list[Report]]] = {
    "ruff": ruff,
    "mypy": mypy,
    "pytest": pytest,
    "traceback": traceback,
}


def read(tool: str, text: str) -> list[Report]:
    """ValueError for a tool that is not known, or for text that is not its report."""
    if tool not in READERS:
        raise ValueError(f"from-diagnostic must be one of {', '.join(READERS)}, got {tool!r}")
    return READERS[tool](text)


def about(reports: Sequence[Report], path: str, code: str | None = None) -> list[Report]:
    """Those about a file, with that code if one is given; ValueError, saying what there is, without any."""
    here = [report for report in reports if same_file(report.file, path)]
    chosen = [report for report in here if code is None or report.code == code]
    if chosen:
        return chosen
    if here:
        codes = ", ".join(dict.fromkeys(report.code for report in here))
        raise ValueError(f"select: the report has no {code} for {path}; it has {codes}")
    others = ", ".join(dict.fromkeys(report.file for report in reports[:5])) or "nothing at all"
    raise ValueError(f"the report says nothing about {path}; it is about {others}")


def same_file(one: str, other: str) -> bool:
    """Whether two paths may mean one file: the shorter one is the end of the longer one."""
    first, second = (PurePath(path.replace("\\", "/")).parts for path in (one, other))
    first, second = (tuple(part for part in parts if part not in (".", "/")) for parts in (first, second))
    shared = min(len(first), len(second))
    return shared > 0 and first[-shared:] == second[-shared:]


def place(source: Source, report: Report) -> ByteSpan:
    """Where a report points to: what is underlined, else the statement that the line begins or is part of."""
    if report.line > len(source.rows) + 1:
        raise ValueError(
            f"the report is about line {report.line}, and the file has {len(source.rows)}: it is an old one"
        )
    line = min(report.line, len(source.rows))
    row, indent = source.row(line), source.indent(line)
    letters = source.data[row.start : row.end]
    column, end_line, end_column = report.column, report.end_line or line, report.end_column
    if column is not None and report.indented:
        lost = len(source.data[indent.start : indent.end].decode())
        column, end_column = lost + column, lost + (end_column or column)
    if column is None or (report.tool == "mypy" and not letters.isascii()):
        return statement(source, line)
    start = source.near(line, column)
    end = max(start, source.near(end_line, end_column if end_column is not None else column))
    return ByteSpan(start, end) if end > start else statement(source, line)


def statement(source: Source, line: int) -> ByteSpan:
    """The statement around the first letter of a line."""
    row, indent = source.row(line), source.indent(line)
    at = ByteSpan(indent.end, min(indent.end + 1, row.end))
    larger = dict(grown(source, at, "stmt"))
    return larger.get("stmt", row)
