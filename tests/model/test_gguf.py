"""GGUF files: against transformers' reader on the real model, against the gguf package on synthetic ones."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from unmask.config import ModelConfig, Rope
from unmask.model.gguf import canonical_name, config_from_gguf, read_config, read_metadata, read_tensors, stored_shapes
from unmask.model.gguf_header import read_header
from unmask.types import Traits

SETTINGS = {
    "context_length": 512,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10_000.0,
}
SHAPES = {"model.embed_tokens.weight": (80, 64), "lm_head.weight": (80, 64)}


def metadata(arch: str = "llama", **changes: Any) -> dict[str, Any]:
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return {"general.architecture": arch} | {f"{arch}.{key}": v for key, v in settings.items() if v is not None}


def write(
    path: Path, arch: str, tensors: dict[str, np.ndarray[Any, Any]], settings: dict[str, Any] | None = None
) -> Path:
    """A GGUF file of float32 tensors, written by the gguf package."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (settings or {}).items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case list():
                writer.add_array(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp's order of Q and K rows: within a head, row i of the first half is followed by row i of the second."""
    size = len(rows) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


def exported(model: Any, path: Path) -> Path:
    """A transformers model as llama.cpp's converter would write it, in float32, by the gguf package's own name map."""
    config = model.config
    arch = "llama" if config.model_type == "mistral" else config.model_type
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tensors = {}
    for name, parameter in model.named_parameters():
        values, part = parameter.detach().numpy(), name.split(".")[-2]
        if arch == "llama" and part in heads:
            values = interleaved(values, heads[part])
        tensors[str(names.get_name(name, try_suffixes=(".weight", ".bias")))] = values
    settings: dict[str, Any] = {
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.eos_token_id": 2,
    }
    if head_dim := getattr(config, "head_dim", None):
        settings |= {f"{arch}.attention.key_length": head_dim, f"{arch}.attention.value_length": head_dim}
    return write(path, arch, tensors, settings)


@pytest.mark.slow
def test_the_real_model_equals_what_transformers_reads(smollm2_gguf: Path) -> None:
    with warnings.catch_warnings():  # transformers warns about its own dequantisation
        warnings.simplefilter("ignore")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
        )
    expected = dict(theirs.named_parameters())
    found = dict(read_tensors(smollm2_gguf))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    config, _ = read_config(smollm2_gguf)
    assert (config.head_dim, config.tied) == (theirs.config.head_dim, theirs.config.tie_word_embeddings)
    assert config.norm_eps == theirs.config.rms_norm_eps
    assert config.rope == Rope(theta=theirs.config.rope_parameters["rope_theta"])


