"""The roofline: bytes and FLOPs counted another way, floors that are floors, predictions by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from scripts import readme
from tests.engine.tiny import CONFIG, decoder
from unmask.bench import machine
from unmask.bench.pictures import HEIGHT, WIDTH, drawn, scaled
from unmask.bench.pictures import roofline as picture
from unmask.bench.roofline import ROWS, attainable, config_of, floors, points, predictions
from unmask.bench.roofs import GPUS, Roof, gpu
from unmask.bench.work import cache_bytes, forward, weight_bytes
from unmask.cli import run
from unmask.config import ModelConfig
from unmask.model.decoder import Batch, Decoder

NLD_8B = ModelConfig(131072, 4096, 34, 32, 8, 128, 14336, 262144)
EASY = Roof("easy", 100.0, {"float32": 1000.0, "bfloat16": 2000.0, "int8": 4000.0}, "made up")

configs = st.builds(
    lambda kv, group, head, hidden, inner, layers, vocab, tied: ModelConfig(
        vocab, hidden, layers, kv * group, kv, 2 * head, inner, 99, tied=tied
    ),
    *[st.integers(1, 3)] * 3,
    *[st.integers(1, 40)] * 2,
    st.integers(1, 3),
    st.integers(2, 50),
    st.booleans(),
)


@settings(max_examples=20)
@given(configs)
def test_weights_are_those_of_the_decoder(config: ModelConfig) -> None:
    with torch.device("meta"):
        matrices = [each.weight for each in Decoder(config).projections().values()]
    count, outputs = sum(weight.numel() for weight in matrices), sum(len(weight) for weight in matrices)
    assert forward(config, "bfloat16", rows=1).weights == 2 * count
    assert forward(config, "float32", rows=3, requests=2).weights == 4 * count
    assert forward(config, "bfloat16", "int8", rows=1).weights == count + 4 * outputs
    with torch.device("meta"):
        whole = sum({id(p): p.numel() for p in Decoder(config).parameters() if p.dim() == 2}.values())
    assert weight_bytes(config, "float32", None) == 4 * whole


@given(st.integers(1, 5), st.integers(1, 3))
def test_products_are_what_torch_counts(rows: int, requests: int) -> None:
    model, count = decoder(torch.float32, adapters=()), rows * requests
    batch = Batch(torch.zeros(count, dtype=torch.int64), torch.arange(count), count)
    with FlopCounterMode(display=False) as counter:
        model.logits(model(batch, lambda layer, q, k, v: q))
    assert counter.get_total_flops() == forward(CONFIG, "float32", rows=rows, requests=requests).products


@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 3))
def test_attention_is_counted_pair_by_pair(rows: int, context: int, requests: int) -> None:
    pairs = [
        (request, query, key) for request in range(requests) for query in range(rows) for key in range(context + rows)
    ]
    each = CONFIG.layers * CONFIG.heads * CONFIG.head_dim
    found = forward(CONFIG, "float32", rows=rows, context=context, requests=requests)
    assert found.attention == len(pairs) * each * (2 + 2)  # a score, and a share of the values
    row = CONFIG.layers * CONFIG.kv_heads * CONFIG.head_dim * 2 * 4
    assert found.cache == requests * (context + 2 * rows) * row
    assert cache_bytes(CONFIG, "float32", 7) == 7 * row


def test_intensity_is_twice_the_articles() -> None:
    """One row of a large model in 16 bits does one FLOP per byte, not a half; a block of 32 does 32, not 16."""
    for rows, requests, article in ((1, 1, 0.5), (32, 1, 16.0), (1, 128, 64.0)):
        found = forward(NLD_8B, "bfloat16", rows=rows, requests=requests).intensity
        assert found == pytest.approx(2 * article, rel=0.01)


def test_an_8b_model_on_an_h200_and_the_articles_h100() -> None:
    """A step of AR reads 15.9 GB without the embedding: 3.3 ms at 4.8 TB/s, so about 300 tokens/s."""
    work = forward(NLD_8B, "bfloat16", rows=1)
    assert work.bytes == pytest.approx(15.9e9, rel=0.01)
    assert gpu("H200").seconds(work, "bfloat16") == pytest.approx(3.3e-3, rel=0.02)
    assert gpu("h100").seconds(work, "bfloat16") == pytest.approx(4.8e-3, rel=0.02)
    assert gpu("h100").ridge("bfloat16") == pytest.approx(300, rel=0.02)
    with pytest.raises(ValueError, match=re.escape("gpu must be one of a100, h100")):
        gpu("voodoo2")


@given(st.sampled_from(sorted(GPUS)), st.sampled_from(["float32", "bfloat16", "float16"]), st.integers(1, 500))
def test_floors_hold_both_limits(name: str, dtype: str, rows: int) -> None:
    roof, config = GPUS[name], NLD_8B
    (line,) = floors(roof, config, dtype, None, 100, [rows])
    assert line["floor_seconds"] >= line["bytes"] / roof.bandwidth
    assert line["floor_seconds"] >= line["flops"] / roof.rate(dtype) * (1 - 1e-9)
    assert (line["limit"] == "memory") == (line["intensity"] <= roof.ridge(dtype))
    assert line["flops"] / line["floor_seconds"] == pytest.approx(attainable(roof, dtype, line["intensity"]))
    more = floors(roof, config, dtype, None, 100, [rows + 1])[0]
    assert more["floor_seconds"] >= line["floor_seconds"]
    assert floors(roof, config, dtype, None, 200, [rows])[0]["floor_seconds"] > line["floor_seconds"]


def test_formats_have_rates_of_their_own() -> None:
    work = replace(forward(CONFIG, "float32", rows=1), weights=0.0, cache=0.0, products=8000.0, attention=1000.0)
    assert EASY.computing(work, "float32") == 9.0
    assert EASY.computing(work, "bfloat16") == 4.5
    assert EASY.computing(work, "bfloat16", "int8") == 2.5
    assert EASY.computing(work, "bfloat16", "int4") == 4.5
    with pytest.raises(ValueError, match="no rate of float64 is known for easy"):
        EASY.rate("float64")


def test_predictions_by_hand() -> None:
    """Where only the weights count, a round of two forwards has to bring two tokens, and a forward one."""
    slow = Roof("slow", 1.0, dict.fromkeys(("float32", "bfloat16"), 1e30), "made up")
    plain = {(line["mode"], line["block"]): line for line in predictions(slow, NLD_8B, "bfloat16", None, 0, [8])}
    assert (plain["ar", 1]["break_even"], plain["ar", 1]["times_ar"]) == pytest.approx((1.0, 1.0))
    assert plain["linearspec", 8]["break_even"] == pytest.approx(2.0, rel=1e-3)
    assert plain["quadspec", 8]["rows"] == [72]
    assert plain["quadspec", 8]["break_even"] == pytest.approx(1.0, rel=1e-2)
    assert all("tokens_per_second" not in line for (mode, _), line in plain.items() if mode != "ar")
    told = predictions(slow, NLD_8B, "bfloat16", None, 0, [8], tpf=4.0, acceptance=6.0)
    speeds = {line["mode"]: line["times_ar"] for line in told}
    assert speeds == pytest.approx({"ar": 1.0, "fastdiffuser": 4.0, "linearspec": 3.0, "quadspec": 6.0}, rel=1e-2)
    capped = predictions(slow, NLD_8B, "bfloat16", None, 0, [8], tpf=100.0, acceptance=100.0)
    assert {line["mode"]: round(line["times_ar"]) for line in capped} == {
        "ar": 1,
        "fastdiffuser": 8,
        "linearspec": 4,
        "quadspec": 8,
    }


def test_what_arithmetic_limits_is_slower_in_blocks() -> None:
    fast = Roof("fast", 1e30, {"bfloat16": 1.0}, "made up")
    lines = {line["mode"]: line for line in predictions(fast, NLD_8B, "bfloat16", None, 0, [8], tpf=4.0)}
    # A block of 8 in two forwards: 16 rows, then 8; so 12 rows a forward, and 4 tokens of it.
    assert lines["fastdiffuser"]["break_even"] == pytest.approx(12, rel=0.01)
    assert lines["fastdiffuser"]["times_ar"] == pytest.approx(4 / 12, rel=0.01)
    assert lines["linearspec"]["break_even"] == pytest.approx(16, rel=0.01)


def lines_of(roof: Roof = EASY, measured: bool = True) -> list[dict[str, Any]]:
    plain = floors(roof, CONFIG, "bfloat16", None, 16)
    return floors(
        roof,
        CONFIG,
        "bfloat16",
        None,
        16,
        measured={r["rows"]: 1.5 * r["floor_seconds"] for r in plain} if measured else None,
    )


def test_a_plot_in_characters() -> None:
    lines = drawn(EASY, "bfloat16", lines_of())
    assert len(lines) == HEIGHT + 3
    assert max(map(len, lines[: HEIGHT + 2])) == 14 + WIDTH
    text = "\n".join(lines)
    # Dots lie under the roof, and one may hide another.
    assert set(re.findall(r"[a-h]", "\n".join(line[14:] for line in lines[:HEIGHT]))) <= set("abcdefgh")
    assert "h: 128" in text
    assert text.count("-") > 3
    assert text.count("/") > 3
    without = drawn(EASY, "bfloat16", lines_of(measured=False))
    assert len(without) == HEIGHT + 2
    assert [scaled(x) for x in (989e12, 1.979e15, 3.35e9, 2.5e6, 12.0)] == ["989 T", "1.98 P", "3.35 G", "2.5 M", "12 "]


def test_the_picture_holds_every_point() -> None:
    figure = picture(EASY, "bfloat16", lines_of(), "tiny")
    (axis,) = figure.axes
    assert [len(line.get_xdata()) for line in axis.lines] == [3, len(ROWS), len(ROWS)]  # type: ignore[arg-type]
    assert points(lines_of())[0][2] == pytest.approx(lines_of()[0]["flops"] / lines_of()[0]["seconds"])
    assert len(picture(EASY, "bfloat16", lines_of(measured=False), "tiny").axes[0].lines) == 2


def test_this_machine_is_measured() -> None:
    roof = machine.measure(torch.device("cpu"), size=1 << 20, product=(32, 64))
    assert roof.rates.keys() >= {"float32", "bfloat16"}
    assert all(value > 1e6 for value in (roof.bandwidth, *roof.rates.values()))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.SIZE, "cpu", 1 << 20)
    monkeypatch.setitem(machine.PRODUCT, "cpu", (32, 64))


def test_the_verb_on_this_machine(
    tiny_folder: Path, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "roofline.json"
    words = ["roofline", str(tiny_folder), "--dtype", "float32", "--context", "16", "--block", "4"]
    assert run([*words, "--json", "--out", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text(encoding="utf-8"))
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    (part,) = found["roofs"]
    assert [line["rows"] for line in part["forwards"]] == list(ROWS)
    assert all(line["seconds"] > 0 and line["times_floor"] > 0 for line in part["forwards"])
    assert [line["mode"] for line in part["modes"]] == ["ar", "fastdiffuser", "linearspec", "quadspec"]
    assert found["machine"]["threads"] >= 1
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    rows = [line for line in readme.roofline().splitlines() if re.match(r"\| \d", line)]
    assert [row.count("|") for row in rows] == [9] * len(ROWS)
    assert run(words) == 0
    assert "rows of the forward: a: 1, b: 2" in capsys.readouterr().out


def test_the_verb_for_gpus_reads_a_config_only(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text("utf-8"), encoding="utf-8")
    words = ["roofline", str(tmp_path), "--gpu", "h100", "--gpu", "b200", "--acceptance", "6", "--tpf", "3", "--json"]
    assert run([*words, "--quantize", "int8"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in found["roofs"]] == ["h100", "b200"]
    assert all("tokens_per_second" in line for part in found["roofs"] for line in part["modes"])
    assert config_of(str(tmp_path)) == config_of(str(tiny_folder))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "abacus"], "gpu must be one of a100"),
        (["--gpu", "h100", "--exactness", "fast"], "--exactness does not apply with --gpu"),
        (["--gpu", "h100", "--dtype", "float64"], "dtype must be one of float32"),
        (["--tpf", "0"], "--tpf must be above 0"),
        (["--context", "-1"], "--context must be 0 or more"),
        (["--block", "0"], "--block must be above 0"),
        (["--context", "200"], "--context must leave 128 of the model's 256 positions"),
        (["--out", "/no/such/folder/x.json"], "no folder /no/such/folder"),
    ],
)
def test_mistakes(tiny_folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["roofline", str(tiny_folder), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
