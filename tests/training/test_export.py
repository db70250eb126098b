"""Export: what is written loads strictly, here, in transformers and in PEFT, and computes the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.text.vocabularies import byte_level_core
from unmask.model.card import CARD, read_card
from unmask.model.checkpoint import Checkpoint, load_into, open_checkpoint
from unmask.model.decoder import Batch, Decoder
from unmask.model.families import NLD
from unmask.model.gguf import read_metadata
from unmask.model.peft import AdapterWeights, read_adapter
from unmask.text import Tokenizer
from unmask.training.export import export_adapter, export_model, whole_folder
from unmask.types import Traits

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
}
TRAITS = Traits(mask_id=7, block_size=8, seed="copy")
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def base(path: Path, kind: str = "llama", **settings: Any) -> Checkpoint:
    """A saved tiny transformers model with a tokenizer."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(SIZES | settings))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    byte_level_core().save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    return open_checkpoint(path)


def loaded(checkpoint: Checkpoint) -> Decoder:
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config)
    load_into(decoder, checkpoint, dtype=torch.float32)
    return decoder.requires_grad_(False)


def logits(decoder: Decoder, ids: list[int], adapter: str | None = None) -> Tensor:
    rows = len(ids)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed[0].transpose(0, 1)

    gates = {adapter: torch.arange(rows)} if adapter else {}
    return decoder.logits(decoder(Batch(torch.tensor(ids), torch.arange(rows), rows - 1, gates), attend))


IDS = [5, 250, 3, 9, 9, 17, 41, 2, 8, 299]


@pytest.mark.parametrize(
    ("kind", "settings", "written"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}, "llama"),
        ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, "llama"),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 8}, "llama"),
        ("qwen2", {}, "qwen2"),
        ("qwen3", {"tie_word_embeddings": True, "eos_token_id": [2, 3]}, "qwen3"),
        ("mistral", {"sliding_window": 32}, NLD),
        ("ministral3", {"rope_parameters": YARN}, NLD),
        ("ministral3", {"tie_word_embeddings": True, "rope_parameters": YARN}, NLD),
    ],
)
def test_a_model_comes_back(kind: str, settings: dict[str, Any], written: str, tmp_path: Path) -> None:
    source = base(tmp_path / "base", kind, **settings)
    decoder = loaded(source)
    out = export_model(decoder, source, TRAITS, tmp_path / "out", dtype=torch.float32)
    found = open_checkpoint(out)  # strict: every tensor used, none missing
    assert (found.model_type, found.traits) == (written, TRAITS)
    assert found.config == replace(source.config, tied=source.config.tied and written != NLD)
    assert torch.equal(logits(loaded(found), IDS), logits(decoder, IDS))
    tokenizer = Tokenizer.from_file(out)
    assert tokenizer.encode("the end") == Tokenizer.from_file(source.source).encode("the end")
    assert tokenizer.eos_ids[: len(source.config.stop_ids)] == source.config.stop_ids
    if written != NLD:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        assert torch.allclose(theirs(torch.tensor([IDS])).logits[0], logits(decoder, IDS), atol=1e-5)


def test_the_published_layout(tmp_path: Path) -> None:
    source = base(tmp_path / "base", "ministral3", tie_word_embeddings=True, rope_parameters=YARN)
    drafter = adapter_for(source, ["o_proj"])
    traits = replace(TRAITS, draft_adapter="linear_spec_lora")
    out = export_model(
        loaded(source),
        source,
        traits,
        tmp_path / "out",
        adapters={"linear_spec_lora": replace(drafter, mask_embedding=None)},
    )
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["NemotronLabsDiffusionModel"]
    assert config["rope_parameters"] == YARN
    assert (config["mask_token_id"], config["block_size"], config["torch_dtype"]) == (7, 8, "bfloat16")
    assert (config["tie_word_embeddings"], config["eos_token_id"]) == (False, 2)
    found = open_checkpoint(out)
    assert (found.dtype, found.traits) == (torch.bfloat16, traits)
    with found.files[0].open("rb") as file:
        names = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {"encoder.embed_tokens.weight", "encoder.norm.weight", "diffusion_head.weight"} < set(names)
    keys = found.adapter("linear_spec_lora").matrices
    assert list(keys) == ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]


def adapter_for(checkpoint: Checkpoint, targets: list[str]) -> AdapterWeights:
    torch.manual_seed(1)
    projections = Decoder(checkpoint.config).projections()
    chosen = {name: p.weight.shape for name, p in projections.items() if name.rpartition(".")[2] in targets}
    matrices = {name: (torch.randn(3, n), torch.randn(m, 3)) for name, (m, n) in chosen.items()}
    hidden = checkpoint.config.hidden_size
    head = (torch.randn(5, hidden), torch.randn(5, hidden), torch.randn(hidden, 5))
    return AdapterWeights(3, 2.5, matrices, torch.randn(hidden), head)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # between PEFT and transformers
