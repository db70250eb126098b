"""`LM.fill` on tiny models: layouts by capability, lengths, rooms, candidates, healing, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.text.test_healing import with_tokens
from tests.text.vocabularies import BYTES
from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.lm import Filling, Options
from unmask.lm.filling import overlap
from unmask.lm.ranking import in_view, scores
from unmask.model.attention import dense_attend
from unmask.model.decoder import Batch
from unmask.types import Request

START = VOCABULARY - 3  # "<|im_start|>"
LEARNED: dict[str, Any] = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": START, "gap_room": 24}
PREFIX, SUFFIX = "the cat and ", " the dog\nand the bird\n"


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return LM.load(write_model(tmp_path_factory.mktemp("gap"), unmask=LEARNED | {"gap_causal": True}), dtype="float32")


@pytest.fixture(scope="module")
def adapter_like(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return LM.load(write_model(tmp_path_factory.mktemp("noisy"), unmask=LEARNED), dtype="float32")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return LM.load(write_model(tmp_path_factory.mktemp("plain")), dtype="float32")


@pytest.fixture(scope="module")
def fim(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = write_model(tmp_path_factory.mktemp("fim"), vocab_size=VOCABULARY + 4)
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")
    with_tokens(BYTES, *names).core.save(str(folder / "tokenizer.json"))
    return LM.load(folder, dtype="float32")


def requests_of(lm: LM, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """All requests from now on."""
    seen, submit = list[Request](), lm.engine.submit

    def watched(request: Request) -> int:
        seen.append(request)
        return submit(request)

    monkeypatch.setattr(lm.engine, "submit", watched)
    return seen


def test_layouts_follow_from_the_checkpoint(in_place: LM, plain: LM, fim: LM) -> None:
    assert in_place.filler.layouts == ("in-place",)
    assert fim.filler.layouts == ("psm", "spm")
    assert plain.filler.layouts == ()


def test_what_a_request_in_place_is(in_place: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = requests_of(in_place, monkeypatch)
    in_place.fill(PREFIX, SUFFIX, mode="fastdiffuser")
    in_place.fill(PREFIX, SUFFIX, mode="ar", max_tokens=5)
    in_place.fill(PREFIX, SUFFIX, mode="ar", length=8, ignore_eos=True)
    in_place.fill(PREFIX, "", mode="ar", max_tokens=3)
    for request in seen:
        assert request.prompt == in_place.encode(PREFIX)
        assert START in request.stop_ids
    assert [request.suffix for request in seen] == [*[in_place.tokenizer.encode(SUFFIX)] * 3, ()]
    # Whole blocks with a place for the end token; at most the widest room that was learned.
    shapes = [(request.room, request.max_tokens, request.min_tokens) for request in seen]
    assert shapes == [(24, 23, 0), (8, 5, 0), (16, 8, 8), (8, 3, 0)]


@pytest.mark.parametrize("mode", ["ar", "fastdiffuser", "self-speculation", "auto", None])
def test_a_gap_of_a_given_length_has_it(in_place: LM, mode: str | None) -> None:
    for length in (1, 7, 8, 30):
        found = in_place.fill(PREFIX, SUFFIX, length=length, mode=mode, stop=[])
        assert sum(one.stats.tokens for one in found.chosen.generations) == length
        assert not found.ended
        assert found.layout == "in-place"
    assert len(in_place.fill(PREFIX, SUFFIX, max_tokens=5, mode=mode).chosen.generations[0].token_ids) <= 5


def test_lossless_modes_fill_alike(in_place: LM) -> None:
    texts = {
        in_place.fill(PREFIX, SUFFIX, mode=mode, spec_variant=variant, max_tokens=20).text
        for mode, variant in [("ar", None), ("auto", None), ("self-speculation", "quadspec")]
    }
    assert len(texts) == 1


def test_a_longer_gap_is_filled_room_by_room(in_place: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = requests_of(in_place, monkeypatch)
    found = in_place.fill(PREFIX, SUFFIX, length=60, mode="fastdiffuser")
    assert [(request.room, request.max_tokens) for request in seen[:3]] == [(24, 24), (24, 24), (16, 12)]
    first, second, _ = found.chosen.generations
    assert seen[1].prompt == in_place.encode(PREFIX + first.text)
    assert seen[2].prompt == in_place.encode(PREFIX + first.text + second.text)
    assert found.text == "".join(one.text for one in found.chosen.generations)
    assert found.stats.tokens == 60
    assert found.stats.nfe == sum(one.stats.nfe for one in found.chosen.generations)
    # Rooms as estimates of the length leave a place for the end.
    in_place.fill(PREFIX, SUFFIX, candidates=5, mode="fastdiffuser")
    assert [(request.room, request.max_tokens) for request in seen[3:]] == [(8, 7), (16, 15), (24, 23)]


def test_an_adapter_fills_by_diffusion_only(adapter_like: LM) -> None:
    for mode in (None, "auto", "fastdiffuser"):
        assert adapter_like.fill(PREFIX, SUFFIX, mode=mode, max_tokens=4).chosen.generations[0].mode == "fastdiffuser"
    with pytest.raises(ValueError, match="mode must be 'fastdiffuser' to fill a gap with this checkpoint, got 'ar'"):
        adapter_like.fill(PREFIX, SUFFIX, mode="ar")


def test_of_several_candidates_one_is_the_prefix_continued_by_causal_rows(adapter_like: LM, in_place: LM) -> None:
    found = adapter_like.fill(PREFIX, SUFFIX, candidates=3, max_tokens=20, block_size=8)
    continued = [one for one in found.candidates if one.layout == "prefix"]
    assert {one.generations[0].mode for one in continued} == {"ar"}
    whole = adapter_like.generate(PREFIX, mode="ar", max_tokens=20).text
    assert all(whole.startswith(one.text) for one in continued)
    assert {one.layout for one in found.candidates} == {"in-place", "prefix"}
    assert found.layout == found.chosen.layout
    assert found.chosen.score == max((one.score for one in found.candidates if one.score), key=lambda one: one.whole)
    # An exact length is for gaps alone, and causal rows that have learned gaps need no help.
    assert {
        one.layout for one in adapter_like.fill(PREFIX, SUFFIX, candidates=2, length=4, temperature=1.0).candidates
    } == {"in-place"}
    assert {one.layout for one in in_place.fill(PREFIX, SUFFIX, candidates=3).candidates} == {"in-place"}


def test_untrained_models_refuse_or_warn(plain: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"this model cannot fill a gap: it was not trained with gaps") as error:
        plain.fill(PREFIX, SUFFIX)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="layout must be 'prefix' here, got 'psm'"):
        plain.fill(PREFIX, SUFFIX, layout="psm")
    seen = requests_of(plain, monkeypatch)
    with pytest.warns(UserWarning, match="has not learned to fill gaps"):
        found = plain.fill(PREFIX, SUFFIX, untrained=True, mode="ar", max_tokens=24, heal=False)
    (request,) = seen
    assert (request.prompt, request.suffix, request.room) == (plain.encode(PREFIX), (), 0)
    continued = plain.generate(PREFIX, mode="ar", max_tokens=24).text
    assert found.layout == "prefix"
    assert continued.startswith(found.text)
    assert found.text == max(found.candidates, key=lambda one: one.score.whole if one.score else 0.0).text


def test_prompts_with_fill_in_the_middle_tokens(fim: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = requests_of(fim, monkeypatch)
    shown = fim.tokenizer.decode
    for layout in (None, "psm", "spm"):
        for mode in ("ar", "self-speculation"):
            found = fim.fill(PREFIX, SUFFIX, layout=layout, mode=mode, max_tokens=6, heal=False)
            assert found.layout == (layout or "psm")
    texts = [shown(request.prompt, skip_special=False) for request in seen]
    psm = f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>"
    spm = f"<|fim_prefix|><|fim_suffix|>{SUFFIX}<|fim_middle|>{PREFIX}"
    assert texts == [psm, psm, psm, psm, spm, spm]
    assert all(fim.tokenizer.core.token_to_id("<|fim_pad|>") in request.stop_ids for request in seen)
    with pytest.raises(ValueError, match="layout must be 'psm' or 'spm' here, got 'in-place'"):
        fim.fill(PREFIX, SUFFIX, layout="in-place")


@pytest.mark.parametrize("mode", ["ar", "self-speculation", "fastdiffuser"])
def test_healing_writes_the_last_token_anew_and_shows_it_once(fim: LM, in_place: LM, mode: str) -> None:
    """What is filled in, behind the whole prefix, is what a request for the shorter prefix writes."""
    prefix = "a cat and th"  # "the" is a token, so "th" can be healed
    for lm, layout in ((fim, "psm"), (fim, "spm"), (in_place, "in-place")):
        request, follow = lm.filler.prepare(
            prefix, SUFFIX, Options(mode=mode, max_tokens=9), Filling(layout=layout, heal=True)
        )
        assert request.constraint is not None
        assert follow.stream.skip == 2
        found = lm.finish(lm.submit(request, follow))
        written = lm.tokenizer.decode(found.token_ids)
        assert written.startswith("th")
        assert found.text == written[2:] or written[2:].startswith(found.text)  # cut before the suffix


def test_candidates_are_ranked_by_what_the_causal_rows_say(in_place: LM, fim: LM) -> None:
    greedy = in_place.fill(PREFIX, SUFFIX, candidates=3, mode="fastdiffuser")
    assert 1 <= len(greedy.candidates) <= 3
    sampled = fim.fill(PREFIX, SUFFIX, candidates=4, temperature=1.0, seed=3, max_tokens=6, mode="ar")
    assert len({one.text for one in sampled.candidates}) == len(sampled.candidates) > 1
    for found in (greedy, sampled):
        best = max(one.score.whole for one in found.candidates if one.score)
        assert found.chosen.score is not None
        assert found.chosen.score.whole == best
    alone = fim.fill(PREFIX, SUFFIX, temperature=1.0, seed=4, max_tokens=6, mode="ar")
    assert alone.text in {one.text for one in sampled.candidates}
    assert alone.chosen.score is None
    with pytest.raises(ValueError, match="candidates above 1 need a temperature above 0 here"):
        fim.fill(PREFIX, SUFFIX, candidates=2, mode="fastdiffuser")


def test_scores_are_log_likelihoods_of_the_whole_text(plain: LM) -> None:
    (found,) = scores(plain, PREFIX, ["and é"], SUFFIX)
    ids = plain.encode(PREFIX + "and é" + SUFFIX)
    ends = [len(plain.tokenizer.decode(ids[: i + 1]).encode()) for i in range(len(ids))]
    first, last = len(PREFIX.encode()), len((PREFIX + "and é").encode())
    with torch.no_grad():
        n = len(ids)
        hidden = plain.decoder(
            Batch(torch.tensor(ids), torch.arange(n), n - 1), dense_attend(np.tri(n, dtype=np.bool_))
        )
        logs = plain.decoder.logits(hidden).double().log_softmax(dim=-1)
    each = [float(logs[i - 1, ids[i]]) for i in range(1, n)]
    middle = [each[i - 1] for i in range(1, n) if first < ends[i] <= last]
    after = [each[i - 1] for i in range(1, n) if ends[i] > last][:16]
    assert found.middle == pytest.approx(sum(middle), abs=1e-3)
    assert found.suffix == pytest.approx(sum(after), abs=1e-3)
    assert found.whole == found.middle + (found.suffix or 0.0)
    (nothing,) = scores(plain, PREFIX, ["and"], "")
    assert nothing.suffix is None
    assert nothing.whole == nothing.middle
    (empty,) = scores(plain, PREFIX, [""], SUFFIX)
    assert empty.middle == 0.0
    assert not math.isnan(empty.whole)
    assert plain.engine.pages.in_use == 0


def test_scores_with_the_suffix_in_view(in_place: LM) -> None:
    """Against one dense forward of prefix but for its last token, suffix, that token, middle and end."""
    encode, middles, room = in_place.tokenizer.encode, ["and é", "a", "", "the sun"], 24
    before, after = encode(PREFIX), encode(SUFFIX)
    found = in_view(in_place, PREFIX, middles, SUFFIX)
    for middle, score in zip(middles, found, strict=True):
        inside = (*encode(middle), START)
        ids = torch.tensor([*before[:-1], *after, before[-1], *inside])
        n, rows = len(before), len(ids)
        places = torch.tensor(
            [*range(n - 1), *(n + room + i for i in range(len(after))), *range(n - 1, n + len(inside))]
        )
        with torch.no_grad():
            batch = Batch(ids, places, int(places.max()))
            hidden = in_place.decoder(batch, dense_attend(np.tri(rows, dtype=np.bool_)))
            logs = in_place.decoder.logits(hidden).double().log_softmax(dim=-1)
        own = range(rows - len(inside), rows)
        assert score == pytest.approx(sum(float(logs[i - 1, ids[i]]) for i in own), abs=1e-3)
    (longer,) = in_view(in_place, PREFIX, ["the cat " * 5], SUFFIX)  # than any gap that was learned
    assert longer < min(found)
    assert in_place.engine.pages.in_use == 0


@pytest.mark.parametrize(
    ("suffix", "stop"),
    [
        ("", ()),
        ("\n", ()),
        ("short", ()),
        ("return a + b + c", ()),  # too little to be sure
        ("return a + b + count", ("return a + b + co",)),
        ("\n" + " " * 20 + "return values", ("\n" + " " * 20 + "return values",)),
    ],
)
def test_a_middle_that_runs_into_the_suffix_is_cut(suffix: str, stop: tuple[str, ...]) -> None:
    assert overlap(suffix) == stop
    for text in overlap(suffix):
        assert suffix.startswith(text)
        assert sum(not letter.isspace() for letter in text) >= 12


def test_the_cut_is_told(in_place: LM) -> None:
    often = {in_place.tokenizer.encode("the")[0]: 1000.0}
    found = in_place.fill("a cat", "the" * 8, mode="ar", logit_bias=often)
    assert (found.text, found.chosen.trimmed, found.ended) == ("", True, False)
    found = in_place.fill("a cat", "the" * 3, mode="ar", logit_bias=often, max_tokens=4)
    assert (found.text, found.chosen.trimmed) == ("the" * 4, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.fill("a", "b", layout="middle"), "layout must be one of in-place, psm, spm, prefix"),
        (lambda lm: lm.fill("a", "b", length=0), "length must be at least 1, got 0"),
        (lambda lm: lm.fill("a", "b", candidates=0), "candidates must be between 1 and 64, got 0"),
        (lambda lm: lm.fill(b"a", "b"), "prefix must be text, got bytes"),
        (lambda lm: lm.fill("a", None), "suffix must be text, got NoneType"),
        (lambda lm: lm.fill("a", "b", lenght=3), "unknown option 'lenght'"),
        (lambda lm: lm.fill("a" * 250, "b"), "context of 256"),
    ],
)
def test_mistakes_are_one_line(in_place: LM, call: Callable[[LM], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call(in_place)
    assert "\n" not in str(error.value)


def test_nothing_before_the_gap(in_place: LM, fim: LM) -> None:
    assert in_place.fill("", SUFFIX, length=3).stats.tokens == 3
    assert fim.fill("", SUFFIX, max_tokens=3).layout == "psm"
    lonely = replace(in_place.filler.tokenizer, eos_ids=(), special_tokens={})
    filler = type(in_place.filler)(lonely, in_place.traits, (), 256, in_place.constraining)
    with pytest.raises(ValueError, match="the prefix is empty, and the tokenizer has no token to begin"):
        filler.prepare("", SUFFIX, Options(mode="ar", max_tokens=3), Filling())


def test_a_gap_obeys_a_constraint(in_place: LM) -> None:
    found = in_place.fill(PREFIX, SUFFIX, constraints=[{"type": "regex", "pattern": "(the|cat)+"}], max_tokens=9)
    assert found.chosen.generations[0].constraint is not None
    assert found.chosen.generations[0].constraint.status == "satisfied"
    assert set(found.text.replace("the", "").replace("cat", "")) == set()


def test_cards_carry_what_was_learned(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", unmask=LEARNED)
    raw = json.loads((folder / "config.json").read_text())
    raw["unmask"]["gap_end"] = 9999
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="gap_end 9999 is no token"):
        LM.load(folder)
