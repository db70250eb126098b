"""What stands beside numbers so that they can be had again: machine, versions, command, model. Writing them down."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unmask.engine.known import processor
from unmask.lm import LM
from unmask.lm.loading import shipped_adapter


def circumstances(lm: LM) -> dict[str, Any]:
    """Date, machine, versions and command of this process."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            "processor": processor(),
            "device": str(lm.decoder.model.embed_tokens.weight.device),
            "threads": threads(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("torch", "tokenizers", "unmask")},
        "command": command(sys.argv),
    }


def model_of(lm: LM, adapter: str | None = None) -> dict[str, Any]:
    """What the model is: name, sizes of its files, dtype, exactness; of an adapter also the hash of what is in it."""
    files = [{"name": file.name, "bytes": file.stat().st_size} for file in lm.checkpoint.files]
    weight = lm.decoder.model.embed_tokens.weight
    return {
        "model": bare(lm.name),
        "files": files,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "exactness": lm.engine.config.exactness,
        "adapter": adapter_of(lm, adapter),
    }


def adapter_of(lm: LM, adapter: str | None) -> dict[str, Any] | None:
    """Name, bytes and SHA-256 of the adapter folder in use; None without one."""
    if adapter == "none" or not (lm.traits.draft_adapter or lm.traits.denoise_adapter):
        return None
    folder = Path(adapter).expanduser() if adapter else shipped_adapter(lm.checkpoint)
    if folder is None:  # one of the checkpoint's own
        return {"name": lm.traits.draft_adapter or lm.traits.denoise_adapter}
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json"))
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.name.encode() + file.read_bytes())
    sizes = sum(file.stat().st_size for file in files)
    return {"name": folder.resolve().name, "bytes": sizes, "sha256": whole.hexdigest()}


def command(words: list[str]) -> str:
    """The command line, without the folders of this machine."""
    program, *rest = words
    name = Path(program).name
    return shlex.join([*(["python", "-m", "unmask"] if name == "__main__.py" else [name]), *map(bare, rest)])


def bare(word: str) -> str:
    """A file or folder without the folders that it lies in on this machine; anything else as it is."""
    return Path(word).name if Path(word).expanduser().is_absolute() else word


def threads() -> int:
    """Processors that this process may use, or what OMP_NUM_THREADS leaves of them."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable, int(told)) if told.isdigit() and int(told) else usable


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all; innermost objects and lists on a line each."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda inner: " ".join(inner[0].split()), text)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def rounded(value: Any) -> Any:
    """The same with six digits of every number."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value
