"""Which tensors a run trains, by name: all weights of a model, or an adapter on a frozen one."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.model.adapter import LowRank, attach
from unmask.model.checkpoint import AdapterWeights
from unmask.model.coherence import PREFIX, Coherence, shapes
from unmask.model.decoder import Decoder
from unmask.training.settings import Adapter, TrainConfig

MASK_EMBEDDING = "mask_embedding"


def make_trainable(decoder: Decoder, config: TrainConfig) -> dict[str, nn.Parameter]:
    """The parameters of a run in a fixed order, ready for gradients; all else of the decoder is frozen.

    Names of an adapter's matrices: "model.layers.0.self_attn.q_proj.lora_A".
    """
    decoder.train()
    if config.activation_checkpointing:
        for layer in decoder.model.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    if config.method == "joint":
        decoder.requires_grad_(True)
        return dict(decoder.named_parameters())
    decoder.requires_grad_(False)
    return new_adapter(decoder, config.adapter, config.seed)


def new_adapter(decoder: Decoder, settings: Adapter, seed: int) -> dict[str, nn.Parameter]:
    """Put an adapter that changes nothing yet (B = 0) on the decoder, in float32 (float64 in a float64 model).

    A: uniform, as kaiming_uniform(a=sqrt(5)) in PEFT. The mask embedding starts as the mean of all embeddings plus
    noise of a tenth of their spread, so that gradients do not start at a symmetric point.
    """
    weight = decoder.model.embed_tokens.weight
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(seed)
    parameters, matrices = dict[str, nn.Parameter](), dict[str, tuple[Tensor, Tensor]]()
    for name, projection in decoder.projections().items():
        if name.rpartition(".")[2] not in settings.targets:
            continue
        outputs, inputs = projection.weight.shape
        bound = 1 / math.sqrt(inputs)
        a = torch.empty(settings.rank, inputs, dtype=dtype).uniform_(-bound, bound, generator=generator)
        matrices[name] = a, torch.zeros(outputs, settings.rank, dtype=dtype)
    mask = None
    if settings.mask_embedding:
        rows = weight.detach().to("cpu", dtype)
        noise = torch.randn(rows.shape[1], dtype=dtype, generator=generator)
        mask = rows.mean(dim=0) + 0.1 * rows.std(dim=0) * noise
    head = new_coherence(settings.coherence, weight.shape[1], dtype, generator) if settings.coherence else None
    put(decoder, settings.name, AdapterWeights(settings.rank, settings.alpha / settings.rank, matrices, mask, head))
    for name in matrices:
        low_rank = decoder.projections()[name].adapters[settings.name]
        parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"] = low_rank.a, low_rank.b
    if mask is not None:
        embedding = decoder.mask_embeddings[settings.name]
        assert isinstance(embedding, nn.Parameter)
        parameters[MASK_EMBEDDING] = embedding
    if head is not None:
        parameters |= {PREFIX + name: part for name, part in decoder.coherence[settings.name].named_parameters()}
    return parameters


def new_coherence(
    width: int, hidden: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A head that changes nothing yet: what goes in is uniform as in `new_adapter`, what comes out is 0."""
    bound = 1 / math.sqrt(hidden)
    own, token = (
        torch.empty(width, hidden, dtype=dtype).uniform_(-bound, bound, generator=generator) for _ in range(2)
    )
    return own, token, torch.zeros(hidden, width, dtype=dtype)


@torch.no_grad()
def start_from(parameters: dict[str, nn.Parameter], weights: AdapterWeights) -> None:
    """Let a new adapter begin as another one. What that one does not have (a mask embedding, a head) stays new.

    Raises ValueError where they differ in rank, targets, or in what of the two has more.
    """
    found: dict[str, Tensor] = {
        f"{module}.lora_{matrix}": tensor
        for module, pair in weights.matrices.items()
        for matrix, tensor in zip("AB", pair, strict=True)
    }
    if weights.mask_embedding is not None:
        found[MASK_EMBEDDING] = weights.mask_embedding
    if weights.coherence is not None:
        found |= {PREFIX + name: part for name, part in zip(shapes(0, 0), weights.coherence, strict=True)}
    for name in [*found, *(name for name in parameters if "lora" in name)]:
        own = list(parameters[name].shape) if name in parameters else "nothing"
        given = list(found[name].shape) if name in found else "nothing"
        if own != given:
            raise ValueError(f"the adapter to start from has {given} as {name}, and the one to be trained {own}")
    for name, tensor in found.items():
        parameters[name].copy_(tensor)


def put(decoder: Decoder, name: str, weights: AdapterWeights) -> None:
    """As `unmask.model.adapter.attach`, but the weights keep their dtype and can be trained."""
    attach(decoder, name, weights)
    device = decoder.model.embed_tokens.weight.device
    for target, (a, b) in weights.matrices.items():
        decoder.projections()[target].adapters[name] = LowRank(a.to(device), b.to(device), weights.scale)
    if weights.mask_embedding is not None:
        decoder.mask_embeddings[name] = nn.Parameter(weights.mask_embedding.to(device))
    if weights.coherence is not None:
        decoder.coherence[name] = Coherence(*(part.to(device) for part in weights.coherence))


def adapter_weights(parameters: dict[str, Tensor], settings: Adapter) -> AdapterWeights:
    """What was trained, as `unmask.model.peft` reads it back."""
    matrices = {
        name.removesuffix(".lora_A"): (tensor.detach(), parameters[name.removesuffix("A") + "B"].detach())
        for name, tensor in parameters.items()
        if name.endswith(".lora_A")
    }
    mask = parameters.get(MASK_EMBEDDING)
    head = [parameters[PREFIX + name].detach() for name in shapes(0, 0)] if settings.coherence else None
    return AdapterWeights(
        settings.rank,
        settings.alpha / settings.rank,
        matrices,
        None if mask is None else mask.detach(),
        None if head is None else (head[0], head[1], head[2]),
    )
