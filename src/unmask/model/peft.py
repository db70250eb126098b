"""Reading LoRA adapters from the folders that PEFT writes, as strictly as checkpoints are read.

Plain and rank-stabilised LoRA on the projections of the layers; an adapter that asks for more is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.config import ModelConfig
from unmask.model.coherence import PREFIX, shapes
from unmask.model.families import NLD, canonical_name, integer, number, tensor_shapes
from unmask.model.files import FLOATS, opened, read_json

MASK_EMBEDDING = "mask_embedding"
_OURS = (MASK_EMBEDDING, *(PREFIX + name for name in shapes(0, 0)))
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])\.weight")

# Fields of adapter_config.json (PEFT 0.21) that are read below, and that do not act at inference; others must be empty.
_READ = ("peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "init_lora_weights", "bias")
_IDLE = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
)
# Other ways to initialise change the base weights as well, and without those the adapter means nothing.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """One LoRA adapter: W x becomes W x + scale * B A x.

    matrices: canonical module name ("model.layers.0.self_attn.o_proj") -> (A [rank, in], B [out, rank]), in the
    stored dtype. What PEFT does not know, where the adapter has it: mask_embedding: [hidden], a learned input for mask
    slots; coherence: the matrices of `unmask.model.coherence.Coherence`.
    """

    rank: int
    scale: float
    matrices: dict[str, tuple[Tensor, Tensor]]
    mask_embedding: Tensor | None = None
    coherence: tuple[Tensor, Tensor, Tensor] | None = None


def read_adapter(path: str | Path, config: ModelConfig) -> AdapterWeights:
    """Read adapter_config.json and adapter_model.safetensors of a folder, for a model of this config.

    Strict: every tensor is used, every target module of every layer has both its matrices, shapes agree.
    scale is lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora. Raises FileNotFoundError, and ValueError for
    another kind of adapter (DoRA, trained biases or modules, ranks per module, ...) or files that do not agree.
    """
    path = Path(path).expanduser()
    raw = read_json(path / "adapter_config.json")
    file = path / "adapter_model.safetensors"
    if not file.exists() and (path / "adapter_model.bin").exists():
        raise ValueError(
            f"{path} has a pickled adapter (adapter_model.bin), which could run code: convert to safetensors"
        )
    try:
        _refuse_unsupported(raw)
        rank, alpha = integer(raw, "r"), number(raw, "lora_alpha")
        if rank < 1:
            raise ValueError(f"r must be at least 1, got {rank}")
        scale = alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)
        expected = _expected(raw, config, rank)
        return AdapterWeights(rank, scale, *_read(file, expected, config.hidden_size))
    except ValueError as error:
        raise ValueError(f"adapter {path}: {error}") from error


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise ValueError(f"peft_type {raw.get('peft_type')!r} is not supported; supported: LORA")
    if raw.get("bias", "none") != "none":
        raise ValueError(f"bias = {raw['bias']!r} is not supported; supported: none")
    if raw.get("init_lora_weights") not in _INITIALISATIONS:
        raise ValueError(
            f"init_lora_weights = {raw['init_lora_weights']!r} is not supported: it alters the base weights"
        )
    if key := next((key for key, value in raw.items() if value and key not in _READ + _IDLE), None):
        raise ValueError(f"{key} = {raw[key]!r} is not supported")


def _expected(raw: Mapping[str, Any], config: ModelConfig, rank: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of A and B for every module that target_modules names, in the model's order."""
    shapes = {name.removesuffix(".weight"): shape for name, shape in tensor_shapes(config).items()}
    projections = {name: shape for name, shape in shapes.items() if name.endswith("_proj")}
    targets = raw.get("target_modules")
    if targets == "all-linear":
        targets = list(projections)
    if not (isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets)):
        raise ValueError(f"target_modules must be a list of module names, got {targets!r}")
    endings = {target: f".{canonical_name(NLD, target)}" for target in targets}
    for target, ending in endings.items():
        if not any(f".{name}".endswith(ending) for name in projections):
            raise ValueError(f"target module {target!r} is not a projection of this model's layers")
    chosen = {name: s for name, s in projections.items() if f".{name}".endswith(tuple(endings.values()))}
    return {name: {"A": (rank, inputs), "B": (outputs, rank)} for name, (outputs, inputs) in chosen.items()}


def _read(
    file: Path, expected: dict[str, dict[str, tuple[int, ...]]], hidden: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor | None, tuple[Tensor, Tensor, Tensor] | None]:
    found: dict[str, dict[str, Tensor]] = {name: {} for name in expected}
    ours = dict[str, Tensor]()
    with opened(file) as tensors:
        for key in tensors.offset_keys():
            shape, dtype = tuple(tensors.get_slice(key).get_shape()), tensors.get_slice(key).get_dtype()
            match = _KEY.fullmatch(key)
            module = (canonical_name(NLD, match["module"]) or "") if match else ""
            if key not in _OURS and (match is None or module not in expected):
                raise ValueError(f"tensor {key} {list(shape)} is not a LoRA matrix of a target module")
            wanted = expected[module][match["matrix"]] if match else _shape_of(key, shape, hidden)
            if shape != wanted:
                raise ValueError(f"tensor {key} has shape {list(shape)}; the model and r say {list(wanted)}")
            if dtype not in FLOATS:
                raise ValueError(f"tensor {key} has dtype {dtype}; supported: {', '.join(FLOATS)}")
            tensor = tensors.get_tensor(key).clone()  # off the file's memory map
            if match is None:
                ours[key] = tensor
            else:
                found[module][match["matrix"]] = tensor
    for name, matrices in found.items():
        for matrix in "AB":
            if matrix not in matrices:
                raise ValueError(f"lora_{matrix} of target module {name} is missing")
    return (
        {name: (matrices["A"], matrices["B"]) for name, matrices in found.items()},
        ours.get(MASK_EMBEDDING),
        _coherence(ours),
    )


def _shape_of(key: str, shape: tuple[int, ...], hidden: int) -> tuple[int, ...]:
    """What a tensor that PEFT does not know must look like; the width of a coherence head is its own."""
    if key == MASK_EMBEDDING:
        return (hidden,)
    name = key.removeprefix(PREFIX)
    return shapes(shape[-1 if name == "out" else 0] if shape else 0, hidden)[name]


def _coherence(ours: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
    parts = {name: ours.get(PREFIX + name) for name in shapes(0, 0)}
    if all(part is None for part in parts.values()):
        return None
    for name, part in parts.items():
        if part is None:
            raise ValueError(f"tensor {PREFIX}{name} is missing beside the other matrices of the coherence head")
    hidden, token, out = (part for part in parts.values() if part is not None)
    if not len(hidden) == len(token) == out.shape[1]:
        widths = f"{len(hidden)}, {len(token)} and {out.shape[1]}"
        raise ValueError(f"the matrices of the coherence head have different widths: {widths}")
    return hidden, token, out
