"""Tier C of DecayBench: every set of rules has a right answer, each rule sees what breaks it, masks keep their part."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import combinations, pairwise
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinymodel import write_model
from unmask import LM
from unmask.cli import run as command
from unmask.evaluation.decay import suite
from unmask.evaluation.decay.backend_rules import RULES
from unmask.evaluation.decay.backend_tasks import APPS, CALLS, BackendTask, calls_of
from unmask.evaluation.decay.backends import EXTRA, SHOWN
from unmask.evaluation.decay.blame import UNREADABLE, RulesOracle, faults_of
from unmask.evaluation.decay.tasks import PADDING, Judged, williams
from unmask.types import View

SOME = st.integers(0, 10**6)
NAMES = tuple(RULES)
needs_sqlalchemy = pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="sqlalchemy is not installed")


def subset(seed: int) -> list[str]:
    random = Random(seed)
    return random.sample(NAMES, random.randint(0, len(NAMES)))


def obeyed(task: BackendTask, text: str) -> set[str]:
    return {rule for rule, kept in task.kept(text, NAMES).items() if kept}


def edge_sets() -> Iterator[tuple[str, ...]]:
    """No rules, one, two; all, all but one, all but two."""
    for count in range(3):
        for few in combinations(NAMES, count):
            yield few
            yield tuple(rule for rule in NAMES if rule not in few)


def test_each_rule_is_obeyed_on_purpose_only() -> None:
    for number, active in enumerate(edge_sets()):
        task = BackendTask(number, 0)
        assert obeyed(task, task.answer(active)) == set(active), (number, active)


@given(SOME, SOME)
def test_any_set_of_rules_has_an_answer_that_obeys_just_these(seed: int, chosen: int) -> None:
    task, active = BackendTask(seed, seed), subset(chosen)
    assert obeyed(task, task.answer(active)) == set(active)


def right_calls(task: BackendTask, text: str) -> int:
    """As in the sandbox, in this process: for answers of our own."""
    module = sys.modules["answer"] = ModuleType("answer")
    try:
        exec(text, module.__dict__)
        right = 0
        for script in task.scripts:
            app = module.App()
            for name, arguments, value in script:
                try:
                    right += getattr(app, name)(**arguments) == value
                except LookupError:
                    right += value is None
        return right
    finally:
        del sys.modules["answer"]


@needs_sqlalchemy
@settings(max_examples=12, deadline=None)
@given(SOME, SOME)
def test_and_it_does_what_it_has_to(seed: int, chosen: int) -> None:
    task = BackendTask(seed, seed)
    for active in (subset(chosen), NAMES):
        assert right_calls(task, task.answer(active)) == APPS * CALLS == 40, active


@needs_sqlalchemy
def test_answers_are_judged_in_the_sandbox() -> None:
    task = BackendTask(0, 0)
    right = task.answer(NAMES)
    assert task.judge(right + "\n```\nmore", NAMES).joint
    plain = task.answer(())
    judged = task.judge(plain, ("unique", "text"))
    assert (judged.raw, judged.strict, judged.satisfied) == (1.0, 0.0, 0.0)
    assert task.judge(plain.replace("self.session.commit()", "self.session.rollback()"), ()).raw < 1.0
    assert task.judge(plain.replace("self.session.commit()", "raise SystemExit(0)"), ()).passed == 0
    assert task.judge(plain + "\nimport os\nos._exit(0)", ()).passed == 0


def test_what_cannot_be_read_obeys_nothing_and_is_not_run() -> None:
    task = BackendTask(0, 0)
    for text in ("", "hello", "def (", "class Other:\n    pass"):
        assert task.judge(text, NAMES) == Judged(0, 40, dict.fromkeys(NAMES, False))


@given(SOME)
def test_calls_tell_right_from_wrong(seed: int) -> None:
    """No constant is right often, all operations are called, and what is expected follows from the calls before."""
    task = BackendTask(seed, 0)
    calls = [call for script in task.scripts for call in script]
    expected = [repr(value) for _, _, value in calls]
    assert max(expected.count(value) for value in set(expected)) <= 20
    for script in task.scripts:
        assert len(script) == CALLS
        assert script[0][0] == f"add_{task.spec.tables[0]}"
        added = dict[str, Any]()
        for name, arguments, value in script:
            if name == f"add_{task.spec.tables[0]}":
                added[arguments[task.spec.columns[0][0]]] = value
            elif name == f"get_{task.spec.tables[0]}" and task.spec.extra != "change":
                assert value == added.get(arguments[task.spec.columns[0][0]])
    assert calls_of(task.spec, Random("x")) == calls_of(task.spec, Random("x"))


def test_tasks_differ_and_examples_are_of_other_tables() -> None:
    tasks = [BackendTask(number, 0) for number in range(60)]
    assert len({task.spec for task in tasks}) == 60
    assert {task.spec.extra for task in tasks} == set(EXTRA)
    assert not {task.spec.tables[0] for task in tasks} & set(SHOWN)
    assert len({task.name for task in tasks}) == 60


def test_prompts_are_nested_and_controlled_for_length() -> None:
    task = BackendTask(5, 1, 0)
    rules = williams(NAMES, 3)
    prompts = [task.prompt(rules[:level]) for level in range(len(rules) + 1)]
    for shorter, longer in pairwise(prompts):
        (more,) = [line for line in longer.split("\n") if line not in shorter.split("\n")]
        assert shorter == longer.replace(more + "\n", "")
    assert len(task.prompt((), len(PADDING))) / len(prompts[-1]) == pytest.approx(1.0, abs=0.15)
    assert BackendTask(5, 1, 2).prompt(rules).endswith(prompts[-1])
    assert BackendTask(5, 1, 2).prompt(rules).count("class App:") == 2


# Other ways to obey a rule, and to break it, than our own answers have.

OTHERS = [
    (
        "unique",
        '    __tablename__ = "{0}"\n',
        '    __tablename__ = "{0}"\n    __table_args__ = (UniqueConstraint("{1}"),)\n',
        True,
    ),
    ("base", "declarative_base()", "declarative_base(cls=object)", False),
    (
        "session",
        "class App:",
        "def opened() -> object:\n    with make() as s:\n        return s\n\nmake = sessionmaker()\n\nclass App:",
        False,
    ),
    ("text", "class App:", "import sqlite3\n\nclass App:", False),
    ("hints", "class App:", "def helper(*more) -> int:\n    return 0\n\nclass App:", False),
]


@pytest.mark.parametrize(("rule", "old", "new", "keeps"), OTHERS)
def test_rules_see_other_ways(rule: str, old: str, new: str, keeps: bool) -> None:
    task = BackendTask(0, 0)
    active = [one for one in NAMES if one != rule] if keeps or rule == "base" else NAMES
    names = task.spec.tables[0] + "s", task.spec.columns[0][0]
    text = task.answer(active)
    changed = text.replace(old.format(*names), new.format(*names))
    assert changed != text
    expected = set(NAMES) if keeps or rule == "session" else set(NAMES) - {rule}
    assert obeyed(task, changed) == expected


def test_sessions_are_known_by_what_they_are_made_of() -> None:
    task = BackendTask(0, 0)
    text = task.answer([rule for rule in NAMES if rule not in ("session", "repository")])
    assert obeyed(task, text.replace("Session(engine)", "sessionmaker(engine)()")).isdisjoint(("session", "repository"))
    text = task.answer([rule for rule in NAMES if rule != "repository"])
    other = text.replace("as session:", "as db:").replace("session.", "db.")
    assert obeyed(task, other) == set(NAMES) - {"repository"}
    assert "session" in obeyed(task, text.replace("with Session(self.engine)", "with Session.begin(self.engine)"))


# Blame.


@given(SOME, SOME, st.integers(0, 3000))
def test_blame_is_where_rules_are_broken(seed: int, chosen: int, cut: int) -> None:
    task, active = BackendTask(seed, 0), subset(chosen)
    text = task.answer(active)
    faults = faults_of(task, text, True)
    assert {fault.rule for fault in faults} == set(NAMES) - set(active)
    assert all(0 <= fault.start < fault.end <= len(text) for fault in faults)
    assert all("\n" not in text[fault.start : fault.end] for fault in faults)
    assert len(set(faults)) == len(faults)
    early = faults_of(task, text[:cut], False)
    assert {fault.rule for fault in early} <= {fault.rule for fault in faults}, "what will be right is not blamed"


def test_blame_names_the_lines() -> None:
    task = BackendTask(0, 0)
    text = task.answer([rule for rule in NAMES if rule != "hints"])
    blamed = [text[fault.start : fault.end] for fault in faults_of(task, text, True)]
    assert blamed == [line.strip() for line in text.split("\n") if line.strip().startswith("def ")]
    begun = text[: text.index("def add_") + 200]
    assert {fault.rule for fault in faults_of(task, begun, False)} == {"hints"}
    (fault,) = faults_of(task, text.replace("self.session = session", "self.session = (session"), True)
    assert fault.rule == UNREADABLE
    cut = text[: text.index("class App")]
    assert UNREADABLE in {fault.rule for fault in faults_of(task, cut, True)}, "there is no App"
    assert UNREADABLE not in {fault.rule for fault in faults_of(task, cut, False)}
    assert RulesOracle(task, ("hints",)).check(View.of(text)).status == "violated"
    assert RulesOracle(task, ("text",)).check(View.of(text)).status == "satisfied"


# Masks.


@settings(max_examples=10, deadline=None)
@given(SOME, SOME)
def test_a_mask_lets_right_answers_through_and_none_that_breaks_its_rules(seed: int, chosen: int) -> None:
    task, active = BackendTask(seed, 0), subset(chosen)
    pattern = task.grammar(active)["pattern"]
    for right in (NAMES, active):
        assert re.fullmatch(pattern, task.answer(right) + "\n```")
    for rule in task.maskable & set(active):
        broken = task.answer([other for other in NAMES if other != rule])
        assert not re.fullmatch(pattern, broken + "\n```"), rule


HINTS = [
    ("def f(self, a: int, b):", False),
    ("def f(self, a: dict[str, int], b) -> int:", False),
    ("def f(a: int = 3, b: str | None = None) -> dict[str, int]:", True),
    ("def f(a, b) -> int:", False),
    ("def f(self) -> None: pass", True),
    ("def f(self, a: int):", False),
    ("define = 3", True),
    ("de", True),
    ("return d", True),
]


@pytest.mark.parametrize(("line", "fits"), HINTS)
def test_a_mask_tells_hinted_functions(line: str, fits: bool) -> None:
    task = BackendTask(0, 0)
    pattern = task.grammar(NAMES)["pattern"]
    for where in (f"{line}\n\nclass App:", f"class App:\n        {line}"):
        text = task.answer(NAMES).replace("class App:", where)
        assert bool(re.fullmatch(pattern, text + "\n```")) == fits, where


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("backends") / "tiny", max_position_embeddings=8192)


@pytest.mark.parametrize("mode", ["ar", "fastdiffuser"])
def test_what_is_written_under_a_mask_has_its_form(folder: Path, mode: str) -> None:
    lm, task = LM.load(folder, dtype="float32", max_tokens_cached=2048), BackendTask(0, 0, 0)
    text = lm.generate("x", mode=mode, max_tokens=600, constraints=[task.grammar(NAMES)]).text
    assert re.fullmatch(task.grammar(NAMES)["pattern"], text)
    assert re.search(r"class App:\n +[^ \n][^`]*\n(.*\n)*```$", text), "a class has a body"
    models = text[: text.index("class App")]
    assert f'__tablename__ = "{task.spec.tables[0]}s"\n' in models
    assert models.count("unique=True") == 1
    assert models.count("default=") >= 2


# The suite.


@needs_sqlalchemy
def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackendTask, "max_tokens", 24)
    arguments = ["eval", str(folder), "--suite", "decay", "--dtype", "float32", "--limit", "1", "--tier", "c"]
    arguments += ["--levels", "0", "--levels", "2", "--shots", "0", "--modes", "ar"]
    arguments += ["--enforce", "prompt", "--enforce", "patch"]
    assert command(arguments) == 0
    printed = capsys.readouterr().out
    assert "ar, patch" in printed
    assert "tier c, 1 tasks" in printed


def test_without_sqlalchemy_it_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    assert command(["eval", str(folder), "--suite", "decay", "--tier", "c"]) == 2
    printed = capsys.readouterr().err
    assert "tier c runs answers with SQLAlchemy, which is not installed: pip install 'unmask[eval]'" in printed
