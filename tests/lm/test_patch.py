"""`LM.patch` with tiny models: which candidates there are, in what order, at what cost, and what they see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.lm.patching import SPARE, fills_of
from unmask.lm.ranking import scores
from unmask.patching import Gap

LEARNED = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": VOCABULARY - 3, "gap_room": 24}
GAP = Gap("def f(a):\n    return ", "\n\nprint(f(1))\n", "a", "span", 4)


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = write_model(tmp_path_factory.mktemp("gap"), unmask=LEARNED | {"gap_causal": True})
    return LM.load(folder, dtype="float32")


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32")


def test_candidates_are_distinct_ranked_and_repeatable(in_place: LM) -> None:
    found, forwards = fills_of(in_place, {"mode": "ar"})(GAP)
    texts = [one.text for one in found]
    assert 1 < len(set(texts)) == len(texts) <= GAP.count
    expected = [score.whole for score in scores(in_place, GAP.prefix, texts, GAP.suffix)]
    assert [one.score for one in found] == pytest.approx(expected)
    assert expected == sorted(expected, reverse=True)
    assert forwards > len(texts)
    assert fills_of(in_place, {"mode": "ar"})(GAP) == (found, forwards)
    greedy = in_place.fill(GAP.prefix, GAP.suffix, mode="ar", candidates=3)
    assert {one.text for one in greedy.candidates} <= set(texts)


def test_one_candidate_is_the_greedy_filling(in_place: LM) -> None:
    (only,), _ = fills_of(in_place, {"mode": "ar"})(Gap(GAP.prefix, GAP.suffix, "a", "span", 1))
    assert only.score is None
    room = 2 * len(in_place.encode(GAP.old)) + SPARE
    assert only.text == in_place.fill(GAP.prefix, GAP.suffix, mode="ar", max_tokens=room).text


def test_choices_are_ranked_and_nothing_is_written(in_place: LM, plain: LM) -> None:
    choices = ("import re\n", "import os\n", "from a import b\n")
    found, forwards = fills_of(in_place, {"mode": "ar"})(Gap("", "print(os.sep)\n", "", "import", 2, choices))
    expected = [score.whole for score in scores(in_place, "", list(choices), "print(os.sep)\n")]
    assert [one.score for one in found] == pytest.approx(sorted(expected, reverse=True)[:2])
    assert forwards == 3
    with pytest.warns(UserWarning, match="has not learned to fill"):
        fills = fills_of(plain, {"mode": "ar"}, untrained=True)
    (only,), forwards = fills(Gap("", "print(os.sep)\n", "", "import", 4, choices[:1]))
    assert (only.text, forwards) == ("import re\n", 0)


def test_a_long_file_is_seen_from_near(in_place: LM) -> None:
    long = "".join(f"value_{number} = {number}\n" for number in range(400))
    found, _ = fills_of(in_place, {"mode": "ar", "max_tokens": 4})(Gap(long + "x = ", "\n" + long, "1", "span", 1))
    assert len(found) == 1  # it fits the context of 256
    assert in_place.engine.pages.in_use == 0


def test_a_patch_of_a_text(in_place: LM) -> None:
    code = "def f(a):\n    return b\n"
    only = [{"type": "regex", "pattern": "[a]"}]
    found = in_place.patch(code, from_diagnostic="python", candidates=2, mode="ar", constraints=only)
    assert found.accepted
    assert found.data.decode() == code.replace("b", "a")
    assert found.chosen is not None
    assert found.chosen.level == "span"


def test_mistakes(in_place: LM, plain: LM) -> None:
    with pytest.raises(ValueError, match="unknown option 'candidate'"):
        in_place.patch("x", lines="1", candidate=3)
    with pytest.raises(ValueError, match="this model cannot fill a gap"):
        plain.patch("x", lines="1")
