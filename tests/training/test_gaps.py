"""Gap layouts: what is taken out, how it is laid out, that training rows are inference rows, that suffixes are used."""

from __future__ import annotations

import ast
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.text.vocabularies import BYTES, PIECES
from tests.tinymodel import MASK, write_model
from tests.training import tiny
from tests.training.test_layout import run_spans
from unmask import LM
from unmask.cli import run
from unmask.decoding import fastdiffuser
from unmask.decoding.common import context_spans
from unmask.model.checkpoint import open_checkpoint
from unmask.model.decoder import Decoder
from unmask.training.attention import Split, noisy_visible
from unmask.training.forward import clean_first
from unmask.training.gap_measure import gap_losses, shuffled
from unmask.training.gap_spans import draw, nodes
from unmask.training.gaps import (
    Gap,
    GapStream,
    blocks_for,
    end_of_gap,
    find_gap,
    gapped,
    lay_gap,
    pack,
    resolved,
    text_of,
)
from unmask.training.layout import double
from unmask.training.loop import Trainer
from unmask.training.noise import corrupt
from unmask.training.sample import Sample
from unmask.training.settings import Blocks, Infill, TrainConfig
from unmask.types import Diffusion, Ids, Request, Slot, SlotState, Span, State, Traits

END = 59
SOURCE = '''class A:
    """A class — with a dash."""

    def add(self, a: int, b: int = 2) -> int:
        total = a + b * len("é")
        if total > 3:
            print(f"{total} is large")
            return total
        return -total


def main() -> None:
    assert A().add(1) == 3
    for name in ("x", "y"):
        print(name)
        print(name, name)
'''
KINDS = ["characters", "lines", "syntax"]


def config(**changes: Any) -> TrainConfig:
    """Settings with gaps; `infill_...` and the parts of `tiny.config`."""
    infill = {key.removeprefix("infill_"): changes.pop(key) for key in list(changes) if key.startswith("infill_")}
    stage = changes.pop("stage", "convert")
    whole = tiny.config(**{"blocks_size": 4, "blocks_draft_size": None, **changes})
    return replace(whole, stage=stage, infill=Infill(**{"share": 1.0, "end_id": END, **infill}))


def text_sample(text: str, index: int = 0, closed: bool = False, tokenizer: Any = BYTES, length: int = 0) -> Sample:
    ids = [*tokenizer.encode(text), *([END] if closed else [])]
    padding = max(length - len(ids), 0)
    document = np.array([0] * len(ids) + [-1] * padding, dtype=np.int32)
    position = np.array([*range(len(ids)), *[0] * padding], dtype=np.int64)
    return Sample(index, np.array(ids + [0] * padding, dtype=np.int64), document, position, document >= 0)


# What is taken out.


@given(st.text("ab \n\té(:", max_size=60), st.sampled_from(KINDS), st.integers(1, 30), st.integers(0, 9))
def test_a_drawn_part_is_inside_and_not_too_long(text: str, kind: str, longest: int, seed: int) -> None:
    if not text:
        return
    found = draw(text, kind, longest, np.random.default_rng(seed))
    if found is not None:
        start, end = found
        assert 0 < start < end <= len(text)
        assert end - start <= longest
        assert text[start:end].strip()


