"""`unmask view`: one page that holds everything, takes nothing from outside, and lets no text become markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import webbrowser
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.cli import run
from unmask.view.page import Page, joined, page, playground
from unmask.view.replay import read_events, replay

HERE = Path(__file__).parent
HOSTILE = "</script><script>alert(1)</script><!--<script>\u0000\u001b\u2028]]>&lt;\ud7ff\U0001f600"


class Elements(HTMLParser):
    """Elements of a page in order: (name, attributes, text inside)."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found = list[tuple[str, dict[str, str | None], list[str]]]()
        self.open = False  # whether the last element has not been closed, nor another one inside it
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes), []))
        self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found[-1][2].append(data)

    def of(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(parts)) for tag, attributes, parts in self.found if tag == name]


def write(path: Path, *events: dict[str, Any], end: str = "\n") -> Path:
    path.write_text("\n".join(map(json.dumps, events)) + end, encoding="utf-8")
    return path


HEAD = {"object": "unmask.trace", "version": 1}
START = {"object": "unmask.start", "index": 0, "title": "ar", "prompt": "the"}
STEP = {
    "object": "unmask.step", "index": 0, "seconds": 0.1, "step": 1, "nfe": 0, "prefills": 1, "rows": 1, "text": "a",
    "token_details": [{"id": 1, "token": "a", "step": 1, "confidence": None, "revisions": 0}], "frame": None,
}  # fmt: skip


def test_the_page_holds_everything_and_asks_nobody(tmp_path: Path) -> None:
    text = replay([write(tmp_path / "one.jsonl", HEAD, START, STEP)])
    elements = Elements(text)
    assert not re.findall(r"https?://", text)
    for _, attributes, _ in elements.found:
        assert not attributes.keys() & {"src", "srcset", "action", "onclick", "onload", "style"}
        assert attributes.get("href") in (None, "data:,")
    assert [attributes["type"] for attributes, _ in elements.of("script")] == ["application/json", "module"]
    policy = next(a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy


def sha(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("made", [page("viewer", "t", data=[]), playground()], ids=["viewer", "playground"])
def test_the_policy_allows_what_is_there_and_no_more(made: Page) -> None:
    elements = Elements(made.html)
    scripts = [text for attributes, text in elements.of("script") if attributes["type"] == "module"]
    styles = [text for _, text in elements.of("style")]
    assert (len(scripts), len(styles)) == (1, 1)
    assert f"script-src {sha(scripts[0])};" in made.policy
    assert f"style-src {sha(styles[0])};" in made.policy
    assert "frame-ancestors 'none'" in made.policy


@pytest.mark.parametrize("entry", ["viewer.mjs", "playground.mjs"])
def test_modules_are_joined_into_one(entry: str, tmp_path: Path) -> None:
    script = joined(entry)
    assert not re.search(r"^\s*(import|export)\b", script, flags=re.MULTILINE)
    assert script.count("export class Run") + script.count("class Run ") == 1
    assert "</script" not in script.lower()
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script, flags=re.MULTILINE)
    assert len(names) == len(set(names)), "one name for two things"
    assert ".innerHTML" not in script
    assert "insertAdjacentHTML" not in script


@given(st.text() | st.just(HOSTILE))
def test_no_text_becomes_markup(text: str) -> None:
    data = [{"name": text, "events": [{"prompt": text}]}]
    made = Elements(page("viewer", text, data=data).html)
    plain = Elements(page("viewer", "t", data=[]).html)
    assert [name for name, _, _ in made.found] == [name for name, _, _ in plain.found]
    (held,) = [inside for attributes, inside in made.of("script") if attributes.get("id") == "data"]
    assert json.loads(held) == data


def test_a_killed_run_can_be_looked_at(tmp_path: Path) -> None:
    whole = write(tmp_path / "one.jsonl", HEAD, START, STEP, STEP)
    data = whole.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(data)):
        whole.write_bytes(data[:cut])
        assert len(read_events(whole)) == (4 if cut == len(data) - 1 else 3)


def test_a_saved_stream_is_read_too(tmp_path: Path) -> None:
    stream = tmp_path / "stream.txt"
    chunk = {"object": "text_completion", "choices": [{"index": 0, "text": "a", "finish_reason": None}]}
    stream.write_text(f": keep-alive\n\nevent: x\ndata: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", encoding="utf-8")
    assert read_events(stream) == [chunk]


