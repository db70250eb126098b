"""What `convert` writes is what others read: the published layout name by name, transformers, PEFT row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests.model.published import ADAPTER_CONFIG, CONFIG, LORA
from tests.training.test_export import YARN, base, loaded
from unmask import LM
from unmask.cli import run
from unmask.decoding.common import group
from unmask.engine.scheduler import Job
from unmask.model.checkpoint import open_checkpoint
from unmask.model.peft import read_adapter
from unmask.training.export import export_model
from unmask.types import Ids, Plan, Read, Request, Span

MASK, HIDDEN, INNER, HEADS, KV_HEADS, HEAD, LAYERS, VOCABULARY = 7, 16, 24, 4, 2, 8, 2, 300
CONTEXT: Ids = (5, 250, 3, 9, 17, 41, 2, 8, 299)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "one.txt"
    file.write_text("the cat and the dog and the bird\n" * 200, encoding="utf-8")
    return file


def converted(source: Path, text: Path, out: Path, *more: str) -> Path:
    fixed = ["--recipe", "tiny", "--data", str(text), "--set", "dtype=float32", "--mask-id", str(MASK), "--steps", "2"]
    assert run(["convert", str(source), *fixed, "--out", str(out), *more]) == 0
    return out


def published_shapes() -> dict[str, list[int]]:
    """The table of the published checkpoints, with this model's sizes."""
    layer = {
        "input_layernorm.weight": [HIDDEN],
        "self_attn.q_proj.weight": [HEADS * HEAD, HIDDEN],
        "self_attn.k_proj.weight": [KV_HEADS * HEAD, HIDDEN],
        "self_attn.v_proj.weight": [KV_HEADS * HEAD, HIDDEN],
        "self_attn.o_proj.weight": [HIDDEN, HEADS * HEAD],
        "post_attention_layernorm.weight": [HIDDEN],
        "mlp.gate_proj.weight": [INNER, HIDDEN],
        "mlp.up_proj.weight": [INNER, HIDDEN],
        "mlp.down_proj.weight": [HIDDEN, INNER],
    }
    ends = {"encoder.norm.weight": [HIDDEN]}
    ends |= {name: [VOCABULARY, HIDDEN] for name in ("encoder.embed_tokens.weight", "diffusion_head.weight")}
    return ends | {f"encoder.layers.{n}.{name}": shape for n in range(LAYERS) for name, shape in layer.items()}


def test_a_joint_model_is_in_the_published_layout(text: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rope_parameters": YARN, "tie_word_embeddings": True, "head_dim": HEAD}
    source = base(tmp_path / "base", "ministral3", **settings)
    out = converted(source.source, text, tmp_path / "out", "--method", "joint")
    tensors = load_file(out / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == published_shapes()
    assert len(tensors) == 9 * LAYERS + 3
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}

    config = json.loads((out / "config.json").read_text())
    ours = {"unmask", "rope_theta", "rope_scaling"}  # the last two repeat rope_parameters for transformers 4
    assert config.keys() - ours == CONFIG.keys() - {"auto_map"}  # it names code, which is not shipped
    kinds = {key: type(value) for key, value in CONFIG.items() if key not in ("auto_map", "bos_token_id")}
    assert {key: type(config[key]) for key in kinds} == kinds
    assert config["rope_parameters"].keys() == CONFIG["rope_parameters"].keys()
    told = ("model_type", "architectures", "tie_word_embeddings", "dlm_paradigm", "mask_token_id", "head_dim")
    expected = [CONFIG["model_type"], CONFIG["architectures"], False, "bidirectional", MASK, HEAD]
    assert [config[key] for key in told] == expected

    # Without our own keys, as the published file is, it is still the same model to us.
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in out.iterdir():
        if file.is_file():
            (plain / file.name).write_bytes(file.read_bytes())
    (plain / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in ours}))
    one, two = open_checkpoint(out), open_checkpoint(plain)
    assert one.config == two.config
    assert (two.traits.mask_id, two.traits.trained, two.traits.seed) == (MASK, True, "block")
    told_by_both = LM.load(out, dtype="float32"), LM.load(plain, dtype="float32")
    a, b = (lm.generate("the cat", mode="self-speculation", max_tokens=8) for lm in told_by_both)
    assert a.token_ids == b.token_ids


