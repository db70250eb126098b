"""Nemotron-Labs-Diffusion in its published layout: strict loading, and the modes that must agree with AR.

The numbers in the comments are those of the weight-free conformance list in the reference page on the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.published import COMMON, CONFIG, EOS, LORA, MASK, ids, loaded, lora, opened, save, weights
from unmask.engine.engine import Engine
from unmask.model.checkpoint import open_checkpoint
from unmask.model.decoder import Batch
from unmask.types import Diffusion, Ids, Request, Sampling, Speculation, State, Traits

NORM = "encoder.norm.weight"
PROMPTS = [ids(1, 1), ids(9, 2), ids(30, 3)]
GREEDY, SAMPLED = Sampling(), Sampling(temperature=1.0, seed=3)
CUT = Sampling(temperature=0.7, top_k=40, top_p=0.9, repetition_penalty=1.2, seed=4)


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_used_and_none_is_missing(shards: int, tmp_path: Path) -> None:
    theirs, adapter = weights(), lora()
    checkpoint = open_checkpoint(save(tmp_path, theirs, adapter, shards))
    config, traits = checkpoint.config, checkpoint.traits
    assert (config.heads * config.head_dim, config.hidden_size) == (128, 64)
    assert (config.rope.factor, config.rope.attention_factor, config.query_scale) == (16.0, 1.0, (0.1, 16))
    assert (config.stop_ids, config.bos_id, config.max_position) == ((EOS,), 1, 256)
    assert traits == Traits(mask_id=MASK, trained=True, block_size=32, draft_adapter=LORA)
    decoder, _ = loaded(tmp_path)
    found = decoder.state_dict()
    names = {"encoder.": "model.", "diffusion_head.": "lm_head."}
    renamed = {
        new + name.removeprefix(old): tensor
        for name, tensor in theirs.items()
        for old, new in names.items()
        if name.startswith(old)
    }
    assert found.keys() == renamed.keys()
    assert len(found) == 9 * 2 + 3
    assert all(torch.equal(found[name], tensor) for name, tensor in renamed.items())
    for n in range(2):
        low_rank = decoder.projections()[f"model.layers.{n}.self_attn.o_proj"].adapters[LORA]
        stem = f"base_model.model.encoder.layers.{n}.self_attn.o_proj"
        assert torch.equal(low_rank.a, adapter[f"{stem}.lora_A.weight"])
        assert torch.equal(low_rank.b, adapter[f"{stem}.lora_B.weight"])
        assert low_rank.scale == 4.0
    assert sum(len(projection.adapters) for projection in decoder.projections().values()) == 2


def test_what_is_no_weight_is_passed_over(tmp_path: Path) -> None:
    beside = ("encoder.layers.0.self_attn.rotary_emb.inv_freq", "encoder.rotary_emb.inv_freq")
    decoder, _ = loaded(save(tmp_path, weights() | {name: torch.ones(16) for name in beside} | lora()))
    assert len(decoder.state_dict()) == 21


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.layers.1.self_attn.o_proj.weight": None},
            r"layers\.1\.self_attn\.o_proj\.weight \[64, 128\] is mis",
        ),
        ({"diffusion_head.weight": None}, r"lm_head\.weight \[257, 64\] is missing"),
        ({"encoder.layers.2.mlp.up_proj.weight": torch.ones(96, 64)}, r"layers\.2\.mlp\.up_proj\.weight .* not part"),
        ({"time_embedding.weight": torch.ones(4)}, r"tensor time_embedding\.weight \[4\] is not part of such a nemo"),
        ({"encoder.layers.0.self_attn.q_proj.bias": torch.ones(128)}, r"q_proj\.bias \[128\] is not part"),
        ({NORM: torch.ones(63)}, r"model\.norm\.weight has shape \[63\]; the config says \[64\]"),
        (
            {"encoder.layers.0.self_attn.o_proj.weight": torch.ones(128, 64)},
            r"o_proj\.weight has shape \[128, 64\]; the config says \[64, 128\]",
        ),
        ({"model.norm.weight": torch.ones(64)}, r"model\.norm\.weight is there twice"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, Tensor | None], message: str, shards: int, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in (weights() | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=message) as caught:
        open_checkpoint(save(tmp_path, tensors, shards=shards))
    assert "\n" not in str(caught.value)


def test_the_mask_id_must_come_from_the_file(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"mask_token_id": -1}))
    engine, traits = opened(tmp_path)
    assert traits.mask_id is None
    with pytest.raises(ValueError, match="needs a mask token, and this model has none"):
        engine.submit(Request((1,), 4, "linearspec"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("nld"), adapter=lora())


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return opened(folder)[0]


@pytest.fixture(scope="module")
def traits(folder: Path) -> Traits:
    return open_checkpoint(folder).traits


def finished(engine: Engine, *requests: Request) -> list[State]:
    """All of them, decoded side by side."""
    numbers = [engine.submit(request) for request in requests]
    states: dict[int, State] = {}
    while engine.busy:
        states |= {update.id: update.state for update in engine.step() if update.outcome.finish}
        engine.check()
    return [states[number] for number in numbers]


AR: dict[Request, Ids] = {}  # of the module's own model: found once


def expect_ar(engine: Engine, *requests: Request, known: dict[Request, Ids] = AR) -> list[State]:
    """The requests' last states, after a look that each has the ids of AR."""
    states = finished(engine, *requests)
    for request, state in zip(requests, states, strict=True):
        plain = replace(request, strategy="ar", settings=None, traits=Traits())
        if plain not in known:
            (found,) = finished(engine, plain)
            known[plain] = found.output
        assert state.output == known[plain], request
    return states


