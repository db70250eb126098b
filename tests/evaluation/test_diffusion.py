"""`unmask eval --suite diffusion` on the tiny model: figures of training, an adapter, a joint model, mistakes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tinymodel import MASK, write_model
from unmask import LM
from unmask.cli import run
from unmask.evaluation.diffusion import MODES, Settings, evaluate
from unmask.model.checkpoint import AdapterWeights, open_checkpoint
from unmask.training.export import export_adapter
from unmask.training.measure import measure
from unmask.training.packing import Data, held_out
from unmask.training.perplexity import ar_nll
from unmask.training.settings import Adapter, Blocks, TrainConfig

SETTINGS = Settings(samples=3, length=48, points=2, prompts=2, max_tokens=8)
SHORT = ["--samples", "2", "--length", "32", "--points", "1", "--prompts", "1", "-n", "4", "--dtype", "float32"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "held.txt"
    file.write_text("the cat and the dog and the bird\n" * 30, encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), unmask={"mask_id": MASK})


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint, generator = open_checkpoint(base), torch.Generator().manual_seed(3)
    names = [f"model.layers.{layer}.self_attn.o_proj" for layer in range(2)]
    pairs = {n: (torch.randn(4, 32, generator=generator), torch.randn(32, 4, generator=generator)) for n in names}
    traits = replace(
        checkpoint.traits,
        trained=True,
        seed="copy",
        block_size=8,
        draft_block_size=4,
        draft_adapter="x",
        denoise_adapter="x",
    )
    weights = AdapterWeights(4, 0.5, pairs, torch.randn(32, generator=generator))
    return export_adapter(weights, checkpoint, traits, tmp_path_factory.mktemp("adapter"), base_name="tiny")


def test_an_adapter_has_the_figures_of_its_training(base: Path, adapter: Path, text: str) -> None:
    lm = LM.load(base, dtype="float32", adapter=adapter)
    told = list[tuple[str, int, int]]()
    found = evaluate(lm, [text], SETTINGS, progress=lambda *where: told.append(where))
    config = TrainConfig(
        seed_placement="copy", batch=4, steps=1, blocks=Blocks(8, draft_size=4), adapter=Adapter(name="x")
    )
    samples = held_out(Data((text,), held_out=(text,)), lm.tokenizer, 48, 3)
    expected = measure(lm.decoder, samples, config, MASK, points=2)
    assert {key: found["figures"][key] for key in expected if key != "score"} == {
        key: value for key, value in expected.items() if key != "score"
    }
    assert len(found["figures"]["acceptance"]) == 3
    assert found["ar_change"] == 0.0, "the base is frozen"
    assert found["tokens"] == sum((sample.document >= 0).sum() for sample in samples)
    assert all(0 <= done <= total for _, done, total in told)
    assert json.loads(json.dumps(found)) == found


def test_generations_in_every_mode(base: Path, adapter: Path, text: str) -> None:
    found = evaluate(LM.load(base, dtype="float32", adapter=adapter), [text], SETTINGS)
    rows = {row["mode"]: row for row in found["generation"]}
    assert rows.keys() == MODES.keys()
    assert rows["ar"]["tpf"] == 1.0
    assert all(row["tokens"] == 16 for row in rows.values())
    assert all(rows[name]["same_as_ar"] == 1.0 for name in rows if name != "fastdiffuser")
    assert rows["linearspec"]["acceptance_length"] >= 1.0
    assert MODES["linearspec"]["lookup"] == 0, "the drafter alone"


def test_a_joint_model_against_its_source(base: Path, text: str, tmp_path: Path) -> None:
    joint = write_model(tmp_path / "joint", seed=1)
    lm, source = LM.load(joint, dtype="float32"), LM.load(base, dtype="float32")
    found = evaluate(lm, [text], replace(SETTINGS, prompts=0), against=source)
    samples = held_out(Data((text,), held_out=(text,)), lm.tokenizer, 48, 3)
    before = evaluate(source, [text], replace(SETTINGS, prompts=0))
    assert found["against"]["ar_nll"] == pytest.approx(before["figures"]["ar_nll"])
    assert found["ar_change"] == pytest.approx(found["figures"]["ar_ppl"] / before["figures"]["ar_ppl"] - 1)
    assert before["ar_change"] is None
    assert found["generation"] == []
    assert ar_nll(lm.decoder, samples, MASK, batch=2) == pytest.approx(found["figures"]["ar_nll"])
    per_byte = found["figures"]["ar_nll"] / math.log(2)
    assert 0 < found["figures"]["bits_per_byte"] <= per_byte, "a token is at least a byte"


def test_a_drafter_of_a_joint_model(base: Path, adapter: Path, text: str) -> None:
    """Drafts are measured with the drafter's adapter, partial masks without."""
    lm, plain = LM.load(base, dtype="float32", adapter=adapter), LM.load(base, dtype="float32")
    settings = replace(SETTINGS, prompts=0)
    both = evaluate(lm, [text], settings)["figures"]
    lm.traits = replace(lm.traits, denoise_adapter=None)
    plain.traits = replace(lm.traits, draft_adapter=None)
    found, joint = evaluate(lm, [text], settings)["figures"], evaluate(plain, [text], settings)["figures"]
    assert found["acceptance"] == both["acceptance"]
    assert (found["nelbo"], found["accuracy_by_position"]) == (joint["nelbo"], joint["accuracy_by_position"])
    assert found["nelbo"] != both["nelbo"]


def test_the_command(base: Path, adapter: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    arguments = ["eval", str(base), "--adapter", str(adapter), "--data", text, *SHORT]
    assert run([*arguments, "--json", "--out", str(file)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(file.read_text(encoding="utf-8"))
    assert (printed["suite"], printed["settings"]["length"]) == ("diffusion", 32)
    assert printed["adapter"].keys() == {"name", "bytes", "sha256"}
    assert printed["adapter"]["name"] == adapter.name
    assert str(adapter.parent) not in json.dumps(printed), "no folders of this machine"
    assert run([*arguments, "--against", str(base)]) == 0
    shown = capsys.readouterr().out
    for words in ("NELBO", "+0.00 %", "mask ratio", "acceptance", "adaptivespec"):
        assert words in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suite", "magic"], "suite must be one of diffusion, starter, humaneval"),
        (["--samples", "0"], "samples must be at least 1, got 0"),
        (["--length", "1"], "length must be at least 2, got 1"),
        (["--data", "/no/such/file.txt"], "/no/such/file.txt"),
        (["--out", "/no/such/folder/x.json"], "no folder /no/such/folder"),
        (["--mask-id", "100000"], "mask_id must be between 0 and"),
        (["--adapter", "/no/such/adapter"], "no adapter folder"),
    ],
)
def test_mistakes_are_one_line(
    base: Path, text: str, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run(["eval", str(base), "--data", text, *SHORT, *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("unmask", "message"),
    [
        ({}, "names no mask token"),
        ({"mask_id": MASK, "shift": True}, "blocks that see causal rows and predict their own tokens only"),
    ],
)
def test_models_that_cannot_be_measured(
    tmp_path: Path, text: str, unmask: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", unmask=unmask)
    assert run(["eval", str(model), "--data", text, *SHORT]) == 2
    assert message in capsys.readouterr().err


def test_another_vocabulary(base: Path, text: str, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", vocab_size=400)
    with pytest.raises(ValueError, match="cannot be compared"):
        evaluate(LM.load(base, dtype="float32"), [text], SETTINGS, LM.load(other, dtype="float32"))
