"""The Python surface on a tiny random model: text, streams, stops, many at once, cancelling, threads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.tinymodel import END, MASK, write_model
from unmask import LM
from unmask.lm import Generation, Piece
from unmask.types import Frame

WAYS: list[dict[str, Any]] = [
    {"mode": "ar"},
    {"mode": "self-speculation", "spec_variant": "linearspec"},
    {"mode": "self-speculation", "spec_variant": "quadspec"},
    {"mode": "self-speculation", "spec_variant": "adaptivespec"},
    {"mode": "auto"},
]


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32")


@pytest.fixture(autouse=True)
def nothing_is_left(lm: LM) -> Iterator[None]:
    yield
    lm.engine.check()
    assert lm.engine.pages.in_use == 0
    assert not lm.engine.requests
    assert not lm._inbox


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("spec_variant", way["mode"]))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_lossless_modes_write_what_ar_writes(lm: LM, way: dict[str, Any], temperature: float) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "temperature": temperature, "seed": 5}
    expected = lm.generate("the cat", mode="ar", **options)
    found = lm.generate("the cat", **way, **options)
    assert (found.token_ids, found.text, found.finish_reason) == (
        expected.token_ids,
        expected.text,
        expected.finish_reason,
    )
    assert found.stats.tokens == len(found.token_ids)
    assert found.stats.tpf >= 0.5
    assert found.mode == way["mode"]


def test_numbers_of_ar(lm: LM) -> None:
    found = lm.generate("the", mode="ar", max_tokens=9, ignore_eos=True)
    assert (found.stats.nfe, found.stats.prefills, found.stats.tpf, found.stats.acceptance_length) == (8, 1, 1.0, 1.0)
    assert found.stats.tpf_total == 1.0
    assert 0 < found.stats.first_token_seconds <= found.stats.seconds
    assert found.finish_reason == "length"


def test_numbers_of_fastdiffuser(lm: LM) -> None:
    found = lm.generate(
        "the", mode="fastdiffuser", block_size=4, confidence_threshold=0.0, max_tokens=8, ignore_eos=True
    )
    assert (found.stats.nfe, found.stats.tokens, found.stats.acceptance_length) == (2, 8, None)
    assert MASK not in found.token_ids


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.get("spec_variant", way["mode"]))
def test_a_stop_string_cuts_text_and_tokens_alike(lm: LM, way: dict[str, Any]) -> None:
    whole = lm.generate("a", mode="ar", max_tokens=24, ignore_eos=True)
    texts = [lm.tokenizer.decode(whole.token_ids[:n]) for n in range(len(whole.token_ids) + 1)]
    stop = whole.text[5:8]
    cut = whole.text.index(stop)
    expected = next(n for n, text in enumerate(texts) if stop in text)
    found = lm.generate("a", max_tokens=24, ignore_eos=True, stop=["never", stop], **way)
    assert (found.text, found.stopped_by, found.finish_reason) == (whole.text[:cut], stop, "stop")
    assert found.token_ids == whole.token_ids[:expected]


def test_the_end_token_is_an_id_but_no_text(lm: LM) -> None:
    found = lm.generate("a", mode="ar", max_tokens=24, logit_bias={END: 50.0}, min_tokens=3)
    assert len(found.token_ids) == 4
    assert found.token_ids[-1] == END
    assert found.finish_reason == "stop"
    assert found.text == lm.tokenizer.decode(found.token_ids[:-1])


def test_pieces_and_frames_add_up(lm: LM) -> None:
    options: dict[str, Any] = {"mode": "fastdiffuser", "block_size": 4, "max_tokens": 12, "ignore_eos": True}
    events = list(lm.stream("the", frames=True, **options))
    done = events[-1]
    assert isinstance(done, Generation)
    assert "".join(event.text for event in events if isinstance(event, Piece)) == done.text
    assert tuple(token for event in events if isinstance(event, Piece) for token in event.tokens) == done.tokens
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.step for frame in frames] == list(range(1, len(frames) + 1))
    assert not any(isinstance(event, Frame) for event in lm.stream("the", **options))


def test_log_probabilities_are_those_of_the_model(lm: LM) -> None:
    plain = lm.generate("the", mode="ar", max_tokens=6, logprobs=3, ignore_eos=True)
    drafted = lm.generate("the", mode="self-speculation", max_tokens=6, logprobs=3, ignore_eos=True)
    for one, other in zip(plain.tokens, drafted.tokens, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert one.top[0] == pytest.approx(other.top[0], abs=1e-4)
        assert len(one.top) == 3
        assert one.logprob == pytest.approx(one.top[0][1])  # greedy


def test_many_prompts_in_one_batch(lm: LM) -> None:
    prompts = ["a", "the the", "bc", "x y z"]
    alone = [lm.generate(prompt, max_tokens=8, mode="ar").token_ids for prompt in prompts]
    assert [found.token_ids for found in lm.generate_all(prompts, max_tokens=8, mode="ar")] == alone


def test_threads_share_the_engine(lm: LM) -> None:
    alone = [lm.generate("the", seed=seed, temperature=1.0, max_tokens=12).token_ids for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda seed: lm.generate("the", seed=seed, temperature=1.0, max_tokens=12), range(6)))
    assert [one.token_ids for one in found] == alone


def test_leaving_a_stream_frees_its_pages(lm: LM) -> None:
    stream = lm.stream("the", max_tokens=50, ignore_eos=True)
    next(iter(stream))
    assert lm.engine.pages.in_use
    stream.close()  # type: ignore[attr-defined]


def test_a_failed_step_ends_every_stream_it_had(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = lm.stream("the", max_tokens=50, ignore_eos=True), lm.stream("a", max_tokens=50, ignore_eos=True)
    next(iter(one))

    def fails(*_: Any) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(lm.engine.runner, "run", fails)
    with pytest.raises(MemoryError):
        list(one)
    with pytest.raises(RuntimeError, match="the generation was lost"):
        list(two)


def test_chat_and_ids(lm: LM) -> None:
    ids = lm.encode_chat([{"role": "user", "content": "the"}])
    assert lm.tokenizer.decode(ids, skip_special=False) == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    assert lm.chat([{"role": "user", "content": "the"}], max_tokens=4).prompt_ids == ids
    assert lm.generate(ids, max_tokens=4).prompt_ids == ids


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt must be at least one token long"),
        ("a", {"max_tokens": 1000}, "prompt (1 tokens) and max_tokens (1000) exceed the context of 256"),
        ("a" * 300, {}, "the prompt has 300 tokens, but the context of 256"),
        ([99999], {}, "token id 99999 is outside the vocabulary"),
        ("a", {"logit_bias": {99999: 1}}, "token id 99999 is outside the vocabulary"),
    ],
)
def test_prompts_that_cannot_run(lm: LM, prompt: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        lm.generate(prompt, **options)


def test_a_model_without_a_mask_token_decodes_ar_only(tmp_path: Path) -> None:
    lm = LM.load(write_model(tmp_path / "plain", unmask={}), dtype="float32")
    assert lm.generate("the", max_tokens=3).strategy == "ar"
    with pytest.raises(ValueError, match="needs a mask token, and this model has none; pass mask_id="):
        lm.generate("the", mode="fastdiffuser")
    again = LM.load(tmp_path / "plain", dtype="float32", mask_id=MASK)
    assert again.generate("the", mode="fastdiffuser", max_tokens=3).stats.tokens == 3


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        ({"dtype": "int4"}, "dtype must be one of float32, bfloat16"),
        ({"device": "tpu"}, "device must be "),
        ({"exactness": "very"}, "exactness must be 'exact' or 'fast'"),
        ({"mask_id": 10**6}, "mask_id must be between 0 and"),
    ],
)
def test_wrong_ways_to_load(tiny_folder: Path, loading: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LM.load(tiny_folder, **loading)
