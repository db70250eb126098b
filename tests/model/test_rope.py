"""Rotary frequencies and query scales: the published values, and transformers' own where it has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from unmask.config import Rope
from unmask.model.rope import RotaryTable, inverse_frequencies, query_scale, rotate

# The float64 vectors of Nemotron-Labs-Diffusion: (theta, factor), the correction range, index -> inverse frequency.
PUBLISHED: list[tuple[float, float, tuple[int, int], dict[int, float]]] = [
    (
        1e6,
        16,
        (20, 37),
        {
            **{0: 1, 1: 0.80584219, 13: 0.060429639, 20: 0.013335214, 21: 0.010153464, 25: 0.0032820661},
            **{30: 6.9070234e-4, 36: 4.9611353e-5, 37: 2.1238802e-5, 50: 1.2834531e-6, 63: 7.755861e-8},
        },
    ),
    (
        1e9,
        16,
        (13, 25),
        {
            **{1: 0.72339416, 13: 0.01485508, 14: 0.0099065409, 20: 6.9777921e-4, 24: 5.9301071e-5},
            **{25: 1.9065799e-5, 37: 3.9152096e-7, 63: 8.6398264e-11},
        },
    ),
    (
        1e6,
        0.25,
        (20, 37),
        {
            **{1: 0.80584219, 20: 0.013335214, 21: 0.012642445, 25: 0.0085300398, 30: 0.0042574439},
            **{37: 0.0013592833, 50: 8.2141001e-5, 63: 4.963751e-6},
        },
    ),
    (
        1e9,
        0.25,
        (13, 25),
        {14: 0.013432598, 20: 0.0042347979, 25: 0.0012202112, 37: 2.5057341e-5, 63: 5.5294889e-9},
    ),
]


@pytest.mark.parametrize(("theta", "factor", "limits", "expected"), PUBLISHED)
def test_published_frequencies(
    theta: float, factor: float, limits: tuple[int, int], expected: dict[int, float]
) -> None:
    found = inverse_frequencies(Rope(theta, "yarn", factor, original_max_position=16384), 128)
    assert (found.dtype, found.shape) == (torch.float64, (64,))
    for j, value in expected.items():
        assert found[j].item() == pytest.approx(value, rel=5e-8), j
    plain = inverse_frequencies(Rope(theta), 128)
    low, high = limits
    assert torch.equal(found[: low + 1], plain[: low + 1])
    torch.testing.assert_close(found[high:], plain[high:] / factor, rtol=1e-14, atol=0)
    between = found[low + 1 : high]
    assert (between != plain[low + 1 : high]).all()
    assert (between != plain[low + 1 : high] / factor).all()


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0, 1.0),
        (16383, 1.0),
        (16384, 1.0693147),
        (32768, 1.1098612),
        (65536, 1.1609438),
        (131072, 1.2197225),
        (262143, 1.2772589),
    ],
)
def test_published_query_scales(position: int, expected: float) -> None:
    found = query_scale(torch.tensor([position]), 0.1, 16384)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("rope", "settings"),
    [
        (Rope(5e5), {"rope_type": "default"}),
        (Rope(5e5, "linear", 4.0), {"rope_type": "linear", "factor": 4.0}),
        *(
            (
                Rope(5e5, "llama3", factor, 8192, low_freq_factor=1.0, high_freq_factor=high),
                {
                    **{"rope_type": "llama3", "factor": factor, "original_max_position_embeddings": 8192},
                    **{"low_freq_factor": 1.0, "high_freq_factor": high},
                },
            )
            for factor, high in [(8.0, 4.0), (32.0, 4.0), (8.0, 2.0)]
        ),
        (
            Rope(5e5, "yarn", 4.0, 4096, beta_fast=16.0, beta_slow=2.0),
            {
                **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
                **{"beta_fast": 16.0, "beta_slow": 2.0},
            },
        ),
    ],
)
def test_frequencies_of_transformers(rope: Rope, settings: dict[str, Any]) -> None:
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=131072 if rope.kind == "llama3" else 16384,
        rope_parameters={"rope_theta": rope.theta, **settings},
    )
    if rope.kind == "default":
        theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        theirs = ROPE_INIT_FUNCTIONS[rope.kind](config)
    torch.testing.assert_close(inverse_frequencies(rope, 64).float(), theirs[0], rtol=1e-6, atol=0)


def test_the_table_grows_and_repeats_itself() -> None:
    rope = Rope(1e6, "yarn", 16.0, 16384, attention_factor=1.25)
    with torch.device("meta"):  # as a decoder is built before its weights are read
        table = RotaryTable(rope, 8)
    near, far = torch.tensor([3, 0, 1023]), torch.tensor([3, 5000])
    cos, sin = table.at(near, 1023)
    again, _ = table.at(far, 5000)
    assert torch.equal(again[0], cos[0])
    angles = torch.outer(near.double(), inverse_frequencies(rope, 8).float().double())
    torch.testing.assert_close(cos, (1.25 * angles.cos()).float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(sin, (1.25 * angles.sin()).float(), rtol=0, atol=1e-4)
    assert len(table.cos) < 10_000
    assert torch.equal(table.at(far, 5000)[0], RotaryTable(rope, 8).at(far, 5000)[0])


def test_rows_turn_first_half_against_second() -> None:
    table = RotaryTable(Rope(), 8)
    cos, sin = (part[:, None] for part in table.at(torch.tensor([7]), 7))
    angles = 7 * 10_000.0 ** (-torch.arange(4) / 4)
    for j, angle in enumerate(angles.tolist()):
        one = torch.zeros(1, 1, 8)
        one[..., j] = 1.0
        expected = torch.zeros(1, 1, 8)
        expected[..., j], expected[..., j + 4] = math.cos(angle), math.sin(angle)
        torch.testing.assert_close(rotate(one, cos, sin), expected)


def test_scores_depend_on_the_distance_only() -> None:
    table, (q, k) = RotaryTable(Rope(), 16), torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0))

    def score(at_q: int, at_k: int) -> float:
        turned = [
            rotate(x, *(part[:, None] for part in table.at(torch.tensor([at]), at))) for x, at in ((q, at_q), (k, at_k))
        ]
        return float((turned[0] * turned[1]).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
