"""AdamW and Muon over named parameters, the warm-up-stable-decay schedule, and averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unmask.training.machine import spread_like
from unmask.training.settings import Optimiser


def rate(progress: float, settings: Optimiser) -> float:
    """Factor of the peak learning rate at `progress` from 0 to 1 of the run: linear rise, plateau, linear fall."""
    if progress < settings.warmup:
        return progress / settings.warmup
    left = 1.0 - min(progress, 1.0)
    if settings.decay == 0 or left >= settings.decay:
        return 1.0
    return settings.final + (1 - settings.final) * left / settings.decay


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, as the update of a matrix (Keller Jordan, 2024: github.com/KellerJordan/Muon).

    The update is scaled by sqrt(max(1, rows / columns)), so that one learning rate fits all shapes.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(momentum, group["momentum"]))
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Roughly U V^T of the singular value decomposition: Newton-Schulz with Jordan's quintic (3.4445, -4.7750, 2.0315),
    which brings all singular values to about 0.7 .. 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


class Optimisers:
    """One optimiser, or Muon and AdamW side by side, over named parameters."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: Optimiser) -> None:
        self.settings, self.names = settings, {id(p): name for name, p in parameters.items()}
        muon = {name for name, p in parameters.items() if settings.kind == "muon" and inner_matrix(name, p)}
        rest = {name: p for name, p in parameters.items() if name not in muon}
        decayed = [p for name, p in rest.items() if p.ndim == 2 and "embed" not in name]
        plain = [p for name, p in rest.items() if not (p.ndim == 2 and "embed" not in name)]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)
        ]
        if muon:
            matrices = [parameters[name] for name in parameters if name in muon]
            self.all.append(Muon(matrices, settings.muon_lr, weight_decay=settings.weight_decay))
        self.peaks = [settings.lr, settings.muon_lr]

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rates; gradients are dropped."""
        for optimiser, peak in zip(self.all, self.peaks, strict=False):
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All state: "<parameter>.<quantity>" -> tensor."""
        return {
            f"{self.names[id(parameter)]}.{key}": value
            for optimiser in self.all
            for parameter, state in optimiser.state.items()
            for key, value in state.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; KeyError where one is missing."""
        for optimiser in self.all:
            keys = ("momentum",) if isinstance(optimiser, Muon) else ("step", "exp_avg", "exp_avg_sq")
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    name = self.names[id(parameter)]
                    if f"{name}.{keys[0]}" in tensors:  # one that never had a gradient has no state
                        optimiser.state[parameter] = {
                            key: spread_like(tensors[f"{name}.{key}"], parameter).clone() for key in keys
                        }


def inner_matrix(name: str, parameter: Tensor) -> bool:
    """A matrix inside the layers: what Muon is for (not embeddings, head, vectors)."""
    return parameter.ndim == 2 and ".layers." in f".{name}"


def clip(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale all gradients so that their common norm is at most `largest`; the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), largest)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


class Average:
    """Exponential moving average of the weights, for evaluation and export."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        for name, value in self.values.items():
            value.lerp_(self.parameters[name], 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and current weights, in place; twice is nothing."""
        for name, value in self.values.items():
            current = self.parameters[name].detach().clone()
            self.parameters[name].copy_(value)
            value.copy_(current)