def prompts(strategy: str, settings: Any, traits: Traits, *samplings: Sampling, count: int = 20) -> list[Request]:
    return [
        Request(prompt, count, strategy, settings, sampling, traits) for prompt in PROMPTS for sampling in samplings
    ]


# 1.
@pytest.mark.parametrize("adapter", [LORA, None])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("size", [1, 2, 4, 8, 32])
def test_linearspec_is_ar(size: int, threshold: float, adapter: str | None, engine: Engine, traits: Traits) -> None:
    settings = Speculation(draft_block_size=size, draft_threshold=threshold, lookup=0)
    traits = replace(traits, draft_adapter=adapter)
    states = expect_ar(engine, *prompts("linearspec", settings, traits, GREEDY, SAMPLED))
    rounds, tokens = sum(s.stats.rounds for s in states), sum(len(s.output) - s.stats.prefill_tokens for s in states)
    if size < 3:
        assert rounds == tokens
        return
    hopeless = sum(
        (len(s.output) - s.stats.prefill_tokens + 1) // 2 for s in states
    )  # two tokens a round are no drafts
    assert rounds < hopeless or (rounds == hopeless and adapter is None)
    assert tokens < 0.95 * size * rounds  # drafts were wrong, too


def test_linearspec_is_ar_whatever_the_adapter(tmp_path: Path) -> None:
    for seed in range(2, 5):
        engine, traits = opened(save(tmp_path, adapter=lora(seed)))
        expect_ar(engine, *prompts("linearspec", Speculation(6), traits, GREEDY, CUT, count=12))


