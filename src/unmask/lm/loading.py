"""From a model's name to a running engine: checkpoint, tokenizer, adapters, key/value memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from unmask import __version__, quantization
from unmask.config import EngineConfig, ModelConfig
from unmask.engine import known
from unmask.engine.engine import Engine, Limits
from unmask.engine.runner import Runner
from unmask.lm import crew as crews
from unmask.lm.crew import Crew, Task
from unmask.model import native, sharding, store
from unmask.model.adapter import attach
from unmask.model.balance import TEXT, balances
from unmask.model.card import CARD, read_card
from unmask.model.checkpoint import AdapterWeights, Checkpoint, load_into, open_checkpoint, read_adapter
from unmask.model.decoder import Decoder
from unmask.model.packed import can_pack, give_back, pack
from unmask.model.sharding import Shard
from unmask.text import Tokenizer
from unmask.types import Traits

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
FILLER = "fill"  # folder within an adapter's, of one that has learned gaps
NO_GAPS: dict[str, Any] = {"gap_end": None, "gap_room": 0, "gap_causal": False, "gap_adapter": None}
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
    crew: Crew | None = None


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    mask_id: int | None = None,
    adapter: str | Path | Literal[False] | None = None,
    quantize: str | None = None,
    config: EngineConfig | None = None,
    tp: int = 1,
) -> Parts:
    """See `LM.load`."""
    place = device_of(device)
    number = dtype_of(dtype, place)
    bits = quantization.check(quantize, place, number) if quantize else None
    source = store.resolve(name)
    if place.type == "cpu" and number == torch.bfloat16 and tp == 1 and bits != "int4":
        native.prepare()
    checkpoint = open_checkpoint(source)
    traits, adapters = with_adapter(checkpoint, adapter)
    traits = with_mask(traits, mask_id, checkpoint.config.vocab_size)
    config, tokenizer = config or EngineConfig(), checkpoint.tokenizer()
    task = Task(source, number, place.type, adapter, bits, config, Shard(0, tp))
    crew = crew_for(task, checkpoint.config, place)
    try:
        shard = task.shard if crew else None
        decoder = decoder_of(checkpoint, adapters, number, place, bits, shard, exact=config.exactness == "exact")
        # Parts on a CPU share its memory; each GPU has its own.
        sizes = decoder.config if place.type == "cuda" else checkpoint.config
        rows = config.max_tokens_cached or default_rows(sizes, number, place)
        pages = -(-rows // config.page_size)
        if crew:
            crew.begin(pages)
        limits = Limits(checkpoint.config.vocab_size, checkpoint.config.max_position, tuple(adapters))
        how = {"dtype": str(number), "device": place.type, "quantize": bits, "exactness": config.exactness, "tp": tp}
        how["kernels"] = native.version() if decoder.native else None
        how |= {"graphs": config.graphs} if place.type == "cuda" else {}
        file = known.Known(known.folder(), identity(checkpoint, adapters, how))
        runner = Runner(decoder, config, pages, *((crew.step,) if crew else ()))
        engine = Engine(runner, pages, config, limits, file, give_back)
        return Parts(str(name), checkpoint, traits, decoder, tokenizer, engine, bits, crew)
    except BaseException:
        if crew:
            crew.close()
        raise


def crew_for(task: Task, config: ModelConfig, device: torch.device) -> Crew | None:
    """The other processes of a model, if several share it. ValueError where it cannot be shared so."""
    if task.shard.size == 1:
        return None
    sharding.check(config, task.shard.size)
    crews.check(task.shard.size, device)
    return Crew(task)


def decoder_of(
    checkpoint: Checkpoint,
    adapters: Mapping[str, AdapterWeights],
    dtype: torch.dtype,
    device: torch.device,
    quantize: quantization.Quantize | None,
    shard: Shard | None,
    exact: bool,
) -> Decoder:
    """The decoder, ready to run. shard: only that part of it; all processes have to call this then.

    exact: parts are added up in an order that depends on nothing.
    """
    with torch.device("meta"):
        decoder = Decoder(shard.config(checkpoint.config) if shard else checkpoint.config)
    load_into(decoder, checkpoint, dtype=dtype, device=device, shard=shard)
    for title, weights in adapters.items():
        attach(decoder, title, shard.adapter(weights) if shard else weights)
    if shard:
        sharding.join(decoder, sharding.sum_of_processes(steady=exact))
    if quantize and device.type != "cpu":
        quantization.shrink(decoder.model.layers)
        return decoder
    factors = balances(decoder, checkpoint.tokenizer().encode(TEXT)) if quantize == "int8" else None
    if quantize != "int4" and native.fits(decoder) and (kernels := native.library()):
        native.pack(decoder, kernels, quantize == "int8", factors)
    elif quantize:
        pack(decoder, *quantization.forms(quantize), factors)
    elif can_pack(dtype, device):
        pack(decoder)
    return decoder


def identity(checkpoint: Checkpoint, adapters: Mapping[str, AdapterWeights], how: Mapping[str, Any]) -> dict[str, Any]:
    """All that measurements of a loaded model hang on, as plain JSON data: this machine, the files, versions, `how`."""
    cuda = how["device"] == "cuda"
    machine = {
        "processor": torch.cuda.get_device_name() if cuda else known.processor(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    stats = [(file.name, file.stat()) for file in checkpoint.files]
    return {
        "format": known.FORMAT,
        "machine": machine,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        "adapters": {name: hash_of(weights) for name, weights in sorted(adapters.items())},
        "how": dict(how),
        "versions": {"unmask": __version__, "torch": torch.__version__},
    }


def hash_of(adapter: AdapterWeights) -> str:
    """Of an adapter's contents, so that another one of the same shapes is known as another."""
    parts = {f"{name} {i}": part for name, pair in adapter.matrices.items() for i, part in enumerate(pair)}
    parts |= {f"coherence {i}": part for i, part in enumerate(adapter.coherence or ())}
    if adapter.mask_embedding is not None:
        parts["mask"] = adapter.mask_embedding
    found = hashlib.sha256(str(adapter.scale).encode())
    for name, part in sorted(parts.items()):
        found.update(f"{name} {list(part.shape)} {part.dtype}".encode())
        found.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:20]


