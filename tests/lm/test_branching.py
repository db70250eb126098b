"""Candidates without a temperature: where they part, how they go on, and that they obey what the first obeys."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.text.test_healing import with_tokens
from tests.text.vocabularies import BYTES
from tests.tinymodel import VOCABULARY, write_model
from unmask import LM
from unmask.lm import branching
from unmask.lm.branching import OTHERS
from unmask.lm.cutting import cuts
from unmask.lm.result import Generation

BEFORE, AFTER = "the cat and ", "\n the dog"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    return LM.load(write_model(tmp_path_factory.mktemp("plain")), dtype="float32")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def made(lm: LM, count: int, **options: Any) -> list[Generation]:
    found = lm.fill(BEFORE, AFTER, candidates=count, untrained=True, heal=False, **{"mode": "ar", **options})
    return list(dict.fromkeys(one.generations[0] for one in found.candidates))


@pytest.mark.parametrize("favour", [0.0, 3.0])
def test_each_parts_at_the_likeliest_places_and_is_greedy_from_there(
    lm: LM, favour: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(branching, "FAVOUR", favour)
    prompt, names = lm.encode(BEFORE), set(lm.tokenizer.encode(AFTER))
    first = lm.generate(prompt, mode="ar", max_tokens=6, logprobs=OTHERS)
    places, before = list[tuple[float, tuple[int, ...]]](), 0.0
    for i, token in enumerate(first.tokens[:-1]):  # behind the last one nothing more would fit
        for id, logprob in token.top:
            if id != token.id and id not in lm.tokenizer.special_ids:
                places.append((before + logprob + favour * (id in names), (*first.token_ids[:i], id)))
        assert token.logprob is not None
        before += token.logprob
    heads = [head for _, head in sorted(places, reverse=True)[:7]]
    expected = {
        (*head, *lm.generate((*prompt, *head), mode="ar", max_tokens=6 - len(head)).token_ids) for head in heads
    }
    found = made(lm, 8, max_tokens=6)
    assert found[0].token_ids == first.token_ids
    assert {one.token_ids for one in found[1:]} == expected


def test_a_branch_looks_like_a_text_of_its_own(lm: LM) -> None:
    for one in made(lm, 6, max_tokens=8):
        assert one.prompt_ids == lm.encode(BEFORE)
        assert lm.tokenizer.decode(one.token_ids) == one.text
        assert len(one.token_ids) == len(one.tokens) == 8
        own = one.stats.tokens
        assert own <= 8
        assert one.stats.nfe + one.stats.prefills == own, "what was there before is not counted"
    assert sum(one.stats.tokens == 8 for one in made(lm, 6, max_tokens=8)) == 1


def test_the_same_call_gives_the_same_and_every_mode_too(lm: LM) -> None:
    texts = [[one.text for one in made(lm, 5, max_tokens=6, mode=mode)] for mode in ("ar", "ar", "self-speculation")]
    assert texts[0] == texts[1] == texts[2]
    with pytest.raises(ValueError, match="candidates above 1 need a temperature above 0 here"):
        made(lm, 5, mode="fastdiffuser")


def test_a_stop_string_ends_all_of_them(lm: LM) -> None:
    often = {lm.tokenizer.encode("\n")[0]: 30.0}
    found = lm.fill(BEFORE, AFTER, candidates=6, untrained=True, mode="ar", max_tokens=6, stop="\n", logit_bias=often)
    assert all("\n" not in one.text for one in found.candidates)
    assert len({one.text for one in found.candidates}) == len(found.candidates) > 1


def test_candidates_obey_a_hard_constraint(lm: LM) -> None:
    for pattern in ("[ -~]{3,9}", "[a-z ]*[A-Z][^a]*"):
        found = lm.fill(
            BEFORE,
            AFTER,
            candidates=8,
            untrained=True,
            mode="ar",
            max_tokens=12,
            constraints=[{"type": "regex", "pattern": pattern}],
        )
        assert len(found.candidates) > 1
        assert all(re.fullmatch(pattern, one.text) for one in found.candidates)


def test_what_stands_in_the_healed_end_of_the_prefix_stops_nothing(lm: LM) -> None:
    """The last token of the prefix, a line end, is written again; it is not the one that ends the line."""
    biases = {lm.tokenizer.encode("the")[0]: 20.0, lm.tokenizer.encode("\n\n")[0]: -1000.0}
    given: dict[str, Any] = {"mode": "ar", "max_tokens": 5, "logit_bias": biases, "untrained": True}
    prefix = BEFORE + "\n"
    assert lm.filler.healer.begin(lm.encode(prefix))[1] == b"\n"
    found = lm.fill(prefix, "", stop="\n", heal=True, **given)
    assert found.text == "the" * 4


@pytest.mark.parametrize(
    ("text", "suffix", "expected"),
    [
        ("a\nb\nc", "\nd", ["a", "a\nb"]),
        ("a\r\nb\n", "\r\nd", ["a", "a\r\nb"]),
        ("a\nb\nc", "  d", ["a\n", "a\nb\n"]),
        ("x, y) + 1\nz", ") * 2\n", ["x, y", "x, y) + 1\n"]),
        ("x, y, z", ", b)", ["x", "x, y"]),
        ("x + y", ", b)", ["x + y"]),
        ("\n\na", "\nb", ["", "\n"]),
        ("a\nb", " ", ["a\n"]),
        ("a and b", " and c", ["a"]),
    ],
)
def test_where_a_continued_prefix_is_cut(text: str, suffix: str, expected: list[str]) -> None:
    assert cuts(text, suffix, 16, whole=False) == expected
    assert cuts(text, suffix, 1, whole=False) == expected[:1]
    assert cuts(text, suffix, 16, whole=True) == list(dict.fromkeys([*expected, text]))


def test_prompts_that_see_the_suffix_have_candidates_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "fim", vocab_size=VOCABULARY + 4)
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>")
    with_tokens(BYTES, *names).core.save(str(folder / "tokenizer.json"))
    fim = LM.load(folder, dtype="float32")
    found = fim.fill(BEFORE, AFTER, candidates=5, max_tokens=5, mode="ar")
    assert {one.layout for one in found.candidates} == {"psm"}
    assert len(found.candidates) == 5
