"""One forward of a doubled sequence: both halves together, or a frozen clean half first and the noisy half on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.model.decoder import Batch, Decoder
from unmask.training.attention import Kernel
from unmask.training.layout import Doubled, Longs


@dataclass(frozen=True)
class Hidden:
    """Hidden states before the final norm. clean: [C, D]; noisy: [N, D]."""

    clean: Tensor
    noisy: Tensor


def together(decoder: Decoder, doubled: Doubled, kernel: Kernel, adapter: str | None = None) -> Hidden:
    """All rows at once, gradient through all of them. adapter: acts on the noisy rows."""
    rows, device = doubled.clean, decoder.model.embed_tokens.weight.device

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        clean = kernel.clean(q[:rows], k[:rows], v[:rows])
        noisy = kernel.noisy(q[rows:], (k[:rows], v[:rows]), (k[rows:], v[rows:]))
        return torch.cat((clean, noisy))

    x = decoder(make_batch(doubled, 0, adapter, device), attend)
    return Hidden(x[:rows], x[rows:])


def clean_first(decoder: Decoder, doubled: Doubled, kernel: Kernel, adapter: str | None) -> Hidden:
    """The clean rows without gradient, their keys and values kept; then the noisy rows, adapter on, against those.

    Equal to `together`, because no clean row sees a noisy one.
    """
    kept, device = list[tuple[Tensor, Tensor]](), decoder.model.embed_tokens.weight.device

    def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept.append((k, v))
        return kernel.clean(q, k, v)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel.noisy(q, kept[layer], (k, v))

    with torch.no_grad():
        clean = decoder(clean_batch(doubled, device), keep)
    if doubled.noisy == 0:
        return Hidden(clean, clean[:0])
    return Hidden(clean, decoder(make_batch(doubled, doubled.clean, adapter, device), attend))


def clean_alone(decoder: Decoder, doubled: Doubled, kernel: Kernel, adapter: str) -> Hidden:
    """The clean rows and no others, the adapter on all of them."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel.clean(q, k, v)

    clean = decoder(clean_batch(doubled, decoder.model.embed_tokens.weight.device, adapter), attend)
    return Hidden(clean, clean[:0])


def clean_batch(doubled: Doubled, device: torch.device, adapter: str | None = None) -> Batch:
    """adapter: acts on all rows."""
    ids, position = doubled.ids[: doubled.clean], doubled.position[: doubled.clean]
    gates = {} if adapter is None else {adapter: torch.arange(doubled.clean, device=device)}
    return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(position).to(device), highest(position), gates)


def highest(position: Longs) -> int:
    return int(position.max()) if len(position) else 0


def make_batch(doubled: Doubled, first: int, adapter: str | None, device: torch.device) -> Batch:
    """Rows from `first` on; the adapter acts on the noisy ones."""
    ids, position = torch.from_numpy(doubled.ids[first:]), torch.from_numpy(doubled.position[first:])
    gates, unknown = dict[str, Tensor](), dict[str, Tensor]()
    if adapter is not None:
        noisy = torch.arange(doubled.clean - first, doubled.clean - first + doubled.noisy)
        gates[adapter] = noisy.to(device)
        unknown[adapter] = noisy[torch.from_numpy(doubled.masked)].to(device)
    return Batch(ids.to(device), position.to(device), highest(doubled.position), gates, unknown)
