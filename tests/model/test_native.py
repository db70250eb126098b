"""Our kernels compute what plain layers compute, and a row's bits hang on nothing but the row and what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.model import test_packed as plain
from unmask.config import EngineConfig, ModelConfig
from unmask.engine.runner import Runner
from unmask.kernels import Library, compiled
from unmask.kernels.__main__ import main
from unmask.model import native
from unmask.model.adapter import attach
from unmask.model.attention import PagedAttention, Segment
from unmask.model.coherence import Coherence
from unmask.model.decoder import Batch, Decoder
from unmask.model.kv import KVCache
from unmask.model.native import Places, fits
from unmask.model.packed import pack
from unmask.quantization import forms

FOUND = native.library()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no kernels of ours here")
CONFIG = replace(plain.CONFIG, intermediate_size=96)
CONFIGS = {
    **{name: replace(config, intermediate_size=96) for name, config in plain.CONFIGS.items()},
    "wide heads": replace(CONFIG, head_dim=80, heads=2),
    "odd vocabulary": replace(CONFIG, vocab_size=83),
}
SLOTS = 640


def decoder(config: ModelConfig = CONFIG, adapter: bool = True) -> Decoder:
    return plain.decoder(config, torch.bfloat16, adapter)


def taken(model: Decoder, eight_bits: bool = False) -> Decoder:
    assert FOUND is not None
    return native.pack(model, FOUND, eight_bits)


class Work:
    """Rows of several requests behind kept ones, whose keys lie in scattered slots, each under a random mask."""

    def __init__(
        self,
        config: ModelConfig,
        sizes: Sequence[tuple[int, int]],
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """sizes: (rows, kept rows) of each request."""
        draw = np.random.default_rng(seed)
        order, self.segments, written = torch.from_numpy(draw.permutation(SLOTS)), list[Segment](), list[Tensor]()
        first = 0
        for rows, kept in sizes:
            slots, order = order[: kept + rows].contiguous(), order[kept + rows :]
            mask: NDArray[np.bool_] = draw.random((rows, kept + rows)) < 0.7
            mask[np.arange(rows), kept + np.arange(rows)] = True  # a row sees itself
            self.segments.append(Segment(first, first + rows, slots, kept + rows, mask))
            written.append(slots[kept:])
            first += rows
        self.slots = torch.cat(written) if written else torch.arange(0)
        self.cache = KVCache(config, SLOTS, dtype, torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        for memory in (self.cache.keys, self.cache.values):
            memory.copy_(torch.randn(memory.shape, generator=generator).bfloat16())
        positions = torch.from_numpy(draw.integers(0, 40, first))
        gated = torch.from_numpy(np.flatnonzero(draw.random(first) < 0.5))
        self.tokens = torch.from_numpy(draw.integers(0, config.vocab_size, first))
        self.batch = Batch(self.tokens, positions, 40, {"draft": gated}, {"draft": gated[::2]})


@torch.inference_mode()
def by_kernels(model: Decoder, work: Work) -> Tensor:
    assert model.native is not None
    return model.native(model, work.batch, Places(work.cache, work.segments, work.slots))


@torch.inference_mode()
def by_layers(model: Decoder, work: Work) -> Tensor:
    return model(work.batch, PagedAttention(work.cache, work.segments, work.slots, "flash"))


def off(found: Tensor, right: Tensor) -> Tensor:
    """The relative error of each row."""
    return (found.float() - right).norm(dim=-1) / right.norm(dim=-1)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sizes", [[(1, 0)], [(1, 77)], [(5, 16), (1, 40), (14, 3)], [(70, 130)]])
def test_kernels_equal_plain_layers(name: str, sizes: list[tuple[int, int]]) -> None:
    config = CONFIGS[name]
    expected, found = decoder(config), taken(decoder(config))
    mine, theirs = Work(config, sizes), Work(config, sizes)
    rows = by_layers(expected, theirs)
    right = by_layers(decoder(config).float(), Work(config, sizes, dtype=torch.float32))
    error, usual = off(by_kernels(found, mine), right), off(rows, right)
    assert error.max() < 0.06
    assert error.mean() < 1.1 * usual.mean() + 1e-3  # no worse than the same in torch
    plain.close(found.logits(rows), expected.logits(rows))
    kept = mine.slots
    assert (mine.cache.keys[:, kept].float() - theirs.cache.keys[:, kept].float()).abs().max() < 0.3
    assert not torch.equal(mine.cache.values, Work(config, sizes).cache.values)


def test_eight_bits_equal_those_of_torch() -> None:
    expected, found = pack(decoder(), *forms("int8")), taken(decoder(), eight_bits=True)
    sizes = [(9, 30), (1, 8)]
    rows = by_layers(expected, Work(CONFIG, sizes))
    right = by_layers(decoder().float(), Work(CONFIG, sizes, dtype=torch.float32))
    error, usual = off(by_kernels(found, Work(CONFIG, sizes)), right), off(rows, right)
    assert error.max() < 0.1
    assert error.mean() < 1.1 * usual.mean() + 1e-3
    plain.close(found.logits(rows), expected.logits(rows))


@given(
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 40)), min_size=1, max_size=4),
    st.integers(0, 9),
    st.booleans(),
)
def test_rows_have_the_same_bits_alone_and_among_others(sizes: list[tuple[int, int]], seed: int, eight: bool) -> None:
    model = MODELS[eight]
    together = by_kernels(model, Work(CONFIG, sizes, seed))
    work, first = Work(CONFIG, sizes, seed), 0
    gated, unknown = (rows["draft"] for rows in (work.batch.gates, work.batch.unknown))
    for segment in work.segments:
        last, own = segment.last, Work(CONFIG, [])
        own.cache, own.segments = work.cache, [replace(segment, first=0, last=last - first)]
        own.slots = work.slots[first:last].contiguous()
        few = (rows[(rows >= first) & (rows < last)] - first for rows in (gated, unknown))
        gates, masks = ({"draft": rows} for rows in few)
        own.batch = Batch(work.tokens[first:last], work.batch.positions[first:last], 40, gates, masks)
        assert torch.equal(by_kernels(model, own), together[first:last])
        first = last


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 9))
def test_bits_do_not_depend_on_where_the_keys_stand_that_a_row_sees(kept: int, unseen: int, seed: int) -> None:
    """One row behind `kept` others, alone and with keys strewn in between that it does not see, as beside drafts."""
    alone, strewn = Work(CONFIG, [(1, kept)], seed), Work(CONFIG, [(1, kept + unseen)], seed)
    draw = np.random.default_rng(seed)
    seen = np.append(np.sort(draw.permutation(kept + unseen)[:kept]), kept + unseen)
    mask = np.zeros((1, kept + unseen + 1), dtype=np.bool_)
    mask[0, seen] = True
    own = alone.segments[0].slots
    assert isinstance(own, Tensor)
    slots = torch.from_numpy(draw.permutation(SLOTS))[: kept + unseen + 1]
    free = torch.tensor(sorted(set(range(SLOTS)) - set(own.tolist())))
    slots = free[slots % len(free)]
    slots[torch.from_numpy(seen)] = own
    strewn.cache, strewn.slots = alone.cache, alone.slots
    strewn.batch, strewn.tokens = alone.batch, alone.tokens
    strewn.segments = [Segment(0, 1, slots, kept + unseen + 1, mask)]
    alone.segments = [replace(alone.segments[0], mask=None)]
    assert torch.equal(by_kernels(MODELS[False], strewn), by_kernels(MODELS[False], alone))


def test_rows_that_name_no_adapter_keep_their_bits() -> None:
    sizes = [(9, 20), (1, 30)]
    work = Work(CONFIG, sizes)
    causal = np.setdiff1d(np.arange(10), work.batch.gates["draft"].numpy())
    bare = Work(CONFIG, sizes)
    # Rows that see no noised row, so that nothing but the adapter could tell them apart.
    for segment in (*work.segments, *bare.segments):
        assert segment.mask is not None
        kept = segment.keys - (segment.last - segment.first)
        segment.mask[:, kept:] = np.eye(segment.last - segment.first, dtype=np.bool_)
    bare.batch = replace(bare.batch, gates={}, unknown={})
    with_adapter, without = by_kernels(taken(decoder()), work), by_kernels(taken(decoder(adapter=False)), bare)
    assert torch.equal(with_adapter[causal], without[causal])
    assert not torch.equal(with_adapter, without)


def test_the_number_of_threads_changes_no_bit() -> None:
    threads, results = torch.get_num_threads(), list[Tensor]()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(by_kernels(MODELS[False], Work(CONFIG, [(13, 50), (1, 9)])))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, results[0]) for other in results)


def test_a_runner_promises_exactness_with_whole_products() -> None:
    run = Runner(taken(decoder(replace(CONFIG, tied=True))), EngineConfig(exactness="exact"), 10)
    assert run.tile is None
    assert run.same_alone()


def test_rows_of_a_head_can_be_looked_up() -> None:
    for config in (CONFIG, replace(CONFIG, tied=True, vocab_size=83)):
        for eight in (False, True):
            expected, ids = decoder(config).lm_head.weight, torch.tensor([[0, 5], [82, 17]])
            plain_model = decoder(config)
            plain_model.coherence["draft"] = Coherence(torch.ones(4, 64), torch.ones(4, 64), torch.ones(64, 4))
            model = taken(plain_model, eight)
            assert torch.equal(model.lm_head.weight[ids], expected[ids])
            assert torch.equal(model.model.embed_tokens(ids), decoder(config).model.embed_tokens(ids))


def test_packing_leaves_no_weight_behind() -> None:
    model = decoder(replace(CONFIG, tied=True))
    kept = [projection for name, projection in model.projections().items() if name != "lm_head"]
    taken(model)
    assert all(projection.weight.device.type == "meta" for projection in kept)
    assert {name for name, _ in model.named_parameters()} == {"model.norm.weight"}
    with pytest.raises(ValueError, match="before the model's weights are packed"):
        attach(model, "draft", plain.low_rank(plain.decoder()))


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, hidden_size=48),
        replace(CONFIG, head_dim=24, heads=4),
        replace(CONFIG, kv_heads=1),
        replace(CONFIG, intermediate_size=80),
    ],
)
def test_sizes_that_do_not_fit_are_left_to_torch(config: ModelConfig) -> None:
    assert fits(decoder())
    assert not fits(plain.decoder(CONFIG))  # float32
    assert not fits(Decoder(config).to(torch.bfloat16))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The source in a folder of its own, with nothing compiled beside it."""
    folder = tmp_path / "source"
    folder.mkdir()
    copy = folder / "step.cpp"
    copy.write_bytes(compiled.SOURCE.read_bytes())
    monkeypatch.setattr(compiled, "SOURCE", copy)
    return copy


