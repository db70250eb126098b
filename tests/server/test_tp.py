"""`unmask serve --tp 2`: the same ids over HTTP, and an end with a reason when one of the processes is gone."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.server.serving import WAYS, as_options, events, wait_until
from tests.server.test_life import Process
from unmask import LM

BODY = {"prompt": "the", "temperature": 0, "max_tokens": 16, "ignore_eos": True}


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
def test_one_model_on_two_processes(tiny_folder: Path, alone: LM) -> None:
    flags = ("--tp", "2", "--dtype", "float32", "--exactness", "exact")
    with Process(tiny_folder, *flags) as one:
        followers = children(one.process.pid)
        assert len(followers) == 1
        for way in WAYS:
            choice = httpx.post(f"{one.url}/completions", json=BODY | way, timeout=60).json()["choices"][0]
            expected = alone.generate("the", max_tokens=16, ignore_eos=True, **as_options(way))
            assert choice["text"] == expected.text
        body = BODY | {"max_tokens": 250, "generation_mode": "ar", "stream": True}
        with httpx.stream("POST", f"{one.url}/completions", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            first = next(lines)
            os.kill(followers[0], signal.SIGKILL)
            found = events(iter([first, *lines]))
        assert found[-1] == (None, "[DONE]")
        assert found[-2][1]["error"]["code"] == "internal_error"
        assert one.process.wait(30) == 1
        wait_until(lambda: any("ended (killed by SIGKILL); the server has ended" in line for line in one.said))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_others_end_with_the_first(tiny_folder: Path, how: signal.Signals) -> None:
    with Process(tiny_folder, "--tp", "2", "--dtype", "float32") as one:
        (follower,) = children(one.process.pid)
        one.process.send_signal(how)
        assert one.process.wait(20) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{follower}").exists() or "Z" in status(follower))


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
