"""Hard constraints about prefix, gap and suffix together: valid texts with a hole in them become valid again."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lm.test_constraints import KINDS, SCHEMA
from tests.lm.test_fill import LEARNED
from tests.tinymodel import write_model
from unmask import LM
from unmask.constraints import ConstraintError, check, spec_of

WHOLE: dict[str, Any] = {"constrain": "whole", "untrained": True}
TEXTS = ["the a end", "then", '{"a": 12, "b": "xy"}', '{"k": [1, {"l": null}], "m": "é"}', "((42))", "<<ab>>"]


@pytest.fixture(scope="module", params=["in-place", "prefix"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    changes: dict[str, Any] = {"unmask": LEARNED | {"gap_causal": True}} if request.param == "in-place" else {}
    return LM.load(write_model(tmp_path_factory.mktemp("model"), **changes), dtype="float32")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.mark.parametrize("mode", ["ar", "fastdiffuser", "self-speculation"])
@pytest.mark.parametrize(("kind", "text"), list(zip(KINDS, TEXTS, strict=True)), ids=[kind["type"] for kind in KINDS])
def test_a_hole_in_a_valid_text_is_filled_validly(lm: LM, mode: str, kind: dict[str, Any], text: str) -> None:
    """The model's weights are random: it does all it can to break the text."""
    assert check(spec_of(kind), text).status in ("satisfied", "unknown")
    for start, stop in ((0, len(text)), (1, len(text) - 1), (2, 3), (0, 2), (len(text) // 2, len(text))):
        prefix, suffix = text[:start], text[stop:]
        for temperature in (0.0, 1.5):
            found = lm.fill(
                prefix,
                suffix,
                mode=mode,
                max_tokens=20,
                constraints=[kind],
                temperature=temperature,
                seed=start,
                **WHOLE,
            )
            verdict = found.chosen.generations[0].constraint
            assert verdict is not None
            assert verdict.status != "violated"
            assert check(spec_of(kind), prefix + found.text + suffix).status != "violated"
            assert sum(one.stats.tokens for one in found.chosen.generations) <= 20


def test_gap_and_whole_are_different_promises(lm: LM) -> None:
    digits = {"type": "regex", "pattern": "a[0-9]{2,4}b"}
    found = lm.fill("a", "b", max_tokens=9, constraints=[digits], **WHOLE)
    assert re.fullmatch("[0-9]{2,4}", found.text)
    found = lm.fill("a", "b", max_tokens=9, constraints=[digits], untrained=True)
    assert re.fullmatch("a[0-9]{2,4}b", found.text)


def test_all_candidates_keep_it(lm: LM) -> None:
    found = lm.fill(
        '{"a": ',
        "}",
        candidates=6,
        mode="ar",
        max_tokens=12,
        temperature=0.0 if lm.traits.gap_end is None else 1.0,
        constraints=[{"type": "json_schema", "schema": SCHEMA}],
        **WHOLE,
    )
    assert len(found.candidates) > 1
    for one in found.candidates:
        assert (
            check(spec_of({"type": "json_schema", "schema": SCHEMA}), '{"a": ' + one.text + "}").status == "satisfied"
        )


@pytest.mark.parametrize(
    ("prefix", "suffix", "most", "reason"),
    [
        ('{"a": 1', "]", 20, "the constraint allows no text before the suffix"),
        ('{"c": 1', "}", 20, "the constraint allows no text between the prefix and the suffix"),
        ('{"a": 1', ', "b": 2}', 20, "the constraint allows no text before the suffix"),
        ('{"a', "}", 2, "max_tokens is 2, but the shortest text that the constraint allows needs"),
        ('{"a": 1, "b": "xxxxx', 'xxxx"}', 20, "allows no text"),
    ],
)
def test_what_cannot_be_completed_is_refused_before_decoding(
    lm: LM, prefix: str, suffix: str, most: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm.engine, "step", None)  # nothing is decoded
    with pytest.raises(ConstraintError, match=re.escape(reason)) as error:
        lm.fill(prefix, suffix, max_tokens=most, constraints=[{"type": "json_schema", "schema": SCHEMA}], **WHOLE)
    assert "\n" not in str(error.value)


def test_an_empty_gap_needs_a_stop_token(lm: LM) -> None:
    options: dict[str, Any] = {"mode": "ar", "constraints": [{"type": "regex", "pattern": "a(bcd)?e"}], **WHOLE}
    assert lm.fill("a", "e", max_tokens=1, **options).text == ""
    if lm.traits.gap_end is None:
        with pytest.raises(ConstraintError, match="only the empty text is sure to end within it"):
            lm.fill("a", "e", max_tokens=1, ignore_eos=True, **options)


def test_mistakes(lm: LM) -> None:
    with pytest.raises(ValueError, match="constrain must be gap or whole, got 'all'"):
        lm.fill("a", "b", untrained=True, constrain="all")
    with pytest.raises(ValueError, match="constrain 'whole' has nothing to act on"):
        lm.fill("a", "b", max_tokens=4, **WHOLE)
