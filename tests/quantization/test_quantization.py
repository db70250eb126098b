"""Few-bit matrices against the arithmetic they stand for, done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.tiny import decoder
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch
from unmask.quantization import Int4, Int8, check, forms, int4, int8, shrink

SHAPES = st.tuples(st.sampled_from([1, 16, 50, 96]), st.sampled_from([32, 64, 160]), st.integers(1, 40))
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


def drawn(shape: tuple[int, int, int], seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs, rows = shape
    weight = torch.randn(outputs, inputs, generator=generator) * torch.rand(outputs, 1, generator=generator)
    return weight, (torch.randn(rows, inputs, generator=generator) * 3).to(dtype)


@given(SHAPES, st.integers(0, 10**6), DTYPES)
@settings(max_examples=60)
def test_int8_is_the_product_of_the_rounded_integers(
    shape: tuple[int, int, int], seed: int, dtype: torch.dtype
) -> None:
    weight, x = drawn(shape, seed, dtype)
    x[0] = 0.0
    whole, scale = int8.rounded(weight)
    levels = int8.row_levels()
    peak = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    rows = (x.float() * (levels / peak) + int8.ZERO + 0.5).floor() - int8.ZERO
    expected = (rows.double() @ whole.double().T) * scale.double() * peak.double() / levels
    torch.testing.assert_close(
        Int8(weight)(x).double(), expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5 * float(peak.max())
    )


@given(SHAPES, st.integers(0, 10**6), DTYPES)
@settings(max_examples=40)
def test_int8_stays_near_and_rows_are_their_own(shape: tuple[int, int, int], seed: int, dtype: torch.dtype) -> None:
    weight, x = drawn(shape, seed, dtype)
    product, exact = Int8(weight), x.float() @ weight.T
    found = product(x)
    assert found.dtype == dtype
    most = x.float().norm(dim=1, keepdim=True) * weight.norm(dim=1)
    assert ((found.float() - exact).abs() <= 0.02 * most + 0.01 * exact.abs()).all()
    for first, last in ((0, 1), (1, len(x)), (len(x) - 1, len(x))):
        assert torch.equal(product(x[first:last]), found[first:last])


@given(
    st.tuples(st.sampled_from([16, 48]), st.sampled_from([32, 96]), st.integers(1, 20)), st.integers(0, 10**6), DTYPES
)
@settings(max_examples=40)
def test_int4_is_the_product_with_the_rounded_matrix(
    shape: tuple[int, int, int], seed: int, dtype: torch.dtype
) -> None:
    weight, x = drawn(shape, seed, dtype)
    whole, pairs = int4.rounded(weight)
    assert int(whole.min()) >= 0
    assert int(whole.max()) <= 15
    scale, offset = (part.float().T[:, :, None] for part in pairs.unbind(dim=2))
    back = ((whole.view(len(weight), -1, int4.GROUP) - 8) * scale + offset).view_as(weight)
    assert ((back - weight).abs().view(len(weight), -1, int4.GROUP) <= 0.62 * scale + 0.005).all()
    expected = x.float() @ back.T
    assert (Int4(weight)(x).float() - expected).norm() <= 0.01 * expected.norm()


def test_int4_gives_back_what_has_sixteen_levels() -> None:
    """As the groups of a Q4_1 file have, of scales that bfloat16 holds."""
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(16, (16, 4, 32), generator=generator).float()
    levels[:, :, 0], levels[:, :, 1] = 0.0, 15.0
    weight = (levels * 0.125 - 1.0).view(16, 128)
    eye = torch.eye(128)
    torch.testing.assert_close(Int4(weight)(eye), weight.T, rtol=0, atol=1e-2)


def test_int4_falls_back_where_its_kernel_has_no_such_size() -> None:
    layers, head = forms("int4")
    assert isinstance(layers(torch.ones(16, 32)), Int4)
    assert isinstance(layers(torch.ones(20, 32)), Int8)
    assert isinstance(layers(torch.ones(16, 48)), Int8)
    assert isinstance(head(torch.ones(16, 32)), Int8)
    assert forms("int8") == (Int8, Int8)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "message"),
    [
        ("int3", "cpu", torch.bfloat16, "quantize must be one of int8, int4, got 'int3'"),
        ("int4", "meta", torch.bfloat16, "computes on a CPU so far, not on meta; int8 does"),
        ("int8", "meta", torch.bfloat16, r"on meta needs torchao: pip install 'unmask\[gpu\]'"),
        ("int4", "cpu", torch.float16, "needs dtype bfloat16 or float32, got float16"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, device: str, dtype: torch.dtype, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.quantization.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message) as caught:
        check(name, torch.device(device), dtype)
    assert "\n" not in str(caught.value)
    assert check("int8", torch.device("cpu"), torch.bfloat16) == "int8"


def test_torchao_shrinks_the_layers_where_they_are() -> None:
    """What a GPU gets, on this processor."""
    pytest.importorskip("torchao")
    ids = torch.arange(9)
    batch = Batch(ids, ids, 8, {"draft": ids[7:]}, {"draft": ids[8:]})
    model, attend = decoder(torch.bfloat16), dense_attend(np.tri(9, dtype=np.bool_))
    plain = model(batch, attend)
    shrink(model.model.layers)
    assert all(part.weight.qdata.dtype == torch.int8 for name, part in model.projections().items() if name != "lm_head")  # type: ignore[attr-defined]
    found = model(batch, attend)
    assert 0 < float((found - plain).abs().max() / plain.abs().max()) < 0.05
    assert not torch.equal(found, model(replace(batch, gates={}, unknown={}), attend)), "the adapter still acts"