def with_adapter(
    checkpoint: Checkpoint, adapter: str | Path | Literal[False] | None
) -> tuple[Traits, dict[str, AdapterWeights]]:
    """The traits that the checkpoint has with its adapters, and those adapters by the names that the traits use.

    adapter: a folder of ours (PEFT files and a card, and in a folder of its own, "fill", those of an adapter that has
    learned to fill gaps), None for what the checkpoint itself brings or the package ships for it, False for none.
    """
    if adapter is None:
        adapter = shipped_adapter(checkpoint)
    if adapter is False:
        bare = replace(checkpoint.traits, draft_adapter=None, denoise_adapter=None)
        return bare if bare.gap_adapter is None else replace(bare, **NO_GAPS), {}
    if adapter is None:
        return checkpoint.traits, {name: checkpoint.adapter(name) for name in checkpoint.traits.adapters}
    folder = Path(adapter).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no adapter folder {str(adapter)!r}")
    traits, weights = read_card(folder, checkpoint), read_adapter(folder, checkpoint.config)
    if traits.gap_adapter is not None:  # a filler: what drafts and denoises beside it is the model's own
        own = {name: checkpoint.adapter(name) for name in traits.adapters if name != traits.gap_adapter}
        return traits, own | {traits.gap_adapter: weights}
    found = dict.fromkeys(traits.adapters, weights)
    if (folder / FILLER).is_dir():
        filler = read_card(folder / FILLER, checkpoint)
        if filler.gap_adapter is None or filler.gap_adapter in found or filler.gap_room % traits.block_size:
            raise ValueError(
                f"{folder / FILLER / CARD}: gap_adapter must be a name of its own, and gap_room whole blocks of"
                f" {traits.block_size}; got {filler.gap_adapter!r} and {filler.gap_room}"
            )
        traits = replace(traits, **{name: getattr(filler, name) for name in NO_GAPS})
        found[filler.gap_adapter] = read_adapter(folder / FILLER, checkpoint.config)
    return traits, found


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
