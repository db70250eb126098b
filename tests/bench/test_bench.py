"""The benchmark on peers whose clock is known: pairs, medians, goals, what `auto` is told, and peers that fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.fakes import KINDS, Fake, starter, texts
from unmask.bench import suites
from unmask.bench.advice import advise, ar_from, crossover, least
from unmask.bench.arrivals import ahead_from, decode_speed, percentile, reached, waits
from unmask.bench.headline import GOALS
from unmask.bench.pictures import speeds as picture
from unmask.bench.plan import AR, AUTO, LLAMA, TRANSFORMERS, Cell, Load, fixed_ways, grid_ways
from unmask.bench.session import Session, measure, medians, prompts_of, shared
from unmask.bench.suites import CALIBRATION, Settings, run_grid, run_headline
from unmask.bench.tables import benchmark
from unmask.cli import run

FAST = Settings(model="m", rounds=3, tokens=64)


@pytest.fixture(scope="module")
def log() -> list[Any]:
    return []


@pytest.fixture(scope="module")
def found(log: list[Any]) -> dict[str, Any]:
    return run_headline(FAST, texts(), {}, starter(log))


def test_every_goal_is_the_ratio_that_the_clock_says(found: dict[str, Any]) -> None:
    rows = {row["row"]: row for row in found["headline"]}
    assert list(rows) == list(GOALS)
    expected = {
        "ar": 37 / 12,
        "ar-quantised": 12 / 8,
        "code": 4.0 * 12 / 8,
        "chat": 2.5 * 12 / 8,
        "code-transformers": 4.0 * 37 / 8,
        "auto": 3.9 / 5.0,  # editing, where adaptivespec is best
        "rows": 0.0131 / 0.010,
        "floor": 0.010 / (240e6 / 30e9),
        "memory": 1.3,
    }
    assert {name: rows[name]["found"] for name in expected} == pytest.approx(expected)
    assert rows["auto"]["of"] == "editing, where adaptivespec 8 is best"
    assert rows["code"]["of"] == "adaptivespec 8 on bfloat16 int4"
    assert [name for name, row in rows.items() if not row["met"]] == ["auto", "rows"]
    assert {rows[name]["pairs"] for name in ("ar", "code", "auto")} == {9, 3}
    # 16 at once take twice the time of one, as the clock of AR has it; the prefill of 0.1 s is paid once.
    tokens, each = 64, 0.012
    alone, together = 16 * (0.1 + 63 * each), 0.1 + 63 * each * 2
    assert rows["concurrent"]["found"] == pytest.approx((16 * tokens / together) / (16 * tokens / alone))


def test_everybody_answers_the_same_prompts_as_far(found: dict[str, Any], log: list[Any]) -> None:
    cells = {(one["load"], one["way"]) for one in found["samples"]}
    assert len(cells) == 3 * 6 + 5
    for one in found["prompts"]:
        samples = [s for s in found["samples"] if s["prompt"] == one["name"]]
        assert {s["tokens"] for s in samples} == ({one["tokens"]} if one["measured"] else set())
        assert len(samples) == (len(cells) if one["measured"] else 0)
    assert sum(one["measured"] for one in found["prompts"]) == 3 * FAST.rounds
    assert len(found["prompts"]) == 3 * (FAST.rounds + CALIBRATION)
    assert all(one["tokens"] >= 16 for one in found["prompts"])


def test_nobody_is_always_the_first() -> None:
    log = list[Any]()
    peers = {name: Fake(load, log) for name in ("bfloat16", "int8") for load in [Load(name, "unmask")]}
    cells = [Cell(name, way) for name in peers for way in (AR, AUTO)]
    pool = {"code": prompts_of(peers["int8"], texts()["code"], 4, 64, 1000)}
    log.clear()
    measure(Session(dict(peers)), cells, pool, range(4))
    order = [(load, arguments["mode"]) for load, name, arguments in log if name == "generate"]
    assert len({order[i] for i in range(0, 16, 4)}) == 4
    assert all(len(set(order[i : i + 4])) == 4 for i in range(0, 16, 4))


def test_auto_is_told_before_it_is_measured_and_from_other_prompts(found: dict[str, Any], log: list[Any]) -> None:
    names = [name for load, name, arguments in log if load == "bfloat16"]
    told = [i for i, name in enumerate(names) if name == "advise"]
    generated = [i for i, (load, name, a) in enumerate(e for e in log if e[0] == "bfloat16") if a.get("mode") == "auto"]
    assert len(told) == 2
    assert told[0] < min(generated)
    assert told[1] > max(generated)
    first, last = (a for load, name, a in log if (load, name) == ("bfloat16", "advise"))
    assert (first["keep"], last["keep"]) == (False, True)
    assert found["advice"]["bfloat16"] == last["advice"]
    assert list(last["advice"]["profile"]) == [0.8, 0.6]
    assert last["advice"] | {"profile": None} == {
        "strategy": "adaptivespec",
        "draft_block_size": 8,
        "profile": None,
        "ar_from": 16,
    }


def test_ids_that_differ_are_told(found: dict[str, Any]) -> None:
    rows = {row["way"]: row for row in found["medians"] if (row["load"], row["kind"]) == ("bfloat16", "code")}
    assert rows["adaptivespec 8"]["same_as_ar"] == 1.0
    assert rows["quadspec 4"]["same_as_ar"] == 0.0
    assert 0 < rows["quadspec 4"]["agreement_prefix"] < 0.1
    assert "same_as_ar" not in rows["ar"]
    assert rows["quadspec 4"]["speed"] == pytest.approx(1 / 0.024)
    assert rows["quadspec 4"].get("ahead_from") is None
    assert rows["adaptivespec 8"]["ahead_from"] == 1
    assert rows["ar"]["wait_p99"] == pytest.approx(0.012)


def test_a_peer_that_is_not_there_leaves_its_rows_empty() -> None:
    log = list[Any]()
    settings = Settings(model="m", rounds=1, tokens=32, rows=("ar", "ar-quantised", "floor"))
    found = run_headline(settings, texts(), {}, starter(log, missing=[LLAMA, suites.MEMORY]))
    rows = {row["row"]: row for row in found["headline"]}
    assert rows["ar"]["found"] == pytest.approx(37 / 12)
    assert (rows["ar-quantised"]["found"], rows["ar-quantised"]["met"]) == (None, None)
    assert rows["ar-quantised"]["of"] == f"{LLAMA}: xllamacpp is not installed"
    assert rows["floor"]["found"] is None
    assert found["absent"] == dict.fromkeys((LLAMA, suites.MEMORY), "xllamacpp is not installed")
    assert {load for load, _, _ in log} == {"bfloat16", "bfloat16 int8", "bfloat16 int4", TRANSFORMERS}
    assert {one["way"] for one in found["samples"]} == {"ar", "plain", "prompt lookup"}


def test_a_peer_that_dies_is_left_out_from_then_on() -> None:
    log = list[Any]()
    found = run_headline(FAST, texts(), {}, starter(log, dies={TRANSFORMERS: 20}))
    assert found["absent"] == {TRANSFORMERS: "the process ended: out of memory"}
    assert sum(load == TRANSFORMERS for load, _, _ in log) == 21
    assert {row["row"] for row in found["headline"] if row["found"] is not None} >= {"code", "chat", "auto"}


def test_without_our_own_model_there_is_nothing_to_measure() -> None:
    made = list[Fake]()

    def start(load: Any) -> Fake:
        made.append(starter([], missing=["bfloat16"])(load))
        return made[-1]

    with pytest.raises(ValueError, match="bfloat16 cannot run: xllamacpp is not installed"):
        run_headline(FAST, texts(), {}, start)
    assert len(made) == 7
    assert all(peer.closed for peer in made)


def test_the_grid_crosses_everything_and_finds_where_ar_wins() -> None:
    settings = Settings(
        model="m",
        rounds=2,
        tokens=64,
        kinds=("code", "chat"),
        modes=("ar", "adaptivespec", "fastdiffuser", "auto"),
        blocks=(4, 8),
        thresholds=(0.5, 0.9),
        batches=(1, 4, 16),
        quantize=("none", "int8"),
    )
    found = run_grid(settings, texts(), {}, starter([]))
    ways = [
        "ar",
        "adaptivespec 4",
        "adaptivespec 8",
        *(f"fastdiffuser {b}, {t}" for b in (4, 8) for t in (0.5, 0.9)),
        "auto",
    ]
    cells = {(row["load"], row["way"], row["batch"], row["kind"]) for row in found["medians"]}
    assert cells == {
        (load, way, batch, kind)
        for load in ("default", "int8")
        for way in ways
        for batch in (1, 4, 16)
        for kind in ("code", "chat")
    }
    # n at once take n ** 0.25 times as long in AR, n ** 0.9 times in others, which are 4 times quicker alone.
    assert found["crossover"]["default"]["ar_from"] == 16
    assert found["advice"]["int8"]["strategy"] == "adaptivespec"


def samples_of(speeds: dict[tuple[str, str], float], batch: int = 1) -> list[dict[str, Any]]:
    return [
        {"load": "x", "way": way, "kind": kind, "batch": batch, "speed": speed, "throughput": speed}
        for (way, kind), speed in speeds.items()
    ]


WAYS = fixed_ways(8)
tables = st.dictionaries(
    st.tuples(st.sampled_from([way.name for way in WAYS]), st.sampled_from(sorted(KINDS))),
    st.floats(0.1, 100),
    min_size=1,
)


@given(tables)
def test_the_advised_way_has_the_least_regret(speeds: dict[tuple[str, str], float]) -> None:
    kinds = {kind for _, kind in speeds}
    regret = dict[str, float]()
    for way in WAYS:
        if all((way.name, kind) in speeds for kind in kinds):
            best = {kind: max(s for (_, k), s in speeds.items() if k == kind) for kind in kinds}
            regret[way.name] = max(1 - speeds[way.name, kind] / best[kind] for kind in kinds)
    advice = advise(samples_of(speeds), "x", WAYS, [0.5])
    if regret.keys() <= {"ar"}:
        assert advice is None
        return
    assert advice is not None
    name = "ar" if advice.strategy == "ar" else f"{advice.strategy} {advice.draft_block_size}"
    assert regret[name] == pytest.approx(min(regret.values()), abs=1e-12)
    assert advise(samples_of(speeds), "y", WAYS, []) is None
    assert least(speeds, "auto") is None


@given(st.dictionaries(st.sampled_from([1, 2, 4, 8, 16]), st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=1))
def test_ar_is_advised_from_where_it_stays_ahead(speeds: dict[int, tuple[float, float]]) -> None:
    rows = [
        row
        for batch, pair in speeds.items()
        for row in samples_of({("ar", "all"): pair[0], ("adaptivespec 8", "all"): pair[1]}, batch)
    ]
    ahead = [n for n in speeds if all(ar >= other for m, (ar, other) in speeds.items() if m >= n)]
    assert ar_from(rows, "x", WAYS) == min(ahead, default=None)
    assert ar_from([row for row in rows if row["way"] == "ar"], "x", WAYS) is None
    assert crossover(rows, "x", WAYS)["ar_from"] == min(ahead, default=None)


rising = st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 4)), min_size=1, max_size=8).map(
    lambda steps: list(
        zip(np.cumsum([s for s, _ in steps]).tolist(), np.cumsum([n for _, n in steps]).tolist(), strict=True)
    )
)


@given(rising, rising)
def test_ahead_from_is_the_last_place_where_it_is_behind(one: list[Any], other: list[Any]) -> None:
    end = min(one[-1][1], other[-1][1])
    later = [reached(one, n) > reached(other, n) for n in range(1, end + 1)]
    found = ahead_from(one, other)
    if found is None:
        assert later[-1]
    else:
        assert not any(later[found - 1 :])
        assert found == 1 or later[found - 2]


@given(rising, st.floats(0, 1))
def test_waits_and_speeds(arrivals: list[Any], share: float) -> None:
    between = waits(arrivals)
    if between:
        whole = arrivals[-1][0] - arrivals[0][0]
        assert sum(between) == pytest.approx(whole)
        assert decode_speed(arrivals) == pytest.approx((arrivals[-1][1] - arrivals[0][1]) / whole)
        assert percentile(between, share) == np.quantile(between, share, method="inverted_cdf")
    else:
        assert decode_speed(arrivals) == 0.0
    assert reached(arrivals, arrivals[-1][1] + 1) == inf
    assert reached(arrivals, 1) == arrivals[0][0]


@given(st.lists(st.integers(0, 1), max_size=6), st.lists(st.integers(0, 1), max_size=6))
def test_common_starts(one: Sequence[int], other: Sequence[int]) -> None:
    length = shared((one, other))
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


def test_prompts_are_long_enough_or_the_longest_there_are() -> None:
    peer = starter([])(Load("bfloat16", "unmask"))
    chosen = prompts_of(peer, texts()["code"], 3, 100, 1000)
    assert [one.tokens for one in chosen] == [30, 40, 50]  # 10 is under a quarter, 20 does not fit
    few = prompts_of(peer, texts(3)["code"], 3, 100, 1000)
    assert [one.tokens for one in few] == [30, 10]
    with pytest.raises(ValueError, match="no prompt and 100 tokens fit the context of 50"):
        prompts_of(peer, texts()["code"], 3, 100, 50)


def test_ways() -> None:
    assert [way.strategy for way in fixed_ways(8)] == [
        ("ar", 1),
        ("linearspec", 8),
        ("quadspec", 4),
        ("adaptivespec", 4),
        ("adaptivespec", 8),
    ]
    assert [way.name for way in fixed_ways(2)] == ["ar", "linearspec 2", "quadspec 2", "adaptivespec 2"]
    assert grid_ways(["auto", "ar"], [8], [0.9]) == [AUTO, AR]
    with pytest.raises(ValueError, match="mode must be one of ar"):
        grid_ways(["sideways"], [8], [0.9])


def test_medians_and_means() -> None:
    base = {"load": "x", "way": "ar", "batch": 1, "kind": "code"}
    rows = [{**base, "speed": speed, "same_as_ar": same} for speed, same in ((1.0, True), (5.0, False), (2.0, True))]
    (row,) = medians([*rows, {**base, "speed": 9.0, "tpf": None}])
    assert (row["samples"], row["speed"], row["same_as_ar"]) == (4, median([1, 5, 2, 9]), pytest.approx(2 / 3))
    assert "tpf" not in row


def test_tables_and_picture(found: dict[str, Any]) -> None:
    titles = [str(table.title) for table in benchmark(found)]
    assert titles[0] == "the goals of issue 6"
    assert titles[1:4] == [f"{kind}: medians of 3" for kind in KINDS]
    figure = picture(found)
    assert [axis.get_title() for axis in figure.axes] == list(KINDS)
    assert [len(axis.patches) for axis in figure.axes] == [3 * 6 + 5] * 3


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "remote", lambda threads: starter([]))
    monkeypatch.setattr("unmask.cli.bench.drawn", lambda kind, seed: texts()[kind])
    monkeypatch.setattr("unmask.cli.bench.pull_with_progress", lambda name: name)


def test_the_verb(faked: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    words = ["bench", "--rounds", "1", "--tokens", "32", "--threads", "2", "--out", str(file)]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text(encoding="utf-8"))
    assert (found["suite"], found["model"], found["machine"]["threads"]) == ("headline", "smollm2-135m", 2)
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert run(["bench", "--suite", "grid", "--rounds", "1", "--tokens", "32", "--kind", "chat", "--batch", "1"]) == 0
    assert "chat: medians of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "best"], "suite must be one of headline, grid, got 'best'"),
        (["--batch", "2"], "--batch does not apply to suite 'headline'"),
        (["--suite", "grid", "--row", "ar"], "--row does not apply to suite 'grid'"),
        (["--row", "speed"], "row must be one of ar, ar-quantised"),
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--suite", "grid", "--block", "0"], "blocks must be at least 1, got 0"),
        (["--suite", "grid", "--mode", "fast"], "mode must be one of ar"),
        (["--kind", "poetry"], "kind must be one of code, chat, editing, got 'poetry'"),
        (["--out", "/no/such/folder/x.json"], "no folder /no/such/folder"),
    ],
)
def test_mistakes(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.cli.bench.pull_with_progress", lambda name: name)
    assert run(["bench", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
