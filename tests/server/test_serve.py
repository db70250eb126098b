"""`unmask serve` started wrongly: one line and exit code 2, before anything is loaded where that is possible."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from unmask.cli import run


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert run(["serve", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("unmask: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--replicas", "2"], "--replicas, --max-replicas and --cpus-per-replica need --ray"),
        (["--log-format", "xml"], "log format must be 'text' or 'json', got 'xml'"),
        (["--max-body-bytes", "0"], "body_bytes must be above 0"),
        (["--max-queue", "-1"], "max_queue must be 0 or more"),
        (["--request-seconds", "-1"], "request_seconds must be above 0"),
        (["--max-context", "1"], "max_context must be at least 2"),
        (["--host", "no such host"], "cannot serve on host 'no such host'"),
        (["--port", "70000"], "port must be between 0 and 65535, got 70000"),
        (["--api-key-file", "/nowhere"], "No such file"),
        (["--model-path", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_wrong_flags(capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert message in refused(capsys, "--port", "0", *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--generation-mode", "fast"], "mode must be one of ar, fastdiffuser"),
        (["--confidence-threshold", "2", "-m", "fastdiffuser"], "confidence_threshold must be between 0 and 1"),
        (["--max-concurrent", "0"], "max_live must be at least 1"),
        (["--tp", "3"], "tp must divide the heads (4), key heads (2) and MLP width (48)"),
    ],
)
def test_wrong_defaults(capsys: pytest.CaptureFixture[str], tiny_folder: Path, flags: list[str], message: str) -> None:
    assert message in refused(capsys, "--port", "0", "--model-path", str(tiny_folder), *flags)


def test_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot serve on 127.0.0.1 port {port}" in refused(capsys, "--port", str(port))


def test_an_empty_key_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "UNMASK_API_KEYS", "")
    assert "UNMASK_API_KEYS is set but holds no key" in refused(capsys, "--port", "0")
