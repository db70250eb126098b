"""docs/server.md: its tables are those of the code, its examples run."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess

import pytest

from scripts.server_docs import PAGE, filled
from tests.server.serving import Running


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_tables_are_made_from_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "run  python scripts/server_docs.py"


@pytest.mark.parametrize("script", blocks("sh"))
def test_curl_examples(server: Running, script: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    run = subprocess.run(["sh", "-c", f"SERVER={server.url}\n{script}"], capture_output=True, text=True, check=True)
    if '"stream": true' in script:
        assert run.stdout.rstrip().endswith("data: [DONE]")
    else:
        assert json.loads(run.stdout)["choices"]


@pytest.mark.parametrize("code", blocks("py"))
@pytest.mark.filterwarnings("ignore:unclosed")  # examples do not clutter themselves with closing
def test_python_examples(server: Running, code: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, str(PAGE), "exec"), {"server": server.url})
    assert said.getvalue()
