"""The pages in a real browser: replay, keys, themes, a live server, cancelling; and the screenshots of the docs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import Running, running, wait_until
from tests.tinymodel import MASK, VOCABULARY, write_model
from unmask.server import Settings
from unmask.view.page import playground
from unmask.view.replay import replay

pytestmark = pytest.mark.slow
DEMO = Path(__file__).parent / "demo.jsonl"  # SmolLM2-135M with its starter adapter: three modes, one prompt
END = VOCABULARY - 3  # the token that ends a gap
LARGEST = 150_000  # bytes of a screenshot in the docs
SECONDS = 30.0
SHADED = "getComputedStyle(document.body).backgroundColor"
HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>\u001b\u202e"


class Shown:
    """A page in the browser. Nothing may go wrong in it that nobody sees, and nothing be fetched from elsewhere."""

    def __init__(self, browser: Any, theme: str, url: str) -> None:
        self.page = browser.new_page(color_scheme=theme, viewport={"width": 1200, "height": 720})
        self.problems, self.asked = list[str](), list[str]()
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.goto(url)

    def one(self, name: str) -> Any:
        return self.page.locator(f"[data-{name}]")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def place(self) -> str:
        return str(self.one("place").text_content())

    def texts(self) -> list[str]:
        return [str(text) for text in self.page.locator(".lane:not(.shared) .text").all_text_contents()]

    def until(self, name: str, text: str, seconds: float = SECONDS) -> None:
        wait_until(lambda: self.pump() and text in str(self.one(name).text_content()), seconds)

    def pump(self) -> bool:
        self.page.wait_for_timeout(20)
        return True

    def picture(self, path: Path) -> None:
        data = self.page.screenshot(path=path)
        assert len(data) < LARGEST


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def replayed(chromium: Any, theme: str, tmp_path: Path) -> Iterator[Shown]:
    (tmp_path / "demo.html").write_text(replay([DEMO]), encoding="utf-8")
    shown = Shown(chromium, theme, (tmp_path / "demo.html").as_uri())
    yield shown
    shown.page.close()
    assert not shown.problems
    assert [url for url in shown.asked if not url.startswith("data:")] == [(tmp_path / "demo.html").as_uri()]


def test_a_replay_by_keys(replayed: Shown, theme: str, images: Path) -> None:
    assert replayed.place == "forward 0 of 40"
    assert replayed.texts() == ["", "", ""]
    replayed.press(*["ArrowRight"] * 9)
    assert replayed.place == "forward 9 of 40"
    assert "forward 9 of 40. ar: forward 9 · 9 tokens" in replayed.one("said").text_content()
    assert replayed.page.locator(".mask").count() > 1  # one is in the legend
    assert replayed.page.locator("del.rejected").count() > 1
    assert replayed.page.locator(".accepted").count() > 1
    replayed.picture(images / f"viewer-{theme}.png")
    replayed.press("ArrowLeft")
    assert replayed.place == "forward 8 of 40"
    replayed.press("End")
    ends = [json.loads(line) for line in DEMO.read_text(encoding="utf-8").splitlines()]
    assert replayed.texts() == [event["text"] for event in ends if event["object"] == "unmask.end"]
    assert "tokens per forward" in replayed.page.locator(".rest").first.text_content()
    replayed.press("Home")
    assert replayed.place == "forward 0 of 40"


def test_a_replay_by_itself_and_by_hand(replayed: Shown) -> None:
    replayed.press("+", "+", "+", "Space")
    assert replayed.one("play").get_attribute("aria-label") == "Pause"
    replayed.until("place", "forward 40 of 40")
    assert replayed.one("play").get_attribute("aria-label") == "Play"
    slider = replayed.one("slider")
    slider.focus()
    replayed.press("ArrowLeft")  # the slider's own key: one step and no more
    assert replayed.place == "forward 39 of 40"
    assert slider.get_attribute("aria-valuetext") == "forward 39 of 40"
    slider.fill("12")
    assert replayed.place == "forward 12 of 40"
    replayed.one("axis").select_option("seconds")
    assert " s of " in replayed.place
    replayed.one("speed").select_option("0.25")
    replayed.one("play").click()
    replayed.one("play").click()
    assert replayed.one("play").get_attribute("aria-label") == "Play"


def test_every_control_can_be_reached_and_has_a_name(replayed: Shown) -> None:
    reached = list[str]()
    for _ in range(11):
        replayed.press("Tab")
        assert replayed.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        reached.append(
            replayed.page.evaluate(
                "() => { const e = document.activeElement;"
                " return e.getAttribute('aria-label') ?? e.closest('label')?.textContent ?? e.textContent; }"
            )
        )
    for name in ("Light or dark", "One step back", "Play", "One step on", "Place", "Along", "Speed", "Text of ar"):
        assert any(name in one for one in reached), name


def test_light_and_dark(replayed: Shown, theme: str) -> None:
    def bright() -> bool:
        colour = replayed.page.evaluate(SHADED)
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) > 382

    assert bright() == (theme == "light")
    replayed.press("t")
    assert bright() == (theme == "dark")
    replayed.one("theme-button").click()
    assert bright() == (theme == "light")


def test_hostile_text_stays_text(chromium: Any, tmp_path: Path) -> None:
    token = {"id": 1, "token": HOSTILE, "step": 1, "confidence": 0.5, "revisions": 0}
    slot = token | {"position": 2, "state": "tentative"}
    slots = [slot, slot | {"position": 3}]
    frame = {"version": 1, "index": 0, "step": 1, "prompt_tokens": 1, "dropped": 0, "slots": slots}
    given = dict.fromkeys(("title", "prompt", "suffix", "model"), HOSTILE)
    step = {"seconds": 0, "step": 1, "text": HOSTILE, "token_details": [token], "frame": frame}
    events: list[dict[str, Any]] = [
        {"object": "unmask.start", "index": 0, **given},
        {"object": "unmask.step", "index": 0, **step},
    ]
    trace = tmp_path / "<script>document.title='taken'<!--.jsonl"
    trace.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    (tmp_path / "page.html").write_text(replay([trace]), encoding="utf-8")
    shown = Shown(chromium, "light", (tmp_path / "page.html").as_uri())
    shown.press("End")
    assert shown.page.title() != "taken"
    assert shown.page.locator("img").count() == 0
    (text,) = shown.texts()
    assert text.count("</script><img") == 5  # prompt, token, two slots, suffix
    assert "␛⟨202E⟩" in text
    assert not shown.problems
    shown.page.close()


@pytest.fixture
def served(chromium: Any, tiny_folder: Path) -> Iterator[tuple[Running, Shown]]:
    with running(tiny_folder, Settings(names=("tiny",)), playground()) as server:
        shown = Shown(chromium, "light", f"{server.url}/")
        shown.until("model", "tiny")
        yield server, shown
        shown.page.close()
        server.idle()
    assert not shown.problems
    assert {url.removeprefix(server.url) for url in shown.asked if not url.startswith("data:")} <= {
        "/", "/v1/models", "/v1/chat/completions", "/v1/completions",
    }  # fmt: skip


def fill(shown: Shown, **fields: str) -> None:
    for name, value in fields.items():
        field = shown.page.locator(f"[name={name}]")
        if field.first.get_attribute("type") == "radio":
            shown.page.locator(f"[name={name}][value={value}]").check()
        elif field.evaluate("e => e.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def visible(text: str) -> str:
    """Control characters as the page shows them."""
    pictures = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    return text.translate(pictures | {code: f"⟨{code:04X}⟩" for code in range(0x7F, 0xA0)})


def test_the_playground_shows_what_the_api_says(served: tuple[Running, Shown]) -> None:
    server, shown = served
    ways: list[dict[str, str]] = [
        {"mode": "ar"},
        {"mode": "fastdiffuser", "block_size": "4", "confidence_threshold": "0.3"},
        {"mode": "self-speculation", "spec_variant": "quadspec", "draft_block_size": "4"},
    ]
    for way in ways:
        fill(shown, kind="completion", prompt="the", max_tokens="8", temperature="0", **way)
        shown.press("Control+Enter")
        shown.until("state", "done")
        asked = {"generation_mode" if name == "mode" else name: value for name, value in way.items()}
        numbers = {name: json.loads(value) for name, value in asked.items() if value[0].isdigit()}
        expected = server.completion("the", **(asked | numbers))
        assert shown.texts() == [visible("the" + expected["choices"][0]["text"])]
        details = expected["usage"]["completion_tokens_details"]
        assert f"{details['forwards']} forwards after prefill" in shown.page.locator(".rest").text_content()


def test_three_modes_side_by_side_and_runs_that_are_kept(served: tuple[Running, Shown]) -> None:
    _, shown = served
    fill(shown, prompt="the", max_tokens="6", mode="all")
    shown.one("run").click()
    shown.until("state", "done")
    assert len(shown.texts()) == 3
    shown.page.locator("[name=keep]").check()
    fill(shown, mode="ar")
    shown.one("run").click()
    shown.until("state", "done")
    assert len(shown.texts()) == 4
    shown.one("place").click()
    shown.press("Home", "ArrowRight")
    assert shown.place.startswith("forward 1 of ")


def test_a_constraint_holds_and_a_wrong_one_is_told(served: tuple[Running, Shown]) -> None:
    _, shown = served
    fill(
        shown, kind="completion", prompt="the", max_tokens="8", mode="fastdiffuser", constraint="choice", rule="yes\nno"
    )
    shown.one("run").click()
    shown.until("state", "done")
    assert shown.texts()[0] in ("theyes", "theno")
    fill(shown, constraint="json_schema", rule="{")
    shown.one("run").click()
    shown.until("problem", "the JSON Schema is not JSON")
    fill(shown, rule='{"type": "object", "uniqueItems": 7}')
    shown.one("run").click()
    shown.until("state", "failed")
    assert shown.one("problem").text_content()
    assert shown.one("problem").get_attribute("role") == "alert"
    assert any("400" in one for one in shown.problems), "the browser's own word about a reply that is refused"
    shown.problems.clear()


@pytest.mark.parametrize("how", ["button", "key"])
def test_cancelling_ends_the_generation(served: tuple[Running, Shown], how: str) -> None:
    server, shown = served
    before = server.service.worker.steps
    fill(shown, kind="completion", prompt="the", max_tokens="200", mode="ar", constraint="regex", rule="a{200}")
    shown.one("run").click()
    wait_until(lambda: shown.pump() and server.service.worker.steps > before, SECONDS)
    if how == "key":
        shown.press("Escape")
    else:
        shown.one("cancel").click()
    shown.until("state", "cancelled")
    server.idle()
    assert "cancelled" in shown.page.locator(".rest").text_content()
    assert len(shown.texts()[0]) < 200
    assert shown.one("run").is_enabled()


def test_the_playground_with_the_real_model(chromium: Any, smollm2_gguf: Path, images: Path) -> None:
    with running(smollm2_gguf, Settings(names=("smollm2-135m",)), playground(), dtype=None, exactness="fast") as server:
        shown = Shown(chromium, "light", f"{server.url}/")
        shown.until("model", "smollm2-135m")
        fill(shown, mode="all", max_tokens="16", spec_variant="quadspec")
        shown.one("run").click()
        shown.until("state", "done", 10 * SECONDS)
        assert len(shown.texts()) == 3
        shown.one("place").click()
        shown.press("Home", *["ArrowRight"] * 6)
        shown.picture(images / "playground-light.png")
        shown.press("t")
        shown.picture(images / "playground-dark.png")
        shown.page.close()
        server.idle()
        assert not shown.problems


def test_a_gap_where_the_model_has_learned_none(served: tuple[Running, Shown]) -> None:
    assert served[1].page.locator("[value=infill]").is_disabled()


def test_a_gap_in_the_middle(chromium: Any, tmp_path: Path) -> None:
    learned = {"mask_id": MASK, "block_size": 8, "trained": True, "gap_end": END, "gap_room": 24, "gap_causal": True}
    with running(write_model(tmp_path, unmask=learned), Settings(), playground()) as server:
        shown = Shown(chromium, "light", f"{server.url}/")
        shown.until("model", "context")
        fill(shown, kind="infill", prefix="the cat and ", suffix=" the dog\n", mode="fastdiffuser", max_tokens="12")
        assert not shown.page.locator("[name=prompt]").is_visible()
        shown.one("run").click()
        shown.until("state", "done")
        asked = {"suffix": " the dog\n", "max_tokens": 12, "generation_mode": "fastdiffuser"}
        (choice,) = server.completion("the cat and ", **asked)["choices"]
        assert choice["text"]
        assert shown.texts() == [f"the cat and {visible(choice['text'])} the dog\n"]
        shown.press("Escape")  # nothing runs: nothing happens
        shown.page.close()
        server.idle()
        assert not shown.problems


def test_a_server_with_keys(chromium: Any, tiny_folder: Path) -> None:
    with running(tiny_folder, Settings(names=("tiny",), api_keys=("secret",)), playground()) as server:
        shown = Shown(chromium, "dark", f"{server.url}/")
        shown.until("problem", "send a valid API key")
        assert shown.one("run").is_disabled()
        fill(shown, key="secret")
        shown.press("Tab")
        shown.until("model", "tiny")
        assert shown.one("problem").text_content() == ""
        fill(shown, kind="completion", prompt="the", max_tokens="4", mode="ar")
        shown.one("run").click()
        shown.until("state", "done")
        assert all("secret" not in url for url in shown.asked)
        shown.page.close()
        server.idle()
