"""`unmask batch --ray`: replies of two replicas are those of one model, and a killed one loses and doubles no line.

Ray starts once, and a few processes that load the model, which takes minutes on a small machine. Skipped without the
extra `ray`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import WAYS
from tests.server.test_batch import chat, done, line, once, read, without_clock, written
from unmask import LM
from unmask.cli import run
from unmask.server import Settings
from unmask.server.batch import Batch, Summary, gathered
from unmask.server.batch_ask import BrokenOffError
from unmask.server.batch_files import opened, requests

WHY = "needs Ray Data: pip install 'unmask[ray]'"
for needed in ("ray", "pandas", "pyarrow"):
    pytest.importorskip(needed, reason=WHY)
psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are no concern of ours


@pytest.fixture(scope="module")
def lm(tiny_folder: Path) -> LM:
    return LM.load(tiny_folder, dtype="float32", exactness="exact", max_live=4)


@pytest.fixture(scope="module", autouse=True)
def connected() -> Iterator[None]:
    from unmask.server import cluster

    with cluster.connected():
        yield


def replies(out: Path) -> dict[Any, Any]:
    """Name or number of a line -> its result, without what differs from one time to the next."""
    found = dict[Any, Any]()
    for result in read(out):
        name = result["custom_id"] or result["error"]["line"]
        assert name not in found
        response = result["response"]
        if response is not None:
            response = (response["status_code"], without_clock(response["body"]))
        found[name] = (response, result["error"])
    return found


def test_two_replicas_answer_as_one_model(
    lm: LM, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.server.cluster.connected", nullcontext)  # it is
    asked = [line(f"{n}", **way) for n, way in enumerate(WAYS)]
    asked += [line(f"sampled {n}", temperature=0.9, seed=7, **way) for n, way in enumerate(WAYS)]
    asked += [chat("chat", temperature=0), line("refused", max_tokens=0)]
    asked.append(line("many", prompt=["a\0", "ü"], n=2, seed=1))
    source = written(tmp_path / "in", [*asked, "{", {"method": "POST"}])
    settings = ["--model", str(tiny_folder), "--served-model-name", "tiny", "--dtype", "float32", "--exactness=exact"]
    files = ["batch", str(source), str(tmp_path / "there")]
    assert run([*files, *settings, "--ray", "--replicas", "2", "--max-concurrent", "2", "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["succeeded"], found["failed"], found["left"]) == (2 * len(WAYS) + 2, 3, 0)
    done(lm, source, tmp_path / "here")
    assert replies(tmp_path / "there") == replies(tmp_path / "here")


def test_a_worker_answers_the_lines_of_a_task_together(tiny_folder: Path, tmp_path: Path) -> None:
    from unmask.server.batch_ray import Worker, dumped

    worker = Worker({"name": str(tiny_folder), "dtype": "float32", "max_live": 2}, Settings())
    asked = [line(f"{n}", max_tokens=20, ignore_eos=True, generation_mode="ar") for n in range(4)]
    lines = list(requests(written(tmp_path / "in", [*asked, "{"])))
    (found,) = worker({"asked": [dumped(lines)]})["results"]
    assert [result["custom_id"] for result in json.loads(found)] == ["0", "1", "2", "3", None]
    assert worker.asking.service.worker.steps < 4 * 20, "they share forwards"
    worker.wait_for(worker.asking.stop())


def busiest() -> int:
    """The process that has answered most lines for this one."""
    found = [each for each in psutil.Process().children(recursive=True) if "ray::MapWorker" in " ".join(each.cmdline())]
    pid: int = max(found, key=lambda each: each.cpu_times().user).pid
    return pid


def test_nothing_is_lost_or_doubled_with_a_worker(lm: LM, tiny_folder: Path, tmp_path: Path) -> None:
    from unmask.server.batch_ray import results
    from unmask.server.cluster import Fleet, processors

    loading = {"name": str(tiny_folder), "dtype": "float32", "exactness": "exact", "max_live": 1}
    fleet = Fleet(loading=loading, settings=Settings(names=("tiny",)), least=2, most=2, cpus=processors() / 2)
    asked = [line(f"{n}", prompt=f"{n} the", max_tokens=30, ignore_eos=True, generation_mode="ar") for n in range(24)]
    source, out, killed = written(tmp_path / "in", asked), tmp_path / "out", list[int]()

    def stop(batch: Batch, summary: Summary) -> None:
        if summary.succeeded == 3:
            batch.stop()

    def kill(summary: Summary) -> None:
        if summary.succeeded == 5:
            killed.append(busiest())
            os.kill(killed[0], signal.SIGKILL)

    begun = done(lm, source, out, told=stop).succeeded
    with opened(source, out) as found:
        lines = [asked for asked in requests(source) if asked.key not in found.done]
        rest = gathered(results(fleet, lines), found, kill)
    assert len(killed) == 1
    assert (rest.skipped, rest.succeeded, rest.left) == (begun, 24 - begun, 0)
    once(source, out)
    done(lm, source, tmp_path / "alone")
    assert replies(out) == replies(tmp_path / "alone")


def test_a_model_that_does_not_load_is_one_clean_line(tmp_path: Path) -> None:
    from unmask.server.batch_ray import results
    from unmask.server.cluster import Fleet

    fleet = Fleet(loading={"name": "no-such-model", "max_live": 1}, settings=Settings(), least=1, most=1, cpus=0.5)
    source = written(tmp_path / "in", [line("a")])
    with opened(source, tmp_path / "out") as found, pytest.raises(BrokenOffError, match=r"Ray gives up: .*no-such-"):
        gathered(results(fleet, list(requests(source))), found)
    assert read(tmp_path / "out") == []