def test_an_adapter_comes_back_here_and_in_peft(tmp_path: Path) -> None:
    import peft

    source = base(tmp_path / "base")
    weights = adapter_for(source, ["q_proj", "o_proj", "down_proj"])
    traits = replace(TRAITS, draft_adapter="unmask", denoise_adapter="unmask")
    out = export_adapter(
        weights, source, traits, tmp_path / "out", base_name="org/tiny", dtype=torch.float32, extra={"tokens": 5}
    )
    assert read_card(out, source) == traits
    card = json.loads((out / CARD).read_text())
    assert (card["base"]["name"], card["tokens"]) == ("org/tiny", 5)
    found = read_adapter(out, source.config)
    assert (found.rank, found.scale) == (3, 2.5)
    assert found.mask_embedding is not None
    assert weights.mask_embedding is not None
    assert torch.equal(found.mask_embedding, weights.mask_embedding)
    assert found.coherence is not None
    assert weights.coherence is not None
    for part, other in zip(found.coherence, weights.coherence, strict=True):
        assert torch.equal(part, other)
    assert all(torch.equal(found.matrices[n][i], m[i]) for n, m in weights.matrices.items() for i in (0, 1))

    model = transformers.AutoModelForCausalLM.from_pretrained(source.source, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(model, str(out)).merge_and_unload().state_dict()
    for name, tensor in before.items():
        a, b = weights.matrices.get(name.removesuffix(".weight"), (None, None))
        expected = tensor if a is None or b is None else tensor + 2.5 * b @ a
        assert torch.allclose(merged[name], expected, atol=1e-5), name


def test_a_card_for_another_model(tmp_path: Path) -> None:
    source = base(tmp_path / "base")
    out = export_adapter(adapter_for(source, ["o_proj"]), source, TRAITS, tmp_path / "out", base_name="org/tiny")
    other = base(tmp_path / "other", hidden_size=32)
    with pytest.raises(ValueError, match=r"for org/tiny with hidden_size 16; .*other has 32"):
        read_card(out, other)
    longer = base(tmp_path / "longer", max_position_embeddings=128)
    assert read_card(out, longer) == TRAITS  # the same weights
    tuned = base(tmp_path / "tuned", tie_word_embeddings=True)
    with pytest.warns(UserWarning, match="other weights than org/tiny"):
        read_card(out, tuned)
    assert read_card(out, tuned, verify=False) == TRAITS
    card = json.loads((out / CARD).read_text())
    for change, complaint in [({"format": 2}, "newer"), ({"traits": {"mask": 1}}, "unknown key 'mask'")]:
        (out / CARD).write_text(json.dumps(card | change))
        with pytest.raises(ValueError, match=complaint):
            read_card(out, source)
    (out / CARD).write_text('{"format": 1}')
    with pytest.raises(ValueError, match="is broken: KeyError"):
        read_card(out, source)
    (out / CARD).unlink()
    with pytest.raises(FileNotFoundError):
        read_card(out, source)


def test_nothing_half_written(tmp_path: Path) -> None:
    source = base(tmp_path / "base")
    weights = adapter_for(source, ["o_proj"])
    out = tmp_path / "out"
    weights.matrices["model.layers.0.self_attn.o_proj"][0][0, 0] = 1e6
    with pytest.raises(ValueError, match=r"not finite in torch\.float16"):
        export_adapter(weights, source, TRAITS, out, base_name="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="is there already"), whole_folder(out):
        pass

    def interrupted() -> None:
        with whole_folder(out, overwrite=True) as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with whole_folder(out, overwrite=True) as folder:
        (folder / "whole").touch()
    assert [path.name for path in out.iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    with pytest.raises(ValueError, match="name the adapter 'x', which is not given"):
        export_model(loaded(source), source, Traits(mask_id=7, draft_adapter="x"), tmp_path / "new")


def test_smollm2_as_a_folder(smollm2_gguf: Path, tmp_path: Path) -> None:
    source = open_checkpoint(smollm2_gguf)
    decoder = loaded(source)
    out = export_model(decoder, source, Traits(mask_id=16), tmp_path / "out", dtype=torch.float32)
    found = open_checkpoint(out)
    assert found.config == source.config
    assert all(torch.equal(tensor, decoder.get_parameter(name)) for name, tensor in found.tensors())
    mine, theirs = Tokenizer.from_file(out), Tokenizer.from_gguf(read_metadata(smollm2_gguf))
    text = "def f(x):\n    return 12345 * x  # été <|im_end|>"
    for special in (False, True):
        assert mine.encode(text, special=special) == theirs.encode(text, special=special)
    assert (mine.eos_ids, mine.add_bos, mine.chat_template) == (theirs.eos_ids, theirs.add_bos, theirs.chat_template)
    assert mine.special_tokens == theirs.special_tokens
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(theirs.encode(text, special=True))
