"""Opening checkpoints: a Hugging Face folder of safetensors or a GGUF file, read strictly into a module.

Strictly: every tensor in the files is used, none is missing, all shapes are those the config implies. Only headers are
read until that is known. Pickled files and remote code are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from unmask.config import ModelConfig
from unmask.model import families, gguf, store
from unmask.model.families import EMBEDDING, HEAD
from unmask.model.files import FLOATS, opened, read_json
from unmask.model.gguf_header import read_header
from unmask.model.peft import AdapterWeights, read_adapter
from unmask.model.sharding import Shard
from unmask.text import Tokenizer
from unmask.types import Traits

__all__ = ["AdapterWeights", "Checkpoint", "load_into", "open_checkpoint", "read_adapter", "verify"]

PUBLISHED_DRAFT_ADAPTER = "linear_spec_lora"  # sub-folder of the instruct Nemotron-Labs-Diffusion checkpoints


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk. source: the folder or .gguf file; files: what holds the tensors; adapters: name -> folder.

    model_type: as at the top of config.json, "gguf" for a GGUF file. dtype: what the weights are stored in (that of
    the first tensor; float32 for GGUF, whatever its quantisation).
    """

    config: ModelConfig
    traits: Traits
    source: Path
    kind: Literal["hf", "gguf"]
    model_type: str
    files: tuple[Path, ...]
    dtype: torch.dtype
    adapters: Mapping[str, Path] = field(default_factory=dict)

    def tensors(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
        """(canonical name, tensor) in file order, each read when its turn comes; tensors no decoder needs are left out.

        Of a Hugging Face folder: in the stored dtype, on top of the file's memory map (copy what you keep).
        Of a GGUF file: in `dtype`, in memory of its own. Raises ValueError for a file that is broken.
        """
        if self.kind == "gguf":
            yield from gguf.read_tensors(self.files[0], dtype)
            return
        for file in self.files:
            with opened(file) as tensors:
                names = tensors.offset_keys()
            for theirs in names:
                if name := families.canonical_name(self.model_type, theirs):
                    # A map of its own each time: what is read of one stays in memory as long as the map does.
                    with opened(file) as tensors:
                        tensor = tensors.get_tensor(theirs)
                    yield name, tensor
                    del tensor

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that lies with the weights. Raises ValueError where there is none that can be read."""
        if self.kind == "gguf":
            return Tokenizer.from_gguf(gguf.read_metadata(self.source))
        return Tokenizer.from_file(self.source)

    def adapter(self, name: str) -> AdapterWeights:
        """The adapter in the sub-folder `name`; ValueError where there is none, or `read_adapter` refuses it."""
        if name not in self.adapters:
            raise ValueError(f"{self.source} has no adapter {name!r}; it has: {', '.join(self.adapters) or 'none'}")
        return read_adapter(self.adapters[name], self.config)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the settings and the headers of a checkpoint and verify that the two agree.

    path: a folder with config.json and safetensors (one file, or several and an index), a .gguf file, or a folder that
    holds one .gguf file. Raises FileNotFoundError where nothing is there, ValueError for what `verify`,
    `families.config_from_hf` or `gguf.read_config` refuse, and for pickled checkpoints.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise FileNotFoundError(f"{path} has neither a config.json nor exactly one .gguf file (found {len(found)})")
        path = found[0]
    checkpoint = _open_folder(path) if path.is_dir() else _open_gguf(path)
    verify(checkpoint)
    return checkpoint


def verify(checkpoint: Checkpoint) -> None:
    """Compare the headers of the files with the config; ValueError names the first tensor that does not fit.

    First in file order: tensors that are unknown, there twice, of another shape, or not floating point; then the first
    missing one in the model's order. A tied model may carry its head as well (see `load_into`).
    """
    expected = families.tensor_shapes(checkpoint.config)
    allowed = expected | {HEAD: expected[EMBEDDING]}
    seen: set[str] = set()
    for name, shape, dtype in _headers(checkpoint):
        where = f"{checkpoint.source}: tensor {name}"
        if name not in allowed:
            raise ValueError(f"{where} {list(shape)} is not part of such a {checkpoint.model_type} model")
        if name in seen:
            raise ValueError(f"{where} is there twice")
        if shape != allowed[name]:
            raise ValueError(f"{where} has shape {list(shape)}; the config says {list(allowed[name])}")
        if checkpoint.kind == "hf" and dtype not in FLOATS:
            raise ValueError(f"{where} has dtype {dtype}; supported: {', '.join(FLOATS)}")
        seen.add(name)
    if missing := next((name for name in expected if name not in seen), None):
        hint = " (is tie_word_embeddings meant to be true?)" if missing == HEAD else ""
        raise ValueError(f"{checkpoint.source}: tensor {missing} {list(expected[missing])} is missing{hint}")


def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    shard: Shard | None = None,
) -> None:
    """Give `module`, whose parameters have canonical names, the weights of a checkpoint, one tensor at a time.

    module may be on the meta device: its parameters are replaced (requires_grad is kept), so the peak is the weights
    plus one tensor. dtype: None keeps the stored one. Parameters of other names are left alone. In a tied model the
    head becomes the embedding's parameter; a head that the file carries as well must equal the embedding.
    shard: `module` is that part of the model, and nothing but its part of a tensor is kept.
    Raises ValueError where module and config, or config and files, do not agree.
    """
    verify(checkpoint)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    config = shard.config(checkpoint.config) if shard else checkpoint.config
    for name, shape in families.tensor_shapes(config).items():
        if name not in parameters or parameters[name].shape != shape:
            found = list(parameters[name].shape) if name in parameters else "nothing"
            raise ValueError(f"the module has {found} where the config has {name} {list(shape)}")
    twice = checkpoint.config.tied and any(name == HEAD for name, _, _ in _headers(checkpoint))
    ends: dict[str, Tensor] = {}  # as stored, of a tied model that has both: to be compared
    for name, tensor in checkpoint.tensors(dtype or torch.float32):
        if twice and name in (EMBEDDING, HEAD):
            ends[name] = tensor
            if len(ends) == 2 and not torch.equal(ends[EMBEDDING], ends[HEAD]):
                raise ValueError(
                    f"{checkpoint.source}: {HEAD} differs from {EMBEDDING} although tie_word_embeddings is true;"
                    " set it to false to use both"
                )
        if name != HEAD or not checkpoint.config.tied:
            part = shard.of(name, tensor) if shard else tensor
            # GGUF tensors are fresh memory; the others lie in a file that may be replaced under us
            copy = checkpoint.kind == "hf" or part is not tensor
            _assign(module, name, part.to(device=device, dtype=dtype, copy=copy).contiguous())
    if checkpoint.config.tied and HEAD in parameters:
        module.get_submodule("lm_head").weight = module.get_parameter(EMBEDDING)


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    setattr(owner, leaf, nn.Parameter(tensor, requires_grad=getattr(owner, leaf).requires_grad))


def _headers(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(canonical name, shape, the file's name of its type) of what `Checkpoint.tensors` will yield."""
    if checkpoint.kind == "gguf":
        for name, shape in gguf.stored_shapes(read_header(checkpoint.files[0])).items():
            yield name, shape, "GGUF"
        return
    for file in checkpoint.files:
        with opened(file) as tensors:
            for theirs in tensors.offset_keys():
                if ours := families.canonical_name(checkpoint.model_type, theirs):
                    part = tensors.get_slice(theirs)
                    yield ours, tuple(part.get_shape()), part.get_dtype()


def _open_gguf(path: Path) -> Checkpoint:
    if path.suffix != ".gguf":
        raise ValueError(f"{path} is not a checkpoint; give a .gguf file or a folder with config.json and safetensors")
    config, traits = gguf.read_config(path)
    return Checkpoint(config, store.known_traits(path) or traits, path, "gguf", "gguf", (path,), torch.float32)


def _open_folder(folder: Path) -> Checkpoint:
    raw = read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    try:
        config, traits = families.config_from_hf(raw, read_json(generation) if generation.exists() else None)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    adapters = {file.parent.name: file.parent for file in sorted(folder.glob("*/adapter_config.json"))}
    model_type = raw["model_type"]
    if model_type == families.NLD and traits.draft_adapter is None and PUBLISHED_DRAFT_ADAPTER in adapters:
        traits = replace(traits, draft_adapter=PUBLISHED_DRAFT_ADAPTER)
    for name in traits.adapters:
        if name not in adapters:
            found = ", ".join(adapters) or "none"
            raise ValueError(f"{folder}: config.json names the adapter {name!r}; adapter folders there: {found}")
    checkpoint = Checkpoint(config, traits, folder, "hf", model_type, _weight_files(folder), torch.float32, adapters)
    stored = next((dtype for _, _, dtype in _headers(checkpoint)), "F32")
    return replace(checkpoint, dtype=FLOATS.get(stored, torch.float32))


def _weight_files(folder: Path) -> tuple[Path, ...]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return (single,)
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            raise ValueError(f"{index} has no 'weight_map' of file names in the same folder")
        files = tuple(folder / name for name in sorted(set(names.values())))
        if absent := next((file for file in files if not file.exists()), None):
            raise FileNotFoundError(f"{absent.name} is listed in {index} but is not there; was the download cut short?")
        return files
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return (found[0],)
    pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(pattern))]
    if pickled and not found:
        raise ValueError(
            f"{folder} has a pickled checkpoint ({pickled[0]}), which could run code: convert to safetensors"
        )
    raise FileNotFoundError(f"{folder} has no model.safetensors and no model.safetensors.index.json")
