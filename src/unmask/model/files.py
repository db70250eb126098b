"""Opening the two kinds of files that checkpoints and adapters are made of, with one clear line where they are broken.

JSON objects and safetensors; pickled files are never opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

# The dtypes that weights may have, by safetensors' names. Eight-bit floats need scales, which are not read.
FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, and ValueError for a file that holds something else."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open safetensors file (`safe_open` for torch). Raises FileNotFoundError, and ValueError if it is broken."""
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