def test_a_broken_models_numbers_do_not_break_the_page(tmp_path: Path) -> None:
    token = {"id": 1, "token": "a", "step": 1, "confidence": float("nan"), "revisions": 0}
    text = replay(
        [write(tmp_path / "one.jsonl", HEAD, START, STEP | {"token_details": [token], "seconds": float("inf")})]
    )
    held = Elements(text).of("script")[0][1]
    assert json.loads(held, parse_constant=pytest.fail)[0]["events"][2]["token_details"][0]["confidence"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no generation in it"),
        ("hello\n", "line 1: not a trace"),
        ("[1]\n", "line 1: not an event"),
        ('{"object": "other"}\n', "line 1: not an event"),
        ('{"object": "unmask.trace", "version": 2}\n', "line 1: trace version 2, and this unmask reads version 1"),
        ('{"object": "unmask.step", "frame": {"version": 9}}\n', "line 1: frame version 9"),
        (json.dumps(HEAD) + "\n{\n" + json.dumps(STEP) + "\n", "line 2: not a trace"),
        (json.dumps(HEAD) + "\n", "there is no generation in it"),
    ],
)
def test_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    (tmp_path / "one.jsonl").write_text(text, encoding="utf-8")
    assert run(["view", str(tmp_path / "one.jsonl")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "one.html").exists()


def test_view_writes_beside_the_trace_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write(tmp_path / "one.jsonl", HEAD, START, STEP)
    two = write(tmp_path / "two.jsonl", HEAD, START, STEP)
    assert run(["view", str(one)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "one.html")
    opened = list[str]()
    monkeypatch.setattr(webbrowser, "open", lambda url: not opened.append(url))  # type: ignore[func-returns-value]
    assert run(["view", str(one), str(two), "--out", str(tmp_path / "both.html"), "--open"]) == 0
    assert opened == [(tmp_path / "both.html").as_uri()]
    held = Elements((tmp_path / "both.html").read_text(encoding="utf-8")).of("script")[0][1]
    assert [file["name"] for file in json.loads(held)] == ["one", "two"]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert run(["view", str(one), "--open"]) == 2
    assert run(["view", str(one), "--out", str(one)]) == 2
    assert "is one of the traces" in capsys.readouterr().err
    assert read_events(one)
    assert run(["view", str(tmp_path / "none.jsonl")]) == 2


@pytest.mark.parametrize("verb", ["generate", "chat", "demo", "fill", "patch"])
def test_every_verb_that_generates_can_leave_a_trace(
    verb: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gap.txt").write_text("the <FILL> a", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("the\nthe\n"))
    arguments = {
        "generate": ["the", "a", "--json", "-n", "4"],
        "chat": ["-n", "4"],
        "demo": ["-n", "4"],
        "fill": ["gap.txt", "--untrained", "-n", "4"],
        "patch": ["gap.txt", "--marker", "<FILL>", "--untrained", "-n", "4", "--candidates", "1"],
    }[verb]
    model = ["--model", str(tiny_folder), "--dtype", "float32", "--trace", "out.jsonl"]
    # A patch that nothing accepts has code 1, and a trace all the same.
    assert run([verb, *arguments, *model]) in ((0, 1) if verb == "patch" else (0,)), capsys.readouterr().err
    events = read_events(Path("out.jsonl"))
    starts = [event for event in events if event["object"] == "unmask.start"]
    titles = ["ar", "fastdiffuser", "linearspec", "quadspec", "adaptivespec", "auto"]
    expected = {"generate": ["", ""], "chat": ["", ""], "demo": titles, "fill": [""]}
    assert [start["title"] for start in starts] == expected.get(verb, [start["title"] for start in starts])
    assert run(["view", "out.jsonl"]) == 0
    assert run([verb, *arguments, *model[:-1], "no/such/folder"]) == 2
    assert "no/such/folder" in capsys.readouterr().err


def test_assets_are_in_the_package() -> None:
    kept = {file.name for file in files("unmask.view").joinpath("page").iterdir()}
    assert kept >= {"style.css", "viewer.html", "viewer.mjs", "playground.html", "playground.mjs", "run.mjs"}


@pytest.mark.skipif(shutil.which("node") is None, reason="the pages' own logic is tested under node, which is not here")
def test_the_pages_own_logic() -> None:
    done = subprocess.run(["node", "--test", str(HERE / "run.test.mjs")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
