"""Documents to train on: text files, JSON lines, parquet files, and Hugging Face data sets by name.

Local data is a listing (any document by number, so that each epoch has its own order and a run can go on anywhere);
a data set by name is a stream. Every complaint names the file and, in JSON lines, the line.
"""

from __future__ import annotations

import glob
import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unmask.training.corpus import HELD_OUT, TRAIN, default_folder

TEXT_FILES = (".py", ".txt", ".md", ".rst")
STARTER, HUB = "starter", "hf:"
_FIELDS = "'text', 'messages', or 'prompt' and 'completion'"


@dataclass(frozen=True, slots=True)
class Document:
    """One document. where: file (and line) it is from. text: all of it, or the prompt where there is a completion.

    messages: a chat, instead of text.
    """

    where: str
    text: str = ""
    completion: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()


class Listing(Protocol):
    """Documents by number."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> Document:
        """ValueError where the document is broken, OSError where its file cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Another one means other documents."""
        ...


def document_from(row: Mapping[str, Any], where: str) -> Document:
    """A row of JSON lines or of a table as a document; ValueError for a row without the fields or with other types."""
    messages, prompt, completion = row.get("messages"), row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):  # chats, as trl writes them
        messages = prompt + completion
    if messages is not None:
        if not (isinstance(messages, list) and messages and all(isinstance(item, Mapping) for item in messages)):
            raise ValueError(f"{where}: 'messages' must be a list of objects with a role and a content")
        return Document(where, messages=tuple(messages))
    if isinstance(prompt, str) and isinstance(completion, str):
        return Document(where, prompt, completion)
    if isinstance(row.get("text"), str):
        return Document(where, row["text"])
    raise ValueError(f"{where}: no {_FIELDS} of the right type; the fields are: {', '.join(map(repr, row)) or 'none'}")


class TextFiles:
    """Every file is one document."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> Document:
        file = self.files[number]
        return Document(str(file), _decoded(file.read_bytes(), str(file)))

    def fingerprint(self) -> str:
        return _digest(*map(_version, self.files))


class JsonLines:
    """Every line that is not blank is one document; only where the lines start is kept in memory."""

    def __init__(self, file: Path) -> None:
        self.file = file
        starts, at = [], 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    starts.append((at, number))
                at += len(line)
        self._starts = np.array(starts, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, number: int) -> Document:
        start, line = (int(value) for value in self._starts[number])
        with self.file.open("rb") as file:
            file.seek(start)
            content = file.readline()
        where = f"{self.file}:{line}"
        try:
            row = json.loads(_decoded(content, where))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: must be a JSON object, not {type(row).__name__}")
        return document_from(row, where)

    def fingerprint(self) -> str:
        return _version(self.file)