# 2. The strategies that draft and verify in one forward.
@pytest.mark.parametrize("strategy", ["quadspec", "adaptivespec"])
@pytest.mark.parametrize("seed", ["block", "causal", "copy"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_quadspec_is_ar(size: int, seed: Any, strategy: str, engine: Engine, traits: Traits) -> None:
    settings = Speculation(draft_block_size=size, costs=((1, 1.0), (256, 1.1)))
    states = expect_ar(engine, *prompts(strategy, settings, replace(traits, seed=seed), GREEDY, SAMPLED))
    rounds, tokens = sum(s.stats.rounds for s in states), sum(len(s.output) - s.stats.prefill_tokens for s in states)
    assert rounds == tokens if size == 1 else rounds < tokens < 0.9 * size * rounds


def test_quadspec_is_ar_with_its_default_size(engine: Engine, traits: Traits) -> None:
    expect_ar(engine, Request(PROMPTS[1], 20, "quadspec", Speculation(16), traits=replace(traits, seed="causal")))


# 3. The published code sets slot 0 of every block to the AR prediction; with blocks of one, nothing else is left.
def test_fastdiffuser_of_one_slot_is_ar(engine: Engine, traits: Traits) -> None:
    settings = Diffusion(block_size=1, seed_first=True)
    expect_ar(engine, *prompts("fastdiffuser", settings, traits, GREEDY, SAMPLED, CUT))


@pytest.mark.parametrize("strategy", ["linearspec", "quadspec", "adaptivespec"])
def test_stops_are_those_of_ar(strategy: str, engine: Engine, traits: Traits) -> None:
    ends = set[int]()
    for stop in COMMON:
        for least in (0, 5):
            requests = prompts(strategy, Speculation(5), traits, GREEDY, SAMPLED, count=30)
            requests = [replace(request, stop_ids=(stop, EOS), min_tokens=least) for request in requests]
            ends |= {len(state.output) for state in expect_ar(engine, *requests)}
    assert len(ends) > 4


def test_the_mask_token_in_a_prompt_is_a_token(engine: Engine, traits: Traits) -> None:
    expect_ar(engine, Request((MASK, 5, MASK), 12, "linearspec", Speculation(4), traits=traits))


# 3 and 10: forwards. All of ours after the prompt are counted: `nfe`; forwards of prompt rows alone are `prefills`.
# What the published code runs apart is fused here: a block's commit rides with the next block's first denoise and the
# last block's is not run, and the prompt's last chunk with the first denoise (quadspec: with the first draft).


def constant(perfect: bool, tmp_path: Path) -> tuple[Engine, Traits]:
    """A model whose AR says 7 after every token, and whose masks say 7 too (perfect) or 9 (never right)."""
    made = {name: tensor * ("norm" in name) for name, tensor in weights().items()}
    embedding, head = made["encoder.embed_tokens.weight"], made["diffusion_head.weight"]
    made[NORM] = torch.ones(64)
    embedding[:, 0] = head[7, 0] = 1.0
    if not perfect:
        embedding[MASK] = torch.eye(64)[1]
        head[9, 1] = 1.0
    return opened(save(tmp_path, made, lora()))


def linear_forwards(count: int, size: int, emitted: int) -> int:
    """Two per round of `emitted` tokens, the first token being the prompt's."""
    rounds, rest = divmod(count - 1, emitted)
    return count - 1 if size < 3 else 2 * rounds + min(rest, 2)


@pytest.mark.parametrize("perfect", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_forwards_of_self_speculation(size: int, perfect: bool, tmp_path: Path) -> None:
    engine, traits = constant(perfect, tmp_path)
    for count in (1, 2, 5, 16, 17):
        request = Request((3, 4), count, "linearspec", Speculation(size, lookup=0), traits=traits)
        (state,) = finished(engine, request)
        assert state.output == (7,) * count
        assert state.stats.prefills == 1
        assert state.stats.nfe == linear_forwards(count, size, size if perfect else 2)
        # One forward gives the first token and a draft; then each emits the accepted ones and one more.
        (state,) = finished(engine, replace(request, strategy="quadspec"))
        assert state.output == (7,) * count
        assert state.stats.prefills + state.stats.nfe == (1 + -(-(count - 1) // size) if perfect else count)


COUNTED: list[tuple[float | None, bool, Callable[[int, int], int]]] = [
    (0.0, False, lambda blocks, size: blocks),
    (None, False, lambda blocks, size: blocks * size),
    (0.0, True, lambda blocks, size: 2 * blocks - 1),
    (None, True, lambda blocks, size: blocks * size - 1),
]


@pytest.mark.parametrize(("threshold", "seeded", "forwards"), COUNTED)
def test_forwards_of_fastdiffuser(
    threshold: float | None, seeded: bool, forwards: Callable[[int, int], int], engine: Engine, traits: Traits
) -> None:
    for blocks, size in ((1, 4), (3, 4), (2, 8)):
        settings = Diffusion(size, threshold, seed_first=seeded)
        for state in finished(engine, *prompts("fastdiffuser", settings, traits, GREEDY, SAMPLED, count=blocks * size)):
            assert (state.stats.nfe, state.stats.prefills) == (forwards(blocks, size), int(seeded))


# 8. (frequencies and query scales: test_rope.py)
def test_attention_is_wider_than_the_model(folder: Path) -> None:
    decoder, _ = loaded(folder)
    shapes: list[tuple[torch.Size, ...]] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shapes.append((q.shape, k.shape, v.shape))
        return q

    hidden = decoder(Batch(torch.tensor([1, 2, 3]), torch.arange(3), 2), attend)
    assert shapes == [((3, 4, 32), (3, 2, 32), (3, 2, 32))] * 2
    assert hidden.shape == (3, 64)
