"""Samples in files, means with intervals, measures, comparisons: on rows written by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.cli import run
from unmask.evaluation.bootstrap import difference, summary
from unmask.evaluation.compare import compare
from unmask.evaluation.measures import MEASURES, compared, measured, until
from unmask.evaluation.record import command, rounded, write
from unmask.evaluation.rows import Rows, read

PAIRS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=12)


def row(**changes: Any) -> dict[str, Any]:
    return {"tokens": 10, "prefill_tokens": 1, "nfe": 6, "rounds": 3, "seconds": 2.0, "cpu_seconds": 1.0} | changes


def test_rows_are_found_again_and_a_cut_off_line_is_made_anew(tmp_path: Path) -> None:
    file, about = tmp_path / "x.jsonl", {"suite": "s", "limits": (1, 2.5)}
    rows = Rows(file, about)
    assert rows.get("a") is None
    rows.add("a", {"value": 1})
    rows.add("b", {"value": "ü"})
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"key": "c", "val')
    again = Rows(file, about)
    assert again.get("a") == {"key": "a", "value": 1}
    assert again.get("c") is None
    again.add("c", {"value": 3})
    assert read(file) == (
        {"suite": "s", "limits": [1, 2.5]},
        [{"key": "a", "value": 1}, {"key": "b", "value": "ü"}, {"key": "c", "value": 3}],
    )
    with pytest.raises(ValueError, match=r"another run \(limits: \[1, 2.5\] there, \[1, 3\] now\): give another --out"):
        Rows(file, {"suite": "s", "limits": (1, 3)})
    with pytest.raises(ValueError, match="seed: None there, 1 now"):
        Rows(file, about | {"seed": 1})
    file.write_text('{"about": {}}\nno JSON\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no file of samples"):
        Rows(file, {})


@given(PAIRS)
def test_a_summary_is_total_over_total_inside_its_interval(pairs: list[tuple[int, int]]) -> None:
    found = summary(pairs)
    assert found["value"] == pytest.approx(sum(a for a, _ in pairs) / sum(b for _, b in pairs))
    assert found["mean"] == pytest.approx(np.mean([a / b for a, b in pairs]))
    own = [a / b for a, b in pairs]
    for low, high in ((found["low"], found["high"]), (found["mean_low"], found["mean_high"])):
        assert min(own) - 1e-9 <= low <= high <= max(own) + 1e-9
    assert found["samples"] == len(pairs)
    assert summary(pairs) == found, "the same numbers give the same interval"


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 200 samples of 40 from a known distribution, about 95 % of the intervals hold its mean."""
    generator, held = random.Random(1), 0
    for _ in range(200):
        found = summary([(generator.expovariate(1), 1) for _ in range(40)])
        held += found["low"] <= 1 <= found["high"]
    assert 175 <= held <= 199


def test_nothing_to_divide_by() -> None:
    found = summary([(0, 0), (3, 2)])
    assert (found["value"], found["mean"], found["samples"]) == (1.5, 1.5, 2)
    assert summary([(0, 0)])["value"] == 0.0


@given(PAIRS, st.integers(0, 5))
def test_a_paired_difference_of_a_constant_is_that_constant(pairs: list[tuple[int, int]], more: int) -> None:
    ones = [(float(a), 1.0) for a, _ in pairs]
    found = difference(ones, [(a + more, 1.0) for a, _ in ones])
    assert [found[key] for key in ("change", "low", "high")] == pytest.approx([more] * 3)
    assert found["sure"] == (more > 0)
    with pytest.raises(ValueError, match="the same samples"):
        difference(ones, [*ones, (1.0, 1.0)])


def test_measures_of_rows() -> None:
    found = measured([row(same=True), row(tokens=5, nfe=2, rounds=1, same=False)])
    values = {name: numbers["value"] for name, numbers in found.items()}
    assert values["tpf"] == (9 + 4) / 8
    assert values["acceptance_length"] == (9 + 4) / 4
    assert values["tokens_per_second"] == 15 / 4
    assert values["same_as_ar"] == 0.5
    assert found["tpf"]["mean"] == (9 / 6 + 4 / 2) / 2
    assert "passed" not in found
    assert "acceptance_length" not in measured([row(rounds=0)]), "fastdiffuser has no rounds"
    assert measured([]) == {}
    assert {name: numbers["change"] for name, numbers in compared([row()], [row(nfe=3)]).items()}["tpf"] == 1.5


def test_rows_of_suites_that_count_no_prefill_are_compared_too() -> None:
    """Those of infill: forwards without `prefill_tokens` have no tokens per forward, and are no error."""
    plain = {"tokens": 10, "nfe": 6, "seconds": 2.0, "passed": True}
    assert compared([plain], [plain]).keys() == {"passed", "tokens_per_second", "tokens", "nfe", "seconds"}