class Table:
    """Rows of parquet files, memory mapped by `datasets`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        datasets = _datasets(f"reading {file}")
        try:
            self._rows = datasets.load_dataset("parquet", data_files=str(file), split="train")
        except Exception as error:  # of datasets, of pyarrow, of the file system
            raise ValueError(f"{file} is not a parquet file that can be read: {_line(error)}") from error

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> Document:
        return document_from(self._rows[number], f"{self.file}, row {number}")

    def fingerprint(self) -> str:
        return _version(self.file)


class Joined:
    """Several listings as one."""

    def __init__(self, parts: Sequence[Listing]) -> None:
        self.parts = list(parts)
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, number: int) -> Document:
        part = bisect_right(self._ends, number)
        return self.parts[part].read(number - (self._ends[part - 1] if part else 0))

    def fingerprint(self) -> str:
        return _digest(*(part.fingerprint() for part in self.parts))


@dataclass(frozen=True, slots=True)
class Streamed:
    """Documents that only come one after another. open: a new iterator from the start."""

    name: str
    open: Callable[[], Iterator[Document]]

    def fingerprint(self) -> str:
        return _digest(self.name)


def open_data(sources: Sequence[str], *, held_out: bool = False) -> Listing | Streamed:
    """The documents that the sources name, none of them read yet.

    A source is a text file, .jsonl or .parquet file, a folder of text files (searched to the bottom), a folder with
    train.jsonl (and heldout.jsonl: held_out takes that one), a glob pattern of these, "starter" for the starter corpus,
    or "hf:org/name", "hf:org/name:config", "hf:org/name:config:split" for a data set of the Hugging Face hub.
    Raises FileNotFoundError for a source that is not there, ValueError for one without documents or of an unknown kind,
    ImportError where the extra `train` is needed.
    """
    if not sources:
        raise ValueError("no training data: name a file, a folder, 'starter' or 'hf:org/name'")
    streamed = [source for source in sources if source.startswith(HUB)]
    if streamed:
        if len(sources) > 1:
            raise ValueError(f"{streamed[0]} is streamed and cannot be mixed with other sources")
        return _hub(streamed[0].removeprefix(HUB))
    listings = [listing for source in sources for listing in _local(source, held_out)]
    joined = Joined(listings)
    if not len(joined):
        raise ValueError(f"no documents in {', '.join(sources)}: the corpus is empty")
    return joined


def has_held_out(source: str) -> bool:
    """Whether `open_data` with held_out has other documents for a source than without."""
    return (_folder(source) / HELD_OUT).exists()


def _folder(source: str) -> Path:
    return default_folder() if source == STARTER and not Path(source).exists() else Path(source).expanduser()


def _local(source: str, held_out: bool) -> list[Listing]:
    path = _folder(source)
    if not path.exists():
        if source == STARTER:
            raise FileNotFoundError(f"the starter corpus is not in {path}: it has to be built first (build_corpus)")
        matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(source) else []
        if not matches:
            raise FileNotFoundError(
                f"no such file or folder: {source} (a data set of the Hugging Face hub is written hf:org/name)"
            )
        return list(_listings([match for match in map(Path, matches) if match.is_file()]))
    if path.is_file():
        if path.suffix not in (*TEXT_FILES, ".jsonl", ".parquet"):
            raise ValueError(f"{path} is of an unknown kind; supported: {', '.join(TEXT_FILES)}, .jsonl, .parquet")
        return list(_listings([path]))
    if (path / TRAIN).exists():
        return [JsonLines(path / (HELD_OUT if held_out else TRAIN))]
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in TEXT_FILES)
    if not files:
        raise ValueError(f"{path} holds no {', '.join(TEXT_FILES)} files and no {TRAIN}")
    return [TextFiles(files)]


def _listings(files: Sequence[Path]) -> Iterator[Listing]:
    """Listings of files: all text files together, JSON lines and parquet one by one, others not at all."""
    if texts := [file for file in files if file.suffix in TEXT_FILES]:
        yield TextFiles(texts)
    yield from (JsonLines(file) for file in files if file.suffix == ".jsonl")
    yield from (Table(file) for file in files if file.suffix == ".parquet")


def _hub(spec: str) -> Streamed:
    name, _, rest = spec.partition(":")
    config, _, split = rest.partition(":")
    datasets = _datasets(f"the data set {name}")

    def documents() -> Iterator[Document]:
        try:
            rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        except Exception as error:  # of the hub, of its HTTP client, of the data set's own files
            raise OSError(f"cannot open the data set {name}: {_line(error)}") from error
        for number, row in enumerate(rows):
            yield document_from(row, f"{HUB}{spec}, row {number}")

    return Streamed(f"{HUB}{spec}", documents)


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{what} needs the extra 'train': pip install 'unmask[train]'") from error
    return datasets


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte 0x{content[error.start]:02x} at {error.start})") from error


def _version(file: Path) -> str:
    """What changes when a file does, without reading it."""
    stat = file.stat()
    return _digest(str(file.resolve()), str(stat.st_size), str(stat.st_mtime_ns))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def mixed(*numbers: int) -> int:
    """A well mixed 64-bit number of the given ones: the same on every machine and with every version of numpy."""
    state = 0
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state


def order(numbers: NDArray[np.int64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The numbers in the order of an epoch: a permutation that (seed, epoch) decide."""
    keys = numbers.astype(np.uint64) ^ np.uint64(mixed(seed, epoch))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 0xD6E8FEB86659FD93)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return numbers[np.argsort(keys, kind="stable")]
