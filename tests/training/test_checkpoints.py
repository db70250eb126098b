"""Checkpoints are whole or not there, whenever the process dies; wrong folders and full disks cost one clear line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.training import checkpoints, files
from unmask.training.files import replace_folder, write_json
from unmask.training.log import Log, read


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it runs, not even clean-up."""


def state(step: int, score: float | None = None) -> dict[str, Any]:
    return {"step": step, "tokens": 10 * step, "seconds": 0.5, "cursor": {"next": step}, "score": score}


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"weight.a": torch.full((3, 2), float(step)), "generator": torch.get_rng_state()}


def test_saved_and_read_back(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, tensors(5), state(5), 2)
    (found,) = checkpoints.saved(tmp_path)
    assert (found.step, found.state["cursor"], found.score) == (5, {"next": 5}, None)
    back = found.tensors()
    assert torch.equal(back["weight.a"], tensors(5)["weight.a"])
    assert back["generator"].dtype == torch.uint8


def test_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    for step, score in enumerate([5.0, 1.0, None, 4.0, 3.0], 1):
        checkpoints.save(tmp_path, tensors(step), state(step, score), 2)
    assert [item.step for item in checkpoints.saved(tmp_path)] == [2, 4, 5]
    best = checkpoints.best_of(checkpoints.saved(tmp_path))
    assert best is not None
    assert best.step == 2
    assert checkpoints.best_of([]) is None


STEPS: list[tuple[Any, str]] = [
    (os, "fsync"),
    (Path, "rename"),
    (Path, "mkdir"),
    (shutil, "rmtree"),
    (Path, "write_text"),
]


@pytest.mark.parametrize(("where", "name"), STEPS)
@pytest.mark.parametrize("call", range(5))
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: int
) -> None:
    """The process dies in the n-th call that touches the disk; the next one finds step 1 or step 2, whole."""
    checkpoints.save(tmp_path, tensors(1), state(1), 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a dead process cleans nothing up
        plain, left = getattr(where, name), [call]

        def dies(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return plain(*args, **kwargs)

        patch.setattr(where, name, dies)
        try:
            checkpoints.save(tmp_path, tensors(2), state(2), 1)
            died = False
        except Killed:
            died = True
    found = checkpoints.saved(tmp_path)
    assert found[-1].step in ((1, 2) if died else (2,))
    for item in found:
        assert torch.equal(item.tensors()["weight.a"], tensors(item.step)["weight.a"])
    checkpoints.save(tmp_path, tensors(3), state(3), 1)  # and the run goes on, leaving no rubbish
    assert [item.step for item in checkpoints.saved(tmp_path)] == [3]
    assert [entry.name for entry in (tmp_path / "steps").iterdir()] == ["000003"]


def test_a_folder_that_is_replaced_comes_back_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    with replace_folder(folder) as new:
        (new / "a").write_text("1")
    folder.rename(tmp_path / f"{files.REPLACED}adapter")
    with pytest.raises(RuntimeError), replace_folder(folder):
        raise RuntimeError
    assert (folder / "a").read_text() == "1"
    with replace_folder(folder) as new:
        (new / "b").write_text("2")
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]
    assert [entry.name for entry in folder.iterdir()] == ["b"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left")])
def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    checkpoints.save(tmp_path, tensors(1), state(1), 1)

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match=r"disk full: .*000002 was not written, what was there is unchanged"):
        checkpoints.save(tmp_path, tensors(2), state(2), 1)
    assert [item.step for item in checkpoints.saved(tmp_path)] == [1]
    assert [entry.name for entry in (tmp_path / "steps").iterdir()] == ["000001"]


def in_parts(run: Path, step: int, tensors: dict[str, torch.Tensor], broken: int | None = None) -> list[Exception]:
    """`save_part` in three processes, played by threads; in the broken one the disk is full."""
    meeting, votes, errors = threading.Barrier(3), [False] * 3, list[Exception]()

    def process(rank: int) -> None:
        def anyone(wish: bool) -> bool:
            votes[rank] = wish
            meeting.wait(10)
            found = any(votes)
            meeting.wait(10)
            return found

        mine = {name: tensor.tensor_split(3)[rank] for name, tensor in tensors.items()}
        if rank == broken:
            mine["full"] = FullDisk()  # type: ignore[assignment]
        try:
            checkpoints.save_part(run, mine, state(step), 1, (rank, 3), anyone)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


class FullDisk:
    def detach(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_in_parts(tmp_path: Path) -> None:
    whole = {"a": torch.randn(5, 2), "b": torch.randn(1)}  # of b, two parts are empty
    assert in_parts(tmp_path, 1, whole) == []
    (found,) = checkpoints.saved(tmp_path)
    assert sorted(found.tensors()) == ["a", "b"]
    assert all(torch.equal(found.tensors()[name], tensor) for name, tensor in whole.items())
    # One process cannot write: all of them say so, and the checkpoint from before is still there.
    errors = sorted(map(str, in_parts(tmp_path, 2, whole, broken=1)))
    assert len(errors) == 3
    assert sum("disk full" in error for error in errors) == 1
    assert sum("another process could not write its part" in error for error in errors) == 2
    assert [item.step for item in checkpoints.saved(tmp_path)] == [1]
    (tmp_path / "steps" / "000001" / "tensors-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="2 of 3 files of tensors are there"):
        checkpoints.saved(tmp_path)[0].tensors()


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ours = {"base": "a", "settings": {"length": 8, "blocks": {"sizes": (1, 2)}}}
    checkpoints.begin(run, ours)
    checkpoints.begin(run, ours)
    other = {"base": "a", "settings": {"length": 9, "blocks": {"sizes": (1, 2)}}}
    with pytest.raises(ValueError, match=r"belongs to another run: settings\.length was 8, now 9; give another folder"):
        checkpoints.begin(run, other)
    with pytest.raises(ValueError, match=r"settings is only in its settings"):
        checkpoints.begin(run, {"base": "a"})
    checkpoints.begin(run, ours | {"new": 1}, defaults={"new": 1})  # a setting that the run began without
    checkpoints.begin(run, ours | {"base": "b"}, free=["base"])
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        checkpoints.begin(tmp_path / "else", ours)
    (run / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not a run of unmask"):
        checkpoints.begin(run, ours)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "state.json").write_text("{"), "is broken"),
        (lambda f: (f / "state.json").write_text(json.dumps({"version": 9, "step": 1})), "has version 9, expected 1"),
        (lambda f: (f / "tensors.safetensors").write_bytes(b"0" * 40), "is broken.*remove that folder to go on"),
        (lambda f: (f / "tensors.safetensors").unlink(), "is broken"),
    ],
)
def test_broken_checkpoints_are_named(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    folder = checkpoints.save(tmp_path, tensors(1), state(1), 1)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        checkpoints.saved(tmp_path)[-1].tensors()


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    log = Log(file, 0)
    for step in range(1, 5):
        log.write({"step": step, "loss": 1.5})
    with file.open("a") as handle:
        handle.write('{"step": 5, "lo')  # killed while writing
    assert [line["step"] for line in read(file)] == [1, 2, 3, 4]
    again = Log(file, 3)
    again.write({"step": 4, "loss": 2.0})
    assert [(line["step"], line["loss"]) for line in read(file)] == [(1, 1.5), (2, 1.5), (3, 1.5), (4, 2.0)]


def test_json_files_are_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
