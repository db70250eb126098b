"""Quality against speed from result files: points, areas, a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import readme
from unmask.cli import run
from unmask.evaluation.curve import Point, aup, curves, mean_score, picture, tables


def point(tpf: float, score: float) -> Point:
    return Point("g", "f", "w", score, score, score, tpf, 1.0)


def number(value: float) -> dict[str, float]:
    return {"value": value, "low": value / 2, "high": value}


def starter() -> dict[str, Any]:
    def way(tpf: float, **more: float) -> dict[str, Any]:
        return {"tpf": number(tpf), "tokens_per_second": number(50 * tpf)} | {k: number(v) for k, v in more.items()}

    ways = {
        "ar": way(1.0),
        "quadspec": way(2.5, same_as_ar=1.0),
        "fastdiffuser 0.9": way(1.5, agreement=0.9),
        "fastdiffuser 0.5": way(3.0, agreement=0.5),
    }
    return {"suite": "starter", "model": "m", "kinds": {"code": ways, "code, function alone": {}}, "all": ways}


def humaneval(strategy: str, threshold: float | None, passed: float, tpf: float) -> dict[str, Any]:
    settings = None if threshold is None else {"confidence_threshold": threshold}
    results = {"passed": number(passed), "tpf": number(tpf), "tokens_per_second": number(10.0)}
    decoding = {"strategy": strategy, "settings": settings}
    return {"suite": "humaneval", "model": "m", "adapter": {"name": "a"}, "tasks": 9} | {
        "decoding": decoding,
        "results": results,
    }


def written(folder: Path, **files: dict[str, Any]) -> list[Path]:
    paths = [folder / f"{name}.json" for name in files]
    for path, found in zip(paths, files.values(), strict=True):
        path.write_text(json.dumps(found), encoding="utf-8")
    return paths


def test_points_and_areas_by_hand(tmp_path: Path) -> None:
    runs = {
        "ar": humaneval("ar", None, 0.20, 1.0),
        "slow": humaneval("fastdiffuser", 0.9, 0.20, 2.0),
        "fast": humaneval("fastdiffuser", 0.5, 0.16, 4.0),
        "broken": humaneval("fastdiffuser", 0.1, 0.02, 9.0),
    }
    found = curves(written(tmp_path, s=starter(), **runs))
    assert list(found["groups"]) == ["m, code", "m, all", "m, a, 9 tasks of HumanEval"]
    last = found["groups"]["m, a, 9 tasks of HumanEval"]
    assert last["score"] == "pass@1"
    assert [p["way"] for p in last["points"]] == ["ar", "fastdiffuser 0.9", "fastdiffuser 0.5", "fastdiffuser 0.1"]
    weighted = 16 * math.exp(-3 * (1 - 16 / 20))
    assert last["areas"]["fastdiffuser"]["aup"] == pytest.approx(2 * 20 + 2 * (20 + weighted) / 2)
    assert last["areas"]["fastdiffuser"]["mean"] == pytest.approx((2 * 18 + 5 * 9) / 7)
    assert last["areas"]["ar"] == pytest.approx({"aup": 20.0, "mean": 20.0})
    code = found["groups"]["m, code"]
    assert [(p["way"], p["score"]) for p in code["points"]] == [
        ("ar", 100.0),
        ("quadspec", 100.0),
        ("fastdiffuser 0.9", 90.0),
        ("fastdiffuser 0.5", 50.0),
    ]
    assert code["areas"]["quadspec"]["aup"] == pytest.approx(250.0)
    assert code["areas"]["fastdiffuser"]["aup"] == pytest.approx(1.5 * 90), "0.5 lost more than five points"


@given(st.lists(st.tuples(st.floats(0.5, 9), st.floats(0, 100)), min_size=1, max_size=8))
def test_areas_are_bounded_and_do_not_depend_on_the_order(pairs: list[tuple[float, float]]) -> None:
    points = [point(*pair) for pair in dict(pairs).items()]
    best = max(p.score for p in points)
    assert aup(points, best) == pytest.approx(aup(points[::-1], best))
    assert 0 <= aup(points, best) <= max(p.tpf for p in points) * best + 1e-6
    assert min(p.score for p in points) - 1e-6 <= mean_score(points) <= best + 1e-6
    level = [point(p.tpf, 40.0) for p in points]
    assert aup(level, 40.0) == pytest.approx(max(p.tpf for p in level) * 40.0)
    assert mean_score(level) == pytest.approx(40.0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = written(tmp_path, s=starter())
    assert run(["eval", "--curve", str(file), "--out", str(tmp_path / "curve.json")]) == 0
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert "| m, code | quadspec | 100.0 (50.0 to 100.0) | 2.50 | 125.0 | 250.0 | 100.0 |" in readme.curve()
    shown = capsys.readouterr().out
    assert "m, code: agreement with AR's greedy text" in shown
    found = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert found["files"] == ["s.json"]
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert len(list(tables(found))) == 2
    left, right, *_ = picture(found).axes
    assert left.get_legend_handles_labels()[1] == ["ar", "quadspec", "fastdiffuser"]
    assert right.get_xlabel() == "tokens per second"
    assert run(["eval", "--curve", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"].keys() == found["groups"].keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "is no result that"), ('{"suite": "diffusion"}', "is of 'diffusion'"), (None, "No such file")],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert run(["eval", "--curve", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_several_answers_at_once_has_no_speed_and_is_shown_without(tmp_path: Path) -> None:
    together = humaneval("fastdiffuser", 0.7, 0.1, 3.0)
    del together["results"]["tokens_per_second"]
    found = curves(written(tmp_path, ar=humaneval("ar", None, 0.2, 1.0), together=together))
    (group,) = found["groups"].values()
    assert [point["tokens_per_second"] for point in group["points"]] == [10.0, None]
    assert [table.row_count for table in tables(found)] == [2]
    assert picture(found).axes