def find(folder: Path) -> Library | None:
    return compiled.find.__wrapped__(folder)


def test_no_library_without_a_compiler(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("unmask.kernels.compiled.shutil.which", lambda name: None)
    assert find(tmp_path / "cache") is None
    with pytest.raises(SystemExit, match=r"no C\+\+ compiler"):
        main()


def test_a_library_beside_its_source_needs_no_compiler(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    main()
    assert [file.name for file in source.parent.glob("*.so")] == [f"step-{compiled.version()}.so"]
    monkeypatch.setattr("unmask.kernels.compiled.shutil.which", lambda name: None)
    assert find(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_broken_library_is_compiled_anew(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    compiled.file_in(cache).write_bytes(b"")
    assert find(cache)
    assert compiled.file_in(cache).stat().st_size > 10_000


@pytest.mark.parametrize("shared", ["file", "folder"])
def test_a_library_that_others_may_write_is_not_loaded(source: Path, tmp_path: Path, shared: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    planted = compiled.file_in(cache)
    planted.write_bytes(b"planted")
    (planted if shared == "file" else cache).chmod(0o777)
    assert not compiled.trusted(planted)


def test_no_library_if_it_cannot_be_compiled_or_run(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "FEATURES", ("an_instruction_of_tomorrow",))
        assert find(tmp_path / "cache") is None
    with monkeypatch.context() as patch:
        patch.setenv("UNMASK_KERNELS", "0")
        assert find(tmp_path / "cache") is None
    source.write_text("this is no program")
    assert find(tmp_path / "cache") is None
    with pytest.raises(SystemExit, match="the compiler refuses"):
        main()


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "odd vocabulary"])
@pytest.mark.parametrize("eight", [False, True])
def test_layers_made_anew_are_those_that_were_taken(name: str, eight: bool) -> None:
    """For measurements that bring their own attention: an adapter on some rows, and a mask of their own."""
    expected, found = decoder(CONFIGS[name]), taken(decoder(CONFIGS[name]), eight)
    right = plain.hidden(expected, gated=(2, 3, 9))
    error = off(plain.hidden(found, gated=(2, 3, 9)), right.float())
    assert error.max() < (0.1 if eight else 0.04)
    assert eight or torch.equal(plain.hidden(found), plain.hidden(expected))
    assert (right - plain.hidden(expected)).abs().max() > 0.05


def test_more_threads_than_the_kernels_know_are_not_asked_for() -> None:
    threads = torch.get_num_threads()
    expected = by_kernels(MODELS[False], Work(CONFIG, [(3, 9)]))
    try:
        torch.set_num_threads(140)
        assert torch.equal(by_kernels(MODELS[False], Work(CONFIG, [(3, 9)])), expected)
    finally:
        torch.set_num_threads(threads)


def test_a_row_has_one_adapter() -> None:
    work, model = Work(CONFIG, [(2, 3)]), taken(decoder())
    assert model.native is not None
    model.native.adapters.append("other")  # type: ignore[attr-defined]
    work.batch = replace(work.batch, gates={"draft": torch.tensor([1]), "other": torch.tensor([1])})
    with pytest.raises(ValueError, match="two adapters cannot act on one row"):
        by_kernels(model, work)


MODELS = {eight: taken(decoder(), eight) for eight in (False, True)} if FOUND else {}