@pytest.mark.parametrize("before", ["", "half(a line\n", "    torn = '''\n"])
@pytest.mark.parametrize("after", ["", "    return (", "'''"])
def test_syntax_nodes_are_nodes_of_what_parses(before: str, after: str) -> None:
    expressions, statements, bodies = nodes(before + SOURCE + after)
    for group in (expressions, statements, bodies):
        assert group
    whole = before + SOURCE + after
    cut = [whole[slice(*span)] for span in expressions]
    assert 'a + b * len("é")' in cut
    assert "total > 3" in cut
    assert all(ast.parse(f"({part})", mode="eval") for part in cut)
    # Held against the standard library's own reading of the places.
    tree = ast.parse(SOURCE)
    known = {ast.get_source_segment(SOURCE, node) for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    assert {whole[slice(*span)] for span in statements} <= known
    assert "return -total" in known
    assert any(whole[slice(*span)].startswith("print(f") for span in bodies)


def test_an_indented_piece_has_nodes_and_prose_has_none() -> None:
    piece = "\n".join(SOURCE.split("\n")[4:9])
    assert "return total" in {piece[slice(*span)] for span in nodes(piece)[1]}
    assert nodes("It is a truth universally acknowledged,\nthat a man in want") == ([], [], [])
    text = "One is a sentence.\nTwo is a sentence too.\n"
    drawn = [draw(text, "syntax", 40, np.random.default_rng(seed)) for seed in range(9)]
    assert {text[slice(*span)] for span in drawn if span} == {"Two is a sentence too.", "Two is a sentence too.\n"}


@given(st.text("aé𝄞 \n", min_size=1, max_size=20), st.integers(0, 3), st.integers(0, 3))
def test_the_text_of_a_piece_has_no_half_characters(text: str, first: int, last: int) -> None:
    ids = [token for letter in text.encode() for token in [entry(letter)]]
    found = text_of(ids[first : len(ids) - last], BYTES)
    assert found in text
    assert len(found.encode()) >= len(ids) - first - last - 6


def entry(byte: int) -> int:
    """The token of a single byte."""
    return next(token for token in range(256) if BYTES.token_bytes(token) == bytes([byte]))


@given(st.sampled_from(KINDS), st.integers(0, 30), st.booleans())
def test_the_three_parts_are_the_text_each_tokenised_for_itself(kind: str, seed: int, closed: bool) -> None:
    made = text_sample(SOURCE + SOURCE)
    settings = config(infill_spans=(kind,), infill_room=8)
    ids = [*made.ids.tolist(), *([BYTES_EOS] if closed else [])]
    gap = find_gap(np.array(ids), np.ones(len(ids), bool), ENDED, settings, np.random.default_rng(seed))
    if gap is None:
        return
    texts = [BYTES.decode(part) for part in (gap.prefix, gap.part, gap.suffix)]
    assert "".join(texts) == SOURCE + SOURCE
    assert [BYTES.encode(text) for text in texts] == [gap.prefix, gap.part, gap.suffix]
    assert 1 <= len(gap.part) <= 31
    assert gap.suffix or closed


BYTES_EOS = BYTES.core.get_vocab()["<|im_end|>"]
ENDED = replace(BYTES, eos_ids=(BYTES_EOS,))


def test_chats_and_unknown_bytes_have_no_gap() -> None:
    rng, ids = np.random.default_rng(0), np.array(BYTES.encode(SOURCE))
    half = np.arange(len(ids)) > 5
    assert find_gap(ids, half, BYTES, config(), rng) is None
    broken = np.array([entry(0xFF), entry(0x80)] * 9)
    assert find_gap(broken, np.ones(18, bool), BYTES, config(), rng) is None


def test_the_end_of_a_gap_is_a_special_token_that_text_never_holds() -> None:
    core = BYTES.core.from_str(BYTES.core.to_str())
    with pytest.raises(ValueError, match=r"no special token to end a gap with: name one with --set infill\.end_id"):
        end_of_gap(BYTES, 0)
    assert end_of_gap(ENDED, 0) == BYTES_EOS
    core.add_special_tokens(["<file_sep>", "<fim_pad>"])
    both = replace(ENDED, core=core)
    assert both.added_ids[end_of_gap(both, 0)] == "<fim_pad>"
    assert both.added_ids[end_of_gap(both, core.get_vocab()["<fim_pad>"])] == "<file_sep>"
    assert end_of_gap(PIECES, 0) == PIECES.eos_ids[0]
    whole = replace(config(), infill=Infill(share=0.5))
    chosen = resolved(whole, both, 0).infill.end_id
    assert chosen == core.token_to_id("<fim_pad>")
    with pytest.raises(ValueError, match="other than the mask"):
        resolved(replace(whole, infill=Infill(share=0.5, end_id=3)), both, 3)


# How it is laid out.


tokens = st.integers(0, END - 1)


@st.composite
def gaps(draw: st.DrawFn, least: int = 2) -> Gap:
    def some(low: int, high: int) -> Ids:
        return tuple(draw(st.lists(tokens, min_size=low, max_size=high)))

    suffix = some(0, 9)
    return Gap(some(least, 9), some(1, 9), suffix, closed=not suffix or draw(st.booleans()))


@given(gaps(), st.integers(0, 2), st.integers(1, 5), st.integers(4, 60))
def test_rows_of_a_gap(gap: Gap, slack: int, size: int, most: int) -> None:
    settings = config(blocks_size=size)
    rows = lay_gap(gap, most, blocks_for(gap, settings) + slack, settings)
    if rows is None:
        return
    assert len(rows.ids) <= most
    inside = rows.gap
    filled, blocks = rows.ids[inside], len(gap.part) // size + 1
    assert filled.tolist() == [*gap.part, *[END] * (blocks * size - len(gap.part))]
    assert rows.supervised.tolist() == [True] * (len(rows.ids) - inside.sum() + len(gap.part) + 1) + [False] * int(
        inside.sum() - len(gap.part) - 1
    )
    order = np.argsort(rows.position, kind="stable")
    by_place = rows.ids[order].tolist()
    prefix = int((rows.position < rows.position[inside][0]).sum())
    suffix = len(rows.ids) - prefix - len(filled)
    assert by_place[:prefix] == list(gap.prefix[len(gap.prefix) - prefix :])
    assert by_place[prefix + len(filled) :] == list(gap.suffix[:suffix])
    assert sorted(rows.position)[:prefix] == list(range(prefix))
    after = sorted(rows.position)[prefix + len(filled) :]
    assert after == list(range(prefix + (blocks + slack) * size, prefix + (blocks + slack) * size + suffix))
    assert rows.ids[~inside][-1] == gap.prefix[-1]  # its row predicts the gap, with the suffix in view


def sample_of(gap: Gap, settings: TrainConfig, slack: int = 0, index: int = 0) -> Sample:
    rows = lay_gap(gap, 500, blocks_for(gap, settings) + slack, settings)
    assert rows is not None
    return pack(index, [rows], len(rows.ids) + 2)


@given(gaps(), st.integers(0, 2), st.sampled_from(["adapter", "joint"]), st.integers(1, 6))
def test_blocks_of_a_gap_are_those_of_inference(gap: Gap, slack: int, method: Any, size: int) -> None:
    settings = config(method=method, blocks_size=size, views=2, noise_law="exponential")
    made = sample_of(gap, settings, slack)
    assert made.gap is not None
    first = int(np.flatnonzero(made.gap)[0])
    noised = corrupt(made, settings)
    view = len(gap.part) // size + 1
    assert [block.first - first for block in noised] == 2 * [size * i for i in range(view)]
    assert all(len(block.masked) == size for block in noised)
    assert not any(block.draft for block in noised) or method == "joint"


def test_ar_learns_the_gap_up_to_its_end_and_is_no_teacher_there() -> None:
    settings = config(method="joint")
    gap = Gap((1, 2, 3), (4, 5, 6, 7, 8), (9, 10))
    doubled = double([sample_of(gap, settings)], settings, tiny.MASK)
    #  rows: 1 2 | 9 10 | 3 4 5 6 7 8 END (END)
    assert doubled.ids[: doubled.clean].tolist() == [1, 2, 9, 10, 3, 4, 5, 6, 7, 8, END, END, END]
    assert doubled.ar.tolist() == [0, 2, 4, 5, 6, 7, 8, 9]
    assert not doubled.taught.any()


class Repeats:
    """A `Stream` of texts."""

    def __init__(self) -> None:
        self.next = 0

    def next_samples(self, n: int) -> list[Sample]:
        self.next += n
        return [text_sample(SOURCE[i % 7 :], i, length=450) for i in range(self.next - n, self.next)]

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def restore(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


def equal(one: Sample, other: Sample) -> bool:
    def arrays(sample: Sample) -> list[Any]:
        return [sample.ids, sample.document, sample.position, sample.supervised, sample.gap]

    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


def test_a_share_of_the_samples_has_gaps_whatever_is_asked_when() -> None:
    settings = config(infill_share=0.4, seed=5)
    whole = GapStream(Repeats(), BYTES, settings).next_samples(60)
    assert 0.25 < np.mean([sample.gap is not None for sample in whole]) < 0.55
    parts = GapStream(Repeats(), BYTES, settings)
    again = parts.next_samples(7)
    resumed = GapStream(Repeats(), BYTES, settings)
    resumed.restore(json.loads(json.dumps(parts.state())))
    again += resumed.next_samples(53)
    assert all(equal(a, b) for a, b in zip(whole, again, strict=True))
    other = GapStream(Repeats(), BYTES, replace(settings, seed=6)).next_samples(60)
    assert not all(equal(a, b) for a, b in zip(whole, other, strict=True))
    for sample, plain in zip(whole, Repeats().next_samples(60), strict=True):
        assert len(sample.ids) == len(plain.ids)
        assert sample.gap is not None or equal(sample, plain)


def test_chats_in_a_sample_with_gaps_stay() -> None:
    text = text_sample(SOURCE)
    n = len(text.ids)
    two = Sample(
        3,
        ids=np.concatenate([text.ids, text.ids]),
        document=np.repeat([0, 1], n).astype(np.int32),
        position=np.concatenate([text.position, text.position]),
        supervised=np.concatenate([np.arange(n) > 4, text.supervised]),
    )
    made = gapped(two, BYTES, config())
    assert made.gap is not None
    chat = made.document == 0
    assert (made.ids[chat], made.supervised[chat].tolist()) == (pytest.approx(text.ids), (np.arange(n) > 4).tolist())
    assert made.gap[made.document == 1].any()
    assert not made.gap[chat].any()
    blocks = corrupt(made, config(blocks_full_share=0.0))
    assert any(made.document[block.first] == 0 for block in blocks)


# Promise 5.


def shifted(spans: Sequence[Span], before: Sequence[Span]) -> tuple[Span, ...]:
    """Spans of a plan behind those that wrote its kept context, which every row of it sees."""
    kept = tuple((i, len(span.tokens)) for i, span in enumerate(before))
    moved = [replace(s, sees=(*kept, *((i + len(before), n) for i, n in s.sees))) for s in spans]
    return (*before, *moved)


@given(gaps(), st.integers(0, 2), st.integers(0, 3), st.sampled_from([1, 3, 4]))
def test_training_rows_are_the_rows_of_fastdiffuser(gap: Gap, slack: int, index: int, size: int) -> None:
    """Every noised block, as the strategy's own plan runs it at that point of the gap: the same rows."""
    settings = config(blocks_size=size)
    model = trained_model(size)
    doubled = double([sample_of(gap, settings, slack, index)], settings, tiny.MASK)
    found = clean_first(model, doubled, Split(doubled), "unmask")
    room = (len(gap.part) // size + 1 + slack) * size
    traits = Traits(tiny.MASK, True, denoise_adapter="unmask", gap_end=END, gap_room=room)
    request = Request(
        gap.prefix, room, "fastdiffuser", Diffusion(size), traits=traits, suffix=gap.suffix, room=room, stop_ids=(END,)
    )
    whole = (*gap.part, *(END,) * size)
    for k in range(len(doubled.limit)):
        start = int(doubled.position[doubled.clean + doubled.blocks[k]]) - len(gap.prefix)
        done = whole[:start]
        own = slice(int(doubled.blocks[k]), int(doubled.blocks[k + 1]))
        state = fastdiffuser.open_block(
            State(request, kept=len(request.context) - 1, output=done), len(gap.prefix) + start
        )
        slots = zip(doubled.ids[doubled.clean :][own].tolist(), doubled.masked[own].tolist(), strict=True)
        assert len(state.block) == own.stop - own.start
        state = replace(state, block=tuple(Slot(t, SlotState.MASKED if m else SlotState.TENTATIVE) for t, m in slots))
        plan = fastdiffuser.need(state)
        before = context_spans(request, state.ids, 0, state.kept)
        rows = run_spans(model, shifted(plan.spans, before))
        torch.testing.assert_close(found.noisy[own], rows[len(rows) - size :], rtol=0, atol=1e-12)
        # And the clean rows are those that the commit of finished blocks writes.
        written = run_spans(model, context_spans(request, (*request.context, *done), 0, len(request.context) + start))
        torch.testing.assert_close(found.clean[: len(written)], written, rtol=0, atol=1e-12)


MODELS: dict[int, Decoder] = {}


def trained_model(size: int) -> Decoder:
    if size not in MODELS:
        MODELS[size] = tiny.decoder()
        tiny.trained(MODELS[size], config(blocks_size=size))
    return MODELS[size]


def test_a_block_sees_both_sides_and_what_is_finished() -> None:
    settings = config()
    gap = Gap((1, 2, 3), (4, 5, 6, 7, 8), (9, 10))
    seen = noisy_visible(double([sample_of(gap, settings)], settings, tiny.MASK))
    first, second = seen[0], seen[-1]
    assert first[:13].tolist() == [True] * 5 + [False] * 8
    assert second[:13].tolist() == [True] * 9 + [False] * 4


# What it is for.


def copies(index: int, settings: TrainConfig) -> Gap:
    """A gap whose first token only its suffix tells."""
    rng = np.random.default_rng((7, index))
    noise = rng.integers(20, 40, 4).tolist()
    secret = int(rng.integers(0, 8))
    return Gap((*noise[:3], 50), (secret, 51), (secret + 10, noise[3]))


class Copies:
    def __init__(self, settings: TrainConfig) -> None:
        self.settings, self.next = settings, 0

    def next_samples(self, n: int) -> list[Sample]:
        self.next += n
        return [sample_of(copies(i, self.settings), self.settings, i % 3, i) for i in range(self.next - n, self.next)]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("method", "stage", "steps", "lr"),
    [("joint", "convert", 60, 0.01), ("adapter", "convert", 160, 0.003), ("adapter", "filler", 60, 0.01)],
)
def test_the_suffix_is_learned_to_be_used(method: Any, stage: Any, steps: int, lr: float, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"method": method, "steps": steps, "batch": 16, "length": 64, "dtype": "float32"}
    shape |= {"stage": stage, "adapter_mask_embedding": stage == "convert"}
    own: dict[str, Any] = {"adapter_rank": 16, "adapter_alpha": 16.0, "loss_chunk": 256, "optimiser_lr": lr}
    settings = config(**shape, **own, blocks_full_share=0.0, loss_alpha=1.0)
    model = tiny.decoder(torch.float32)
    Trainer(model, tiny.MASK, settings, Copies(settings), tmp_path / "run").run()
    fresh = [copies(i, settings) for i in range(10_000, 10_032)]
    true = gap_losses(model, fresh, settings, tiny.MASK, 2)
    other = gap_losses(model, shuffled(fresh), settings, tiny.MASK, 2)
    gain = np.mean([b.ar - a.ar for a, b in zip(true, other, strict=True)])
    if stage == "filler":
        assert gain > 1.0
        return
    assert np.mean([b.nelbo - a.nelbo for a, b in zip(true, other, strict=True)]) > 1.0
    assert gain > 1.0 if method == "joint" else gain < 0.5  # the causal rows of a frozen model learn nothing


@pytest.mark.parametrize("stage", ["convert", "filler"])
def test_losses_of_gaps_are_those_of_rows_laid_out_by_hand(stage: Any) -> None:
    """With one noise level per token the bound is a plain sum over blocks; checked on rows run one gap at a time. What
    a filler learns are rows as inference runs them, its adapter on all of them."""
    filler = stage == "filler"
    more: dict[str, Any] = {"stage": stage, "adapter_mask_embedding": False} if filler else {}
    settings, model = config(length=64, **more), trained_model(4)
    several = [Gap((1, 2, 3), (4, 5, 6, 7, 8), (9, 10)), Gap((5, 6), (7,), (8, 9, 3, 2), True)]
    together = gap_losses(model, several, settings, tiny.MASK, 3)
    assert [loss.tokens for loss in together] == [6, 2]
    for gap, loss in zip(several, together, strict=True):
        (alone,) = gap_losses(model, [gap], settings, tiny.MASK, 3)
        assert alone.nelbo == pytest.approx(loss.nelbo)
        ids = (*gap.prefix[:-1], *gap.suffix, gap.prefix[-1], *gap.part)
        request = Request(gap.prefix, 8, traits=Traits(gap_end=END, gap_room=8), suffix=gap.suffix, room=8)
        context, room = len(request.context), settings.gap_room
        request = replace(request, max_tokens=room, room=room)
        if filler:
            traits = replace(request.traits, gap_causal=True, gap_adapter="unmask")
            request = replace(request, traits=traits)
        hidden = run_spans(model, context_spans(request, ids, 0, len(ids)))
        logs = banned(model.logits(hidden[context - 1 :])).log_softmax(dim=-1)
        expected = -sum(float(logs[i, token]) for i, token in enumerate((*gap.part, END)))
        assert loss.ar == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="gap 0 does not fit into 8 tokens"):
        gap_losses(model, several, replace(settings, length=8), tiny.MASK, 1)


def banned(logits: Tensor) -> Tensor:
    logits = logits.clone()
    logits[:, tiny.MASK] = -math.inf
    return logits


@given(st.lists(gaps(), min_size=2, max_size=5))
def test_shuffled_suffixes_are_those_of_others(several: list[Gap]) -> None:
    for gap, other in zip(several, shuffled(several), strict=True):
        assert (other.prefix, other.part, other.closed) == (gap.prefix, gap.part, gap.closed)
        assert len(other.suffix) <= len(gap.suffix)
        assert any(other.suffix == one.suffix[: len(other.suffix)] for one in several if one is not gap)


# From the command line.


def test_a_conversion_with_gaps_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, text = write_model(tmp_path / "base", unmask={"mask_id": MASK}), tmp_path / "one.py"
    text.write_text(SOURCE * 3, encoding="utf-8")
    for method, causal in (("adapter", False), ("joint", True)):
        out = tmp_path / method
        words = [
            "convert",
            str(base),
            "--recipe",
            "tiny",
            "--data",
            str(text),
            "--set",
            "dtype=float32",
            "--steps",
            "2",
        ]
        assert run([*words, "--method", method, "--infill", "0.5", "--out", str(out), "--json"]) == 0
        capsys.readouterr()
        found = (
            json.loads((out / "unmask.json").read_text())["traits"]
            if method == "adapter"
            else open_checkpoint(out).traits
        )
        traits = found if not isinstance(found, dict) else Traits(**found)
        end = open_checkpoint(base).tokenizer().eos_ids[0]
        assert (traits.gap_end, traits.gap_room, traits.gap_causal) == (end, 24, causal)


def test_a_filler_is_trained_and_fills_beside_a_drafter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, text = write_model(tmp_path / "base", unmask={"mask_id": MASK}), tmp_path / "one.py"
    text.write_text(SOURCE * 3, encoding="utf-8")
    drafter, filler = tmp_path / "drafter", tmp_path / "filler"
    changes = ["length=64", "batch=2", "dtype=float32", "blocks.size=8", "infill.room=5", "eval_every=2"]
    words = ["convert", str(base), "--data", str(text), "--held-out", str(text), "--steps", "2", "--json"]
    sets = [word for change in changes for word in ("--set", change)]
    assert run([*words, *sets, "--stage", "filler", "--out", str(filler)]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-2])
    assert last["ar_count"] > 0
    assert last["eval"]["score"] == last["eval"]["gap_ar"] > 0, "less is better"
    assert run([*words, "--recipe", "tiny", "--set", "dtype=float32", "--out", str(drafter)]) == 0

    alone = LM.load(base, adapter=filler, dtype="float32")
    assert alone.traits.adapters == ("fill",)
    assert (alone.traits.trained, alone.traits.block_size, alone.traits.gap_room) == (False, 8, 40)
    assert alone.filler.layouts == ("in-place",)
    found = alone.fill("def f(x):\n", "\n    return y\n", max_tokens=20)
    assert found.layout == "in-place"
    assert [one.strategy for one in found.chosen.generations] == ["ar"] * len(found.chosen.generations)
    with pytest.raises(ValueError, match="mode must be 'ar' or 'self-speculation' to fill a gap"):
        alone.fill("a", "b", mode="fastdiffuser")

    shutil.copytree(filler, drafter / "fill")
    both = LM.load(base, adapter=drafter, dtype="float32")
    assert both.traits.adapters == ("unmask", "fill")
    again = both.fill("def f(x):\n", "\n    return y\n", max_tokens=20)
    assert again.text == found.text
    several = both.fill("def f(x):\n", "\n    return y\n", max_tokens=12, candidates=6)
    assert {one.layout for one in several.candidates} == {"in-place", "prefix"}
    assert several.chosen == max(several.candidates, key=lambda one: one.score.whole if one.score else 0.0)
    plain = LM.load(base, adapter=False, dtype="float32")
    assert plain.filler.layouts == ()
    assert both.generate("def f", mode="ar", max_tokens=8).text == plain.generate("def f", mode="ar", max_tokens=8).text

    card = json.loads((drafter / "fill" / "unmask.json").read_text())
    card["traits"]["gap_adapter"] = "unmask"
    (drafter / "fill" / "unmask.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"gap_adapter must be a name of its own, .*; got 'unmask' and 40"):
        LM.load(base, adapter=drafter)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(steps=1, stage="filler"), "infill.share must be above 0, adapter.coherence 0"),
        (lambda: TrainConfig(steps=1, stage="filler", method="joint"), "method must be 'adapter', got 'joint'"),
        (lambda: Infill(share=2), "share of infill must be between 0 and 1, got 2"),
        (lambda: Infill(spans=("words",)), "spans must be some of characters, lines, syntax"),
        (lambda: Infill(room=0), "room must be at least 1, got 0"),
        (lambda: TrainConfig(steps=1, context="noisy", infill=Infill(share=0.1)), "not in this kind of run"),
        (
            lambda: TrainConfig(steps=1, stage="drafter", blocks=Blocks(full_share=1.0), infill=Infill(share=0.1)),
            "not in this kind of run",
        ),
    ],
)
def test_what_is_not_allowed_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