def test_a_drafter_of_it_is_the_published_one(text: Path, tmp_path: Path) -> None:
    source = base(tmp_path / "base", "ministral3", rope_parameters=YARN, head_dim=HEAD)
    joint = converted(source.source, text, tmp_path / "joint", "--method", "joint")
    drafter = converted(joint, text, tmp_path / "drafter", "--recipe", "drafter", "--method", "adapter")
    checkpoint = open_checkpoint(joint)
    weights = read_adapter(drafter, checkpoint.config)
    traits = replace(checkpoint.traits, draft_adapter=LORA)
    out = export_model(loaded(checkpoint), checkpoint, traits, tmp_path / "out", adapters={LORA: weights})
    tensors = load_file(out / LORA / "adapter_model.safetensors")
    stems = [f"base_model.model.encoder.layers.{n}.self_attn.o_proj" for n in range(LAYERS)]
    shapes = {f"{stem}.lora_A.weight": [weights.rank, HEADS * HEAD] for stem in stems}
    shapes |= {f"{stem}.lora_B.weight": [HIDDEN, weights.rank] for stem in stems}
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == shapes
    settings = json.loads((out / LORA / "adapter_config.json").read_text())
    assert ADAPTER_CONFIG.keys() <= settings.keys()
    same = ("peft_type", "target_modules", "bias", "inference_mode", "task_type", "lora_dropout")
    assert {key: settings[key] for key in same} == {key: ADAPTER_CONFIG[key] for key in same}
    found = open_checkpoint(out)
    assert (found.traits, list(found.adapter(LORA).matrices)) == (traits, list(weights.matrices))


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("qwen3", True)])
def test_transformers_reads_what_was_trained(kind: str, tied: bool, text: Path, tmp_path: Path) -> None:
    source = base(tmp_path / "base", kind, tie_word_embeddings=tied).source
    out = converted(source, text, tmp_path / "out", "--method", "joint")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    before = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    ids = torch.tensor([CONTEXT])
    expected = theirs(ids).logits[0].log_softmax(-1)
    assert not torch.allclose(expected, before(ids).logits[0].log_softmax(-1), atol=1e-3)  # it was trained
    lm = LM.load(out, dtype="float32")
    torch.testing.assert_close(logprobs(lm, [Span(CONTEXT, 0)]), expected, atol=2e-5, rtol=0)
    best = theirs.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)[0].tolist()
    ours = lm.generate(CONTEXT, mode="ar", max_tokens=6, ignore_eos=True)
    assert (*CONTEXT, *ours.token_ids) == tuple(best)


def logprobs(lm: LM, spans: Sequence[Span], kept: int = 0) -> Tensor:
    """log p of every id at every row of the plan, on the model's own runner: float32 [rows, vocabulary]."""
    reads = tuple(Read(i, tuple(range(len(span.tokens))), top=VOCABULARY) for i, span in enumerate(spans))
    (rows,) = lm.engine.runner.run([Job(Request((0,), 1), Plan(tuple(spans), reads), kept, range(8))])
    result = torch.empty(len(rows), VOCABULARY)
    for i, row in enumerate(rows):
        for token, value in row.top:
            result[i, token] = value
    return result


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # between PEFT and transformers
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")  # the new name is not in every release
@pytest.mark.parametrize("placement", ["block", "copy", "causal"])
def test_peft_computes_our_drafting_rows(placement: str, text: Path, tmp_path: Path) -> None:
    """The context without the adapter, then the group of a draft with it, every row seeing all: PEFT's own modules."""
    import peft

    source = base(tmp_path / "base", "llama").source
    more = ["--set", f"seed_placement={placement}", "--set", "optimiser.lr=0.05"]
    adapter = converted(source, text, tmp_path / "adapter", "--method", "adapter", *more)
    lm = LM.load(source, dtype="float32", adapter=adapter)
    assert lm.traits.seed == placement
    *context, seed = CONTEXT
    spans = [Span(CONTEXT, 0), group(lm.traits, seed, len(context), 5, ((0, len(context)),), (0, len(CONTEXT)))]
    ours = logprobs(lm, spans)

    seen = len(context) if placement == "block" else len(CONTEXT)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="sdpa")
    adapted: Any = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        with adapted.disable_adapter():
            causal = adapted(torch.tensor([CONTEXT]))
            kept = adapted(torch.tensor([CONTEXT[:seen]]), use_cache=True).past_key_values
        torch.testing.assert_close(ours[: len(CONTEXT)], causal.logits[0].log_softmax(-1), atol=2e-5, rtol=0)
        drafted = spans[1]
        embedded = model.get_input_embeddings()(torch.tensor([drafted.tokens])).clone()
        found = read_adapter(adapter, lm.config)
        assert found.mask_embedding is not None
        embedded[0, torch.tensor(drafted.masked)] = found.mask_embedding.float()
        rows = len(drafted.tokens)
        places = torch.arange(drafted.start, drafted.start + rows)[None]
        whole = torch.zeros(1, 1, rows, seen + rows)  # added to the scores: nothing is hidden
        theirs = adapted(
            inputs_embeds=embedded,
            position_ids=places,
            attention_mask=whole,
            past_key_values=kept,
        )
        plain = logprobs(lm, [spans[0], Span(drafted.tokens, drafted.start, True, drafted.sees)])
    torch.testing.assert_close(ours[len(CONTEXT) :], theirs.logits[0].log_softmax(-1), atol=1e-4, rtol=0)
    assert not torch.allclose(plain[len(CONTEXT) :], ours[len(CONTEXT) :], atol=1e-2)  # the adapter does something
