"""`LM.patch` with tiny models: which candidates there are, in what order, at what cost, and what they see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask import LM
from unmask.constraints.oracles import Avoids
from unmask.lm.fill import Filled, fill
from unmask.lm.patching import SPARE, beginnings, fills_of
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


def test_what_a_hard_constraint_has_made_is_exact(in_place: LM) -> None:
    soft, hard = {"type": "not_contains", "texts": ["zz"]}, {"type": "choice", "values": ["b", "a"]}
    for constraints, exact in (([hard], True), ([soft, hard], True), ([soft], False), ([], False)):
        for count in (1, 2):
            found, _ = fills_of(in_place, {"mode": "ar", "constraints": constraints})(replace(GAP, count=count))
            assert {one.exact for one in found} == {exact}


def test_what_is_written_is_not_excused_by_what_was_there(in_place: LM) -> None:
    code, todo = "# TODO old\nx = 1\ny = 2\n", (Avoids(("TODO",)),)
    for text, accepted in (("x = 3  # TODO new", False), ("x = 3", True)):
        only = [{"type": "choice", "values": [text]}]
        found = in_place.patch(code, lines="2", oracles=todo, candidates=1, mode="ar", constraints=only)
        assert ([trial.text for trial in found.trials], found.accepted) == ([text], accepted)


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


def test_other_files_are_seen_before_it(in_place: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[str]()

    def watched(lm: LM, prefix: str, *rest: Any) -> Filled:
        seen.append(prefix)
        return fill(lm, prefix, *rest)

    monkeypatch.setattr("unmask.lm.patching.fill", watched)
    fills = fills_of(in_place, {"mode": "ar", "max_tokens": 4})
    fills(replace(GAP, count=1, context=("# a.py\na = 1\n\n", "# b.py\nb = 1\n\n")))
    assert seen.pop() == "# a.py\na = 1\n\n# b.py\nb = 1\n\n" + GAP.prefix
    long = "# c.py\n" + "".join(f"value_{number} = {number}\n" for number in range(400)) + "\n"
    fills(replace(GAP, count=1, context=(long, "# b.py\nb = 1\n\n")))
    shown, _, rest = seen.pop().partition("\n\n")
    assert long.startswith(f"{shown}\nvalue_"), "whole lines of its beginning"
    assert shown.count("\n") > 4
    assert rest == "# b.py\nb = 1\n\n" + GAP.prefix
    assert in_place.engine.pages.in_use == 0


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab \n", max_size=60), max_size=4), st.integers(-5, 80))
def test_beginnings_fit_their_room(in_place: LM, texts: list[str], room: int) -> None:
    files = [f"# n\n{text}\n\n" for text in texts]
    found = beginnings(in_place.tokenizer, files, room)
    assert len(in_place.encode(found)) <= max(room, 0)
    if sum(len(in_place.encode(one)) + 3 for one in files) <= room:
        assert found == "".join(files)


def test_several_faults(in_place: LM) -> None:
    code = "def f(a):\n    return b + c\n"
    only = [{"type": "regex", "pattern": "[a]"}]
    found = in_place.patch_all(code, 4, from_diagnostic="python", candidates=1, mode="ar", constraints=only)
    assert (found.mended, found.left) == (2, ())
    assert found.after.text == "def f(a):\n    return a + a\n"


def test_what_a_hard_constraint_wants_is_written_though_it_repeats_the_instruction(in_place: LM) -> None:
    only = [{"type": "choice", "values": ["# Say a.\n    return a"]}]
    found = in_place.patch(
        "def f(a):\n    pass\n", symbol="f:body", instruction="Say a.", mode="ar", constraints=only, candidates=1
    )
    assert found.data == b"def f(a):\n    # Say a.\n    return a\n"


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
