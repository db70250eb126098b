"""Schedule, Muon, AdamW state by name, averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unmask.training.optim import Average, Muon, Optimisers, clip, inner_matrix, orthogonalise, rate
from unmask.training.settings import Optimiser


def test_rate_rises_stays_and_falls() -> None:
    settings = Optimiser(warmup=0.1, decay=0.2, final=0.05)
    expected = {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.5: 1.0, 0.8: 1.0, 0.9: 0.525, 1.0: 0.05, 1.2: 0.05}
    assert {progress: round(rate(progress, settings), 9) for progress in expected} == expected


def test_rate_without_warm_up_or_decay() -> None:
    settings = Optimiser(warmup=0.0, decay=0.0)
    assert [rate(progress, settings) for progress in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert rate(0.5, Optimiser(warmup=0.0, decay=1.0, final=0.0)) == 0.5


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_muon_orthogonalises(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = torch.linalg.svd(orthogonalise(matrix))
    assert found.S.min() > 0.5
    assert found.S.max() < 1.3
    assert values.max() / values.min() > 1.5
    # The same directions: along each pair of singular vectors it is positive, across them near nothing.
    inner = u.T @ orthogonalise(matrix) @ vt.T
    torch.testing.assert_close(inner, torch.diag(inner.diag()), rtol=0, atol=1e-4)


def test_muon_steps_by_its_learning_rate() -> None:
    parameter = nn.Parameter(torch.zeros(8, 4))
    optimiser = Muon([parameter], lr=0.1)
    parameter.grad = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    optimiser.step()
    norm = torch.linalg.matrix_norm(parameter.detach(), 2).item()
    assert 0.07 < norm / 2**0.5 < 0.13  # scaled by sqrt(rows / columns)


def parameters(seed: int = 0) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (10, 4),
        "model.layers.0.mlp.up_proj.weight": (6, 4),
        "model.layers.0.input_layernorm.weight": (4,),
        "lm_head.weight": (10, 4),
    }
    return {name: nn.Parameter(torch.randn(*shape, generator=generator)) for name, shape in shapes.items()}


def one_step(values: dict[str, nn.Parameter], optimisers: Optimisers, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in values.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimisers.step(0.5)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_by_name_goes_on_bit_for_bit(kind: str) -> None:
    settings = Optimiser(kind=kind, lr=0.1, weight_decay=0.1)  # type: ignore[arg-type]
    through = parameters()
    optimisers = Optimisers(through, settings)
    for step in range(4):
        one_step(through, optimisers, step)

    stopped = parameters()
    before = Optimisers(stopped, settings)
    for step in range(2):
        one_step(stopped, before, step)
    after = Optimisers(stopped, settings)
    after.restore({name: tensor.clone() for name, tensor in before.tensors().items()})
    for step in range(2, 4):
        one_step(stopped, after, step)
    for name in through:
        assert torch.equal(through[name], stopped[name])


def test_muon_takes_the_matrices_of_the_layers_only() -> None:
    values = parameters()
    assert [name for name, p in values.items() if inner_matrix(name, p)] == ["model.layers.0.mlp.up_proj.weight"]
    optimisers = Optimisers(values, Optimiser(kind="muon"))
    one_step(values, optimisers, 0)
    assert sorted(name for name in optimisers.tensors() if name.endswith("momentum")) == [
        "model.layers.0.mlp.up_proj.weight.momentum"
    ]


def test_weight_decay_spares_vectors_and_embeddings() -> None:
    values = parameters()
    before = {name: p.detach().clone() for name, p in values.items()}
    optimisers = Optimisers(values, Optimiser(lr=0.1, weight_decay=0.5))
    for parameter in values.values():
        parameter.grad = torch.zeros_like(parameter)
    optimisers.step(1.0)
    changed = [name for name in values if not torch.equal(values[name], before[name])]
    assert changed == ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"]
    assert all(parameter.grad is None for parameter in values.values())


def test_clip_bounds_the_common_norm() -> None:
    values = parameters()
    for parameter in values.values():
        parameter.grad = torch.ones_like(parameter)
    norm = clip(values.values(), 1.0)
    assert norm == pytest.approx(108**0.5)
    total = sum(float(p.grad.square().sum()) for p in values.values() if p.grad is not None)
    assert total == pytest.approx(1.0, rel=1e-4)


def test_average_follows_and_swaps() -> None:
    values = parameters()
    average = Average(values, 0.5)
    name, parameter = next(iter(values.items()))
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(2)
    average.update()
    torch.testing.assert_close(average.values[name], start + 1)
    average.swap()
    torch.testing.assert_close(parameter.detach(), start + 1)
    average.swap()
    torch.testing.assert_close(parameter.detach(), start + 2)