def test_the_real_header_equals_what_gguf_reads(smollm2_gguf: Path) -> None:
    reader, header = gguf.GGUFReader(smollm2_gguf), read_header(smollm2_gguf)
    expected = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == expected
    assert read_metadata(smollm2_gguf)["tokenizer.ggml.tokens"][2] == "<|im_end|>"
    assert [(name, s.kind, s.offset, s.size) for name, s in header.tensors.items()] == [
        (tensor.name, tensor.tensor_type, tensor.data_offset, tensor.n_bytes) for tensor in reader.tensors
    ]
    config, traits = read_config(smollm2_gguf)
    assert config == ModelConfig(
        vocab_size=49152,
        hidden_size=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        max_position=8192,
        rope=Rope(theta=100_000.0),
        norm_eps=float(np.float32(1e-5)),
        tied=True,
        stop_ids=(2,),
        bos_id=1,
    )
    assert traits == Traits()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (transformers.LlamaConfig, {}),
        (transformers.LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
        (transformers.MistralConfig, {"head_dim": 32}),
        (transformers.Qwen2Config, {}),
        (transformers.Qwen3Config, {"head_dim": 32}),
    ],
)
def test_exported_models_come_back(kind: Any, settings: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    sizes = {"vocab_size": 80, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = transformers.AutoModelForCausalLM.from_config(kind(**sizes, **settings, tie_word_embeddings=tied))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # which start at zero, where no order shows
            torch.nn.init.normal_(parameter)
    path = exported(model, tmp_path / "model.gguf")
    expected, found = dict(model.named_parameters()), dict(read_tensors(path))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
    config, _ = read_config(path)
    theirs = model.config
    assert config.head_dim == (getattr(theirs, "head_dim", None) or 16)
    assert (config.tied, config.kv_heads, config.stop_ids) == (tied, 2, (2,))
    assert (config.qkv_bias, config.o_bias, config.mlp_bias) == (
        kind is transformers.Qwen2Config or "attention_bias" in settings,
        "attention_bias" in settings,
        "mlp_bias" in settings,
    )
    assert config.qk_norm == (kind is transformers.Qwen3Config)


def random_blocks(kind: Kind, rows: int, blocks: int) -> np.ndarray[Any, Any]:
    """Bytes of a quantised tensor: random codes, and small positive float16s where a type keeps its scales."""
    rng = np.random.default_rng(kind)
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    scales = {Kind.Q2_K: (80, 82), Kind.Q3_K: (108,), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}
    for at in scales[kind]:
        raw[..., at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1])
def test_types_that_can_be_written(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2")
    writer.add_tensor("output.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [(name, tensor)] = read_tensors(tmp_path / "model.gguf")
    assert (name, tensor.dtype, tensor.shape) == ("lm_head.weight", torch.float32, (3, 64))
    allowed = {Kind.F32: 0.0, Kind.F16: 1e-3, Kind.BF16: 1e-2, Kind.Q8_0: 2e-2, Kind.Q5_0: 0.2, Kind.Q5_1: 0.2}
    assert np.abs(tensor.numpy() - values).max() <= allowed.get(kind, 0.4)
    np.testing.assert_array_equal(tensor.numpy(), gguf.dequantize(gguf.quantize(values, kind), kind))
    monkeypatch.setattr("unmask.model.gguf.PART", 128)  # two rows at a time
    [(_, rounded)] = read_tensors(tmp_path / "model.gguf", torch.bfloat16)
    assert torch.equal(rounded, tensor.bfloat16())


@pytest.mark.parametrize("kind", [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_k_quants(kind: Kind, tmp_path: Path) -> None:
    raw = random_blocks(kind, rows=4, blocks=2)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [(name, tensor)] = read_tensors(tmp_path / "model.gguf")
    assert (name, tensor.shape) == ("model.layers.0.mlp.up_proj.weight", (4, 512))
    assert tensor.isfinite().all()
    assert tensor.std() > 0
    np.testing.assert_array_equal(tensor.numpy(), gguf.dequantize(raw, kind))


def test_a_q4_k_block_by_hand(tmp_path: Path) -> None:
    """One super-block after ggml's description: x = d * scale * code - dmin * min, eight groups of 32."""
    scales, mins = [1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]
    packed = [scales[i] for i in range(4)] + [mins[i] for i in range(4)]
    packed += [scales[i + 4] | mins[i + 4] << 4 for i in range(4)]
    codes = np.arange(256) * 7 % 16
    pairs = codes.reshape(4, 2, 32)
    block = struct.pack("<ee12B", 0.5, 0.25, *packed) + (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8).tobytes()
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2")
    writer.add_tensor("output.weight", np.frombuffer(block, np.uint8).reshape(1, -1), raw_dtype=Kind.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [(_, tensor)] = read_tensors(tmp_path / "model.gguf")
    groups = codes.reshape(8, 32)
    expected = 0.5 * np.array(scales)[:, None] * groups - 0.25 * np.array(mins)[:, None]
    np.testing.assert_array_equal(tensor.numpy(), expected.reshape(1, 256))


def test_settings() -> None:
    tokens = {f"tokenizer.ggml.{kind}_token_id": i for i, kind in enumerate(("bos", "eos", "eot", "mask"), 1)}
    raw = metadata("qwen3", attention__key_length=32, rope__freq_base=1e6, rope__dimension_count=32) | tokens
    config, traits = config_from_gguf(raw, SHAPES)
    assert (config.head_dim, config.rope, config.bos_id, config.stop_ids) == (32, Rope(theta=1e6), 1, (2, 3))
    assert traits == Traits(mask_id=4)
    config, traits = config_from_gguf(metadata(attention__head_count_kv=None, rope__freq_base=None), SHAPES)
    assert (config.kv_heads, config.head_dim, config.rope, traits.mask_id) == (4, 16, Rope(), None)
    assert config_from_gguf(metadata(attention__sliding_window=128), SHAPES)[0].max_position == 128


@pytest.mark.parametrize(
    ("settings", "rope"),
    [
        ({"type": "none", "factor": 4.0}, Rope()),
        ({"type": "linear", "factor": 0.0}, Rope()),
        ({"factor": 4.0}, Rope(kind="linear", factor=4.0)),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 128, "yarn_beta_fast": 16.0, "finetuned": True},
            Rope(
                kind="yarn", factor=4.0, original_max_position=128, beta_fast=16.0, attention_factor=1.138629436111989
            ),
        ),
    ],
)
def test_rope_scaling(settings: dict[str, Any], rope: Rope) -> None:
    raw = metadata("qwen2") | {f"qwen2.rope.scaling.{key}": value for key, value in settings.items()}
    assert config_from_gguf(raw, SHAPES)[0].rope == rope


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_frequencies_are_recognised(factor: float, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = scaling | {"original_max_position_embeddings": 8192, "rope_theta": 5e5}
    theirs = transformers.LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=rope)
    inverse, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs)
    divisors = (5e5 ** (-torch.arange(0, 64, 2) / 64) / inverse).numpy()
    embedding = np.zeros((80, 256), np.float32)
    raw = {key: v for key, v in metadata(embedding_length=256, rope__freq_base=5e5).items() if "general" not in key}
    path = write(tmp_path / "model.gguf", "llama", {"rope_freqs.weight": divisors, "token_embd.weight": embedding}, raw)
    config, _ = read_config(path)
    assert config.rope == Rope(theta=5e5, kind="llama3", factor=factor, original_max_position=8192)
    assert (
        list(stored_shapes(read_header(path)))
        == [name for name, _ in read_tensors(path)]
        == ["model.embed_tokens.weight"]
    )
    divisors[20] *= 1.01
    write(path, "llama", {"rope_freqs.weight": divisors, "token_embd.weight": embedding}, raw)
    with pytest.raises(ValueError, match=r"model\.gguf: rope_freqs\.weight holds other frequencies"):
        read_config(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (metadata("gemma3"), "GGUF architecture 'gemma3' is not supported; supported: llama, qwen2, qwen3"),
        ({}, "architecture None"),
        (metadata(block_count=None), "the file has no llama.block_count"),
        (metadata(attention__head_count=[4, 2]), "num_attention_heads must be an integer"),
        (metadata(rope__dimension_count=8), "llama.rope.dimension_count = 8 is not supported"),
        (metadata(attention__value_length=8), "llama.attention.value_length = 8"),
        (metadata(expert_count=8), "llama.expert_count = 8"),
        (metadata(attention__causal=False), "llama.attention.causal = False"),
        (metadata(attn_logit_softcapping=50.0), "llama.attn_logit_softcapping"),
        (metadata(rope__scaling__type="longrope", rope__scaling__factor=4.0), "rope type 'longrope'"),
        (metadata(rope__scaling__yarn_log_multiplier=0.1), "yarn_log_multiplier"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_gguf(raw, SHAPES)


def test_neutral_settings_are_not() -> None:
    config_from_gguf(metadata(expert_count=0, attention__value_length=16, rope__scaling__attn_factor=1.0), SHAPES)
    with pytest.raises(ValueError, match="no token_embd"):
        config_from_gguf(metadata(), {})


def small(path: Path) -> Path:
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    words = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.scores": [1.0, 2.0], "general.name": "small"}
    return write(path, "qwen2", {"output_norm.weight": values, "token_embd.weight": values}, words)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = small(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.gguf is not a complete GGUF file: ") as caught:
            read_header(cut)
        assert "\n" not in str(caught.value)


@given(at=st.integers(0, 500), byte=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_error(
    at: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = small(tmp_path_factory.mktemp("gguf") / "model.gguf")
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = byte
    path.write_bytes(raw)
    try:
        assert all(tensor.dtype == torch.float32 for _, tensor in read_tensors(path))
    except ValueError:
        return


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a complete GGUF file"),
        (b"PK\x03\x04" + bytes(60), "does not begin with 'GGUF'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "ends inside the header"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 1 << 62), "ends inside the header"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "array of arrays"),
        (b"GGUF" + struct.pack("<IQQ" + "Q1sIB" * 2, 3, 0, 2, *(1, b"k", 0, 1) * 2), "'k' is there twice"),
    ],
)
def test_broken_headers(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_header(tmp_path / "model.gguf")


def test_parts_and_types_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of 2 parts"):
        read_header(write(tmp_path / "part.gguf", "qwen2", {}, {"split.count": 2}))
    path = write(tmp_path / "ints.gguf", "qwen2", {"output.weight": np.zeros((2, 2), np.int32)})
    with pytest.raises(
        ValueError, match=r"ints\.gguf: tensor output\.weight has type I32, which cannot be dequantised"
    ):
        list(read_tensors(path))
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "nowhere.gguf")


def test_unknown_names_come_back() -> None:
    assert canonical_name("blk.3.attn_k_norm.weight") == "model.layers.3.self_attn.k_norm.weight"
    for name in ("blk.0.ffn_gate_exps.weight", "rope_factors_long.weight", "weight", "blk.0"):
        assert canonical_name(name) == name