def test_counts_up_to_a_token() -> None:
    """Prefill at step 1, then rounds that emit once; rounds of linearspec emit in both of their forwards."""
    steps = [1, 3, 3, 3, 5, 7, 7]
    whole = {"step": steps, "tokens": 7, "prefill_tokens": 1, "nfe": 6, "rounds": 3}
    assert until(whole, 7) == {"tokens": 7, "prefill_tokens": 1, "nfe": 6, "rounds": 3}
    assert until(whole, 5) == {"tokens": 5, "prefill_tokens": 1, "nfe": 4, "rounds": 2}
    assert until(whole, 3) == {"tokens": 3, "prefill_tokens": 1, "nfe": 2, "rounds": 1}
    linear = {"step": [1, 2, 3, 3, 4, 5, 5], "tokens": 7, "prefill_tokens": 1, "nfe": 4, "rounds": 2}
    assert [until(linear, tokens)["rounds"] for tokens in (2, 4, 5, 7)] == [1, 1, 2, 2]
    fused = {"step": [3, 3, 4, 5], "tokens": 4, "prefill_tokens": 0, "nfe": 3, "rounds": 3}
    assert until(fused, 3) == {"tokens": 3, "prefill_tokens": 0, "nfe": 2, "rounds": 2}


def written(folder: Path, name: str, rows: dict[str, dict[str, Any]], **about: Any) -> Path:
    found = Rows(folder / f"{name}.jsonl", {"suite": "humaneval", **about})
    for key, value in rows.items():
        found.add(key, value)
    return folder / f"{name}.json"


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = written(tmp_path, "one", {str(i): row(passed=i % 2 == 0) for i in range(20)}, mode="ar")
    two = written(tmp_path, "two", {str(i): row(passed=True, nfe=3) for i in range(5, 25)}, mode="fast")
    found = compare(one, two)
    assert (found["samples"], found["only_in_one"], found["changed"]) == (15, 10, {"mode": ["ar", "fast"]})
    passed = found["groups"]["all"]["passed"]
    assert passed["change"] == pytest.approx(8 / 15)
    assert passed["sure"]
    assert found["groups"]["all"]["tpf"]["low"] == 1.5
    assert not found["groups"]["all"]["seconds"]["sure"]
    assert run(["eval", "--compare", str(one), str(two), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rounded(found)
    assert run(["eval", "--compare", str(one), str(two), "--out", str(tmp_path / "both.json")]) == 0
    assert json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))["groups"] == rounded(found)["groups"]
    for more in (["--curve", str(one)], ["--suite", "humaneval"], ["--limit", "3"], ["smollm2-135m"]):
        assert run(["eval", "--compare", str(one), str(two), *more]) == 2
    assert "measure nothing: leave the model, --suite and flags of suites out" in capsys.readouterr().err
    assert run(["eval", "--compare", str(one), str(two)]) == 0
    assert "+53.33" in capsys.readouterr().out
    grouped = [written(tmp_path, name, {"k/w": row(kind="code", way="ar")}) for name in ("three", "four")]
    assert compare(*grouped)["groups"].keys() == {"code, ar"}
    for other, message in (
        (written(tmp_path, "five", {"other": row()}), "have no sample in common"),
        (tmp_path / "nowhere.json", "no samples"),
    ):
        assert run(["eval", "--compare", str(one), str(other)]) == 2
        assert message in capsys.readouterr().err
    Rows(tmp_path / "six.jsonl", {"suite": "starter"})
    assert run(["eval", "--compare", str(one), str(tmp_path / "six.json")]) == 2
    assert "is of suite 'humaneval'" in capsys.readouterr().err


def test_what_is_written_down(tmp_path: Path) -> None:
    write(tmp_path / "x.json", {"a": {"b": 1 / 3, "c": [1, 2]}, "text": "[not a list]"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": {"b": 1 / 3, "c": [1, 2]}, "text": "[not a list]"}
    assert '"c": [ 1, 2 ]' in text
    assert rounded({"x": (1, 2.0000001, None, True)}) == {"x": [1, 2.0, None, True]}
    shown = command(["/somewhere/bin/unmask", "eval", "--out", "/home/me/x.json", "--data", "a b"])
    assert shown == "unmask eval --out x.json --data 'a b'"
    assert command(["/x/unmask/__main__.py", "eval"]) == "python -m unmask eval"


def test_every_measure_names_its_fields() -> None:
    for needed, count in MEASURES.values():
        fields = dict.fromkeys((*needed, "tokens", "prefill_tokens"), 2)
        assert len(count(fields)) == 2
