"""The picture of a run, and its TensorBoard events, from what the loop logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unmask.training.plot import can_plot, plot_run, thinned
from unmask.training.tensorboard import Board, scalars

PNG = b"\x89PNG"


def line(step: int, **more: Any) -> dict[str, Any]:
    """What a step of an adapter's run logs."""
    return {
        "loss": 3.0 / step,
        "ar": 0.0,
        "ar_count": 100,
        "draft": 200.0 / step,
        "draft_weight": 100.0,
        "denoise": 0.0,
        "denoise_weight": 0.0,
        "lr": 1e-3,
        "norm": 1.0,
        "step": step,
        "tokens": 512 * step,
        "tokens_per_second": 900.0,
    } | more


def write(run: Path, lines: list[dict[str, Any]]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return run


def test_a_run_becomes_a_picture(tmp_path: Path) -> None:
    measured = {"ar_nll": 2.5, "nelbo": 3.0, "tokens_per_round": 1.5}
    lines = [line(step, **({"eval": measured} if step % 10 == 0 else {})) for step in range(1, 41)]
    wide = plot_run(write(tmp_path / "one", lines), tmp_path / "one.png").read_bytes()
    narrow = plot_run(write(tmp_path / "two", lines[:9]), tmp_path / "two.png").read_bytes()
    assert wide[:4] == narrow[:4] == PNG
    assert int.from_bytes(wide[16:20], "big") > int.from_bytes(narrow[16:20], "big"), "a second panel"


def test_odd_logs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_run(write(tmp_path / "empty", []), tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
    nothing = line(1, draft_weight=0.0, eval={"other": 1.0})
    assert plot_run(write(tmp_path / "bare", [nothing]), tmp_path / "bare.png").read_bytes()[:4] == PNG


def test_long_curves_are_means() -> None:
    x, y = thinned([float(i) for i in range(1000)], [2.0] * 1000)
    assert len(x) == len(y) <= 400
    assert x[0] == 1.0
    assert set(y) == {2.0}
    assert thinned([1.0, 2.0], [3.0, 4.0]) == ([1.0, 2.0], [3.0, 4.0])


def test_no_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_plot()
    monkeypatch.setattr("unmask.training.plot.find_spec", lambda name: None)
    assert not can_plot()


def test_scalars_are_per_token() -> None:
    found = scalars(line(2, ar=50.0, eval={"nelbo": 3.0, "acceptance": [0.9, 0.5], "accuracy_by_ratio": [[0.1, 1, 2]]}))
    assert (found["losses/ar"], found["losses/draft"], found["train/lr"]) == (0.5, 1.0, 1e-3)
    assert "losses/denoise" not in found, "there was none"
    assert (found["heldout/nelbo"], found["acceptance/slot 02"]) == (3.0, 0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_events_are_read_back(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    assert not (tmp_path / "board").exists(), "nothing before the first step"
    for step in (1, 2, 3):
        board(line(step))
    board.close()
    again = Board(tmp_path / "board")  # a run that goes on after step 1
    again(line(2, loss=7.0))
    again.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("losses/total")] == [(1, 3.0), (2, 7.0)]


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.training.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need the extra 'train': pip install 'unmask\[train\]'"):
        Board(tmp_path)
    assert not any(tmp_path.iterdir())
