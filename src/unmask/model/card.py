"""unmask.json beside an adapter: what it was trained to do, and on which model.

PEFT's own adapter_config.json has no place for this, and an adapter without it drafts nonsense or not at all.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from unmask.model.checkpoint import Checkpoint
from unmask.model.families import traits_from
from unmask.model.files import read_json
from unmask.types import Traits

CARD = "unmask.json"
_SHAPE = ("vocab_size", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size")


def write_card(
    folder: Path, base: Checkpoint, traits: Traits, base_name: str, extra: Mapping[str, Any] | None = None
) -> None:
    """extra: whatever else a reader may want to know (tokens seen, recipe); plain JSON, not read back."""
    card = {
        "format": 1,
        "base": {"name": base_name, "bytes": _size(base), "sha256": base_sha256(base), "shape": _shape(base)},
        "traits": asdict(traits),
        **(extra or {}),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def read_card(folder: str | Path, base: Checkpoint, *, verify: bool = True) -> Traits:
    """The traits that a base model has together with the adapter in `folder`; its files keep their own names there.

    verify: compare the base's weights with those of training, by size and SHA-256; a difference is a warning, since
    the same model in another format is as good. Raises FileNotFoundError where there is no card (a PEFT adapter from
    elsewhere has none), ValueError for a base of another shape or a card that is broken.
    """
    path = Path(folder).expanduser() / CARD
    card = read_json(path)
    try:
        if card["format"] != 1:
            raise ValueError(f"format {card['format']!r} is newer than this version of unmask")
        trained, values = card["base"], card["traits"]
        shape = _shape(base)
        if different := [name for name in _SHAPE if trained["shape"][name] != shape[name]]:
            name = different[0]
            raise ValueError(
                f"the adapter is for {trained['name']} with {name} {trained['shape'][name]}; {base.source} has"
                f" {shape[name]}"
            )
        traits = traits_from(values, base.config.vocab_size)
        if verify and (trained["bytes"] != _size(base) or trained["sha256"] != base_sha256(base)):
            warnings.warn(
                f"{base.source} has other weights than {trained['name']}, on which the adapter {folder} was trained:"
                " output stays right, but fewer drafts may be accepted",
                stacklevel=2,
            )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is broken: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return traits


def base_sha256(base: Checkpoint) -> str:
    """Of the file with the weights; of several, of their sums in order of name."""
    stats = [(file, file.stat()) for file in sorted(base.files)]
    sums = [_sha256(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return sums[0] if len(sums) == 1 else hashlib.sha256(" ".join(sums).encode()).hexdigest()


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    """size, changed: another file has others."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _size(base: Checkpoint) -> int:
    return sum(file.stat().st_size for file in base.files)


def _shape(base: Checkpoint) -> dict[str, int]:
    return {name: getattr(base.config, name) for name in _SHAPE}
