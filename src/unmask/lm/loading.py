"""From a model's name to a running engine: checkpoint, tokenizer, adapters, key/value memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from unmask import quantization
from unmask.config import EngineConfig, ModelConfig
from unmask.engine.engine import Engine, Limits
from unmask.engine.runner import Runner
from unmask.model import store
from unmask.model.adapter import attach
from unmask.model.balance import TEXT, balances
from unmask.model.card import read_card
from unmask.model.checkpoint import AdapterWeights, Checkpoint, load_into, open_checkpoint, read_adapter
from unmask.model.decoder import Decoder
from unmask.model.packed import can_pack, pack
from unmask.text import Tokenizer
from unmask.types import Traits

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
CONTEXTS = 8  # whole contexts of key/value memory to have by default, if they fit


@dataclass(frozen=True)
class Parts:
    """What an LM is made of."""

    name: str
    checkpoint: Checkpoint
    traits: Traits
    decoder: Decoder
    tokenizer: Tokenizer
    engine: Engine
    quantize: quantization.Quantize | None = None


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    mask_id: int | None = None,
    adapter: str | Path | Literal[False] | None = None,
    quantize: str | None = None,
    config: EngineConfig | None = None,
) -> Parts:
    """See `LM.load`."""
    place = device_of(device)
    number = dtype_of(dtype, place)
    bits = quantization.check(quantize, place, number) if quantize else None
    source = store.resolve(name)
    checkpoint = open_checkpoint(source)
    traits, adapters = with_adapter(checkpoint, adapter)
    traits = with_mask(traits, mask_id, checkpoint.config.vocab_size)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint, dtype=number, device=place)
    for title, weights in adapters.items():
        attach(decoder, title, weights)
    tokenizer = checkpoint.tokenizer()
    if bits:
        balanced = balances(decoder, tokenizer.encode(TEXT)) if bits == "int8" else None
        pack(decoder, *quantization.forms(bits), balanced)
    elif can_pack(number, place):
        pack(decoder)
    config = config or EngineConfig()
    rows = config.max_tokens_cached or default_rows(checkpoint.config, number, place)
    pages = -(-rows // config.page_size)
    limits = Limits(checkpoint.config.vocab_size, checkpoint.config.max_position, tuple(adapters))
    engine = Engine(Runner(decoder, config, pages), pages, config, limits)
    return Parts(str(name), checkpoint, traits, decoder, tokenizer, engine, bits)


def with_adapter(
    checkpoint: Checkpoint, adapter: str | Path | Literal[False] | None
) -> tuple[Traits, dict[str, AdapterWeights]]:
    """The traits that the checkpoint has with its adapters, and those adapters by the names that the traits use.

    adapter: a folder of ours (PEFT files and a card), None for what the checkpoint itself brings or the package ships
    for it, False for none at all.
    """
    if adapter is None:
        adapter = shipped_adapter(checkpoint)
    if adapter is False or adapter is None:
        traits = checkpoint.traits
        if adapter is False:
            traits = replace(traits, draft_adapter=None, denoise_adapter=None)
        names = {traits.draft_adapter, traits.denoise_adapter} - {None}
        return traits, {str(name): checkpoint.adapter(str(name)) for name in sorted(names, key=str)}
    if not Path(adapter).expanduser().is_dir():
        raise FileNotFoundError(f"no adapter folder {str(adapter)!r}")
    traits, weights = read_card(adapter, checkpoint), read_adapter(adapter, checkpoint.config)
    names = {traits.draft_adapter, traits.denoise_adapter} - {None}
    return traits, {str(name): weights for name in sorted(names, key=str)}


def shipped_adapter(checkpoint: Checkpoint) -> Path | None:
    """The adapter that this package carries for a model it knows by its checksum."""
    name = store.known_name(checkpoint.source) if checkpoint.kind == "gguf" else None
    folder = Path(__file__).parent.parent / "adapters" / str(name)
    return folder if name is not None and folder.is_dir() else None


def with_mask(traits: Traits, mask_id: int | None, vocab_size: int) -> Traits:
    if mask_id is None:
        return traits
    if not 0 <= mask_id < vocab_size:
        raise ValueError(f"mask_id must be between 0 and {vocab_size - 1}, got {mask_id}")
    return replace(traits, mask_id=mask_id)


def device_of(device: str | torch.device | None) -> torch.device:
    """The GPU where there is one, unless told otherwise."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        here = "'cpu' or 'cuda'" if torch.cuda.is_available() else "'cpu'"
        raise ValueError(f"device must be {here} on this machine, got {str(device)!r}") from error
    return place


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it, else float32."""
    if dtype is None:
        fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    named = DTYPES.get(dtype) if isinstance(dtype, str) else dtype if dtype in DTYPES.values() else None
    if named is None:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return named


def default_rows(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> int:
    """Rows of key/value memory: some whole contexts, or what a good part of the free memory holds."""
    budget = int(torch.cuda.mem_get_info(device)[0] * 0.85) if device.type == "cuda" else free_memory() // 3
    per_row = config.kv_bytes_per_token * dtype.itemsize
    return max(min(CONTEXTS * config.max_position, budget // per_row), 1024)


def free_memory() -> int:
    """Bytes of host memory that are free now; 4 GB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
