"""The docs site: it builds without a warning, formulas and the API are in it, and every page can be reached."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if missing := [name for name in ("material", "mkdocstrings_handlers", "latex2mathml") if find_spec(name) is None]:
    pytest.skip(f"{', '.join(missing)}: not installed (the extra docs)", allow_module_level=True)

from scripts.docs_hooks import on_page_markdown  # noqa: E402  (it needs the extra)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout
    pages = {page.parent.name: page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("index.html")}
    assert pages.keys() == {"site", *(page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index")}
    for name in ("load", "generate", "stream", "fill"):
        assert f'id="unmask.lm.lm.LM.{name}"' in pages["api"]
    assert pages["training"].count("<math") > 10
    assert not re.search(r'(src|href)="(https?:)?//(?!localhost)[^"]*\.(js|css|woff2?)', "".join(pages.values()))
    front = pages["site"]
    for name in pages.keys() - {"site"}:
        assert f'href="{name}/"' in front, f"{name} is not in the navigation: add it to mkdocs.yml"


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [
        ("a $x_1$ b", "a <math", "</math> b"),
        ("$$\nL = 1\n$$", '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">', "</math>"),
        ("`$x$` and $5 or $6 alone", "`$x$` and $5 or $6 alone", "alone"),
        ("```sh\necho $A $B\n```\n", "```sh\necho $A $B\n```", "```\n"),
        ("````text\n```\n$a$\n```\n````\n", "````text\n```\n$a$", "````\n"),
        ("[`runs/tiny.sh`](../runs/tiny.sh), [x](y.md)", "`runs/tiny.sh`, ", "[x](y.md)"),
    ],
)
def test_pages_are_made_ready(text: str, begins: str, ends: str) -> None:
    made = on_page_markdown(text)
    assert made.startswith(begins)
    assert made.endswith(ends)
    assert ("<math" in made) == ("<math" in begins)
