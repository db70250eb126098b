"""DecayBench's tasks: every set of rules has a right answer, no rule is empty, masks keep what they promise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tinymodel import write_model
from unmask import LM
from unmask.constraints import check, spec_of
from unmask.evaluation.decay.blame import RulesOracle, faults_of
from unmask.evaluation.decay.function_tasks import FunctionTask, hinted
from unmask.evaluation.decay.functions import expected, functions
from unmask.evaluation.decay.language import ProgramError, Store, parse
from unmask.evaluation.decay.spec_tasks import CALLS, SpecTask
from unmask.evaluation.decay.specs import NOUNS, RULES, draw, held_out
from unmask.evaluation.decay.tasks import PADDING, Judged, Task, williams
from unmask.types import ByteSpan, View

SOME = st.integers(0, 10**6)
PROGRAM = """version 2
table book
 title text unique
 kind old|new
table loan
 book text ref book.title
 open flag
fn addBook title kind
 if title
  repo.add book title kind
 end
 log addBook
end
fn get_book title
 get book title
end
fn drop_book title
 drop book title else fail
end
fn add_loan book open
 add loan book open
end
fn count_loan
 count loan
end
done"""


def subset(rules: Sequence[str], seed: int) -> list[str]:
    random = Random(seed)
    return random.sample(list(rules), random.randint(0, len(rules)))


def test_programs_do_what_they_say() -> None:
    program = parse(PROGRAM)
    assert program.version == "2"
    assert program.tables["loan"][0].ref == "book.title"
    store = Store(program)
    assert store.call("add_book", {"title": "a", "kind": "old", "by": "me"}) is None
    assert store.call("get_book", {"title": "a"}) == {"title": "a", "kind": "old"}
    assert store.call("add_book", {"kind": "old"}) is None, "the guard lets nothing through"
    assert store.call("get_book", {"title": "b"}) is None
    assert store.call("add_loan", {"book": "a", "open": 1}) is None
    assert store.call("count_loan", {}) == 1
    wrong: list[tuple[str, dict[str, int | str], str]] = [
        ("add_book", {"title": "a", "kind": "old"}, "there already"),
        ("add_book", {"title": "c", "kind": "odd"}, "is not old|new"),
        ("add_loan", {"book": "zzz", "open": 1}, "refers to nothing"),
        ("add_loan", {"book": "a", "open": 2}, "is not flag"),
        ("add_loan", {"book": "a"}, "no value of open"),
        ("drop_book", {"title": "zzz"}, "not found"),
        ("sell_book", {}, "no function"),
    ]
    for name, arguments, why in wrong:
        with pytest.raises(ProgramError, match=re.escape(why)):
            store.call(name, arguments)
    assert store.call("drop_book", {"title": "a"}) is None
    assert store.call("get_book", {"title": "a"}) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("table", "no table and no function"),
        ("table a\n b", "without a type"),
        ("table a\n b date", "not a column"),
        ("fn f\n get a", "no statement"),
        ("fn f\n if x\n add a x", "ends before its end"),
        ("fn f\nend\ndone\nfn g\nend", "something follows the end"),
        ("fn f 3\nend", "not a name"),
    ],
)
def test_what_is_no_program(text: str, why: str) -> None:
    with pytest.raises(ProgramError, match=why):
        parse(text)


@given(SOME, SOME)
def test_tier_a_has_an_answer_for_every_set_of_rules(seed: int, chosen: int) -> None:
    task = SpecTask(seed, seed)
    active = subset(task.rules, chosen)
    text = task.answer(active)
    judged = task.judge(text, task.rules)
    assert task.judge(text, active).joint
    assert judged.passed == judged.total == CALLS == 20
    assert {rule for rule, kept in judged.kept.items() if kept} == set(active), "each rule is obeyed on purpose only"
    assert task.judge(text.removesuffix("\ndone"), active).joint, "where a stop string has cut the end off"


def test_tier_a_assertions_see_what_is_wrong() -> None:
    task = SpecTask(3, 0)
    right = task.answer(())
    table, column = task.spec.tables[0], task.spec.columns[0][0][0]
    for wrong in ("", "hello", right.replace(f"table {table}\n", f"table {table}\n zzz int\n"), "done"):
        assert task.judge(wrong, ()).raw < 0.6, wrong
    without_guard = re.sub(r"^ +(if|end).*\n", "", right, flags=re.MULTILINE)
    assert task.judge(without_guard, ()).raw < 1.0, column
    assert task.judge("hello", task.rules).kept == dict.fromkeys(task.rules, False)


def test_tier_b_has_an_answer_for_every_set_of_rules() -> None:
    """All sixty run here and not in the sandbox, which one of each kind of answer goes through."""
    assert len({asked.name for asked in functions()}) == 60
    tame = {"tame", "lines", "single"}  # what a natural answer obeys anyway
    for number, asked in enumerate(functions()):
        task = FunctionTask(number, 0)
        for active in (task.rules, (), subset(task.rules, number)):
            known: dict[str, object] = {"seal": lambda value: value, "Result": lambda value: value}
            exec(task.answer(active), known)
            assert [known[asked.name](*arguments) for arguments in asked.inputs] == expected(asked)  # type: ignore[operator]
        assert 6 <= len(asked.inputs) <= 10
        assert len({repr(value) for value in expected(asked)}) >= 2, "no constant is right"
        obeyed = {rule for rule, kept in rules_of(task, task.answer(())).items() if kept}
        assert obeyed == tame
        assert all(rules_of(task, task.answer(task.rules)).values())


def rules_of(task: FunctionTask, text: str) -> dict[str, bool]:
    """The rules alone, without running anything."""
    import ast

    from unmask.evaluation.decay.function_tasks import RULES as OWN

    module = ast.parse(text)
    node = next(one for one in module.body if isinstance(one, ast.FunctionDef))
    return {rule: holds(task.asked, node, module) for rule, (_, holds) in OWN.items()}


def test_tier_b_is_judged_in_the_sandbox() -> None:
    task = FunctionTask(0, 0)
    assert task.judge(task.answer(task.rules) + "\n```\nmore", task.rules).joint
    wrong = task.judge(task.answer(("hints",)).replace("% 2 == 0", "% 3 == 0"), ("hints", "docstring"))
    assert 0 < wrong.passed < wrong.total
    assert (wrong.kept, wrong.strict, wrong.satisfied) == ({"hints": True, "docstring": False}, 0.0, 0.5)
    harmful = "def sum_multiples_2(values):\n    raise SystemExit(0)"
    assert task.judge(harmful, ()).passed == 0
    assert task.judge("def other(values):\n    return 0", ("hints",)) == Judged(0, 6, {"hints": False})
    assert task.judge("def (", ("hints",)) == Judged(0, 6, {"hints": False})


def test_right_values_by_hand() -> None:
    by_name = {asked.name: expected(asked) for asked in functions()}
    assert by_name["sum_multiples_3"] == [0, 6, 3, 51, 0, 21]
    assert by_name["rotated_2"] == [[], [6], [1, 3, 8], [9, 30, 12, -4], [10, 2, 7, 5, 5], [14, 0, 21]]
    assert by_name["shifted_13"][2] == "uryyb"
    assert by_name["running_from_1"][2] == [1, 4, 12, 13]
    assert by_name["limited_plus_10"] == [15, 10, 19, 13, 16, 2]
    assert by_name["padded_8"][2] == "hello..."
    assert by_name["digit_sum_times_2"][3] == 24
    assert by_name["in_groups_of_2"][4] == [[5, 5], [10, 2], [7]]


@pytest.mark.parametrize("task", [SpecTask(5, 1, 0), FunctionTask(7, 1, 0)], ids=["a", "b"])
def test_prompts_are_nested_and_controlled_for_length(task: Task) -> None:
    rules = williams(task.rules, 3)
    prompts = [task.prompt(rules[:level]) for level in range(len(rules) + 1)]
    for shorter, longer in pairwise(prompts):
        more = [line for line in longer.split("\n") if line not in shorter.split("\n")]
        assert len(more) == 1
        assert shorter == longer.replace(more[0] + "\n", "")
    padded = task.prompt((), len(PADDING) if len(rules) == 12 else 10)
    assert len(padded) / len(prompts[-1]) == pytest.approx(1.0, abs=0.15)
    assert task.prompt(()) == prompts[0]


@given(st.sampled_from((4, 6, 10, 12)))
def test_orders_are_a_latin_square_that_balances_what_comes_before(count: int) -> None:
    rules = [str(i) for i in range(count)]
    rows = [williams(rules, row) for row in range(count)]
    assert all(sorted(row) == sorted(rules) for row in rows)
    assert all(len({row[place] for row in rows}) == count for place in range(count))
    followed = Counter(pair for row in rows for pair in pairwise(row))
    assert len(followed) == count * (count - 1)
    assert set(followed.values()) == {1}


@given(SOME)
def test_training_and_evaluation_share_no_pair_of_tables(seed: int) -> None:
    assert held_out(draw(Random(seed), evaluation=True).tables)
    assert not held_out(draw(Random(seed), evaluation=False).tables)
    assert all(any(held_out((a, b)) for b in NOUNS if b != a) for a in NOUNS)


@settings(max_examples=12)
@given(SOME, SOME)
def test_a_mask_lets_right_answers_through_and_no_answer_that_breaks_its_rules(seed: int, chosen: int) -> None:
    task = SpecTask(seed, 0)
    active = subset(task.rules, chosen)
    spec = spec_of(task.grammar(active))
    assert check(spec, task.answer(task.rules)).status in ("satisfied", "unknown")
    for rule in task.maskable & set(active):
        broken = task.answer([other for other in task.rules if other != rule])
        assert check(spec, broken).status in ("violated", "unknown"), rule
    function = FunctionTask(seed % 60, 0)
    active = subset(function.rules, chosen)
    pattern = function.grammar(active)["pattern"]
    assert re.fullmatch(pattern, function.answer(function.rules) + "\n```")
    for rule in (function.maskable - {"lines"}) & set(active):
        broken = function.answer([other for other in function.rules if other != rule])
        assert not re.fullmatch(pattern, broken + "\n```"), rule


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LM:
    folder = write_model(tmp_path_factory.mktemp("decay") / "tiny", max_position_embeddings=4096)
    return LM.load(folder, dtype="float32", max_tokens_cached=4096)


@pytest.mark.parametrize("mode", ["ar", "fastdiffuser"])
def test_whatever_is_written_under_a_mask_obeys_it(lm: LM, mode: str) -> None:
    """A random model writes nonsense, all of which keeps the rules that a mask can hold."""
    task, function = SpecTask(2, 0, 0), FunctionTask(4, 0, 0)
    for active in (task.rules, ("repo", "audit", "error")):
        text = lm.generate(task.prompt(active), mode=mode, max_tokens=160, constraints=[task.grammar(active)]).text
        kept = task.judge(text, active).kept
        assert all(kept[rule] for rule in task.maskable & set(active)), text
    text = lm.generate("x", mode=mode, max_tokens=90, constraints=[function.grammar(function.rules)]).text
    assert text.startswith("import math\n\ndef ")
    assert text.endswith("\n```")


@given(SOME, SOME, st.integers(0, 400))
def test_blame_is_where_the_rules_are_broken(seed: int, chosen: int, cut: int) -> None:
    """Of right answers that break some rules: those are blamed and no others, and a beginning is blamed for no more
    than the whole."""
    task = SpecTask(seed, 0)
    active = subset(task.rules, chosen)
    text = task.answer(active)
    faults = faults_of(task, text, True)
    assert {fault.rule for fault in faults} == set(task.rules) - set(active)
    assert all(
        0 <= fault.start < fault.end <= len(text) and "\n" not in text[fault.start : fault.end] for fault in faults
    )
    assert set(faults_of(task, text[:cut], False)) <= set(faults)
    function = FunctionTask(seed % 60, 0)
    active = subset(function.rules, chosen)
    text = function.answer(active)
    faults = faults_of(function, text, True)
    assert {fault.rule for fault in faults} == {rule for rule, kept in rules_of(function, text).items() if not kept}
    assert all(0 <= fault.start < fault.end <= len(text) for fault in faults)


def test_what_cannot_be_read_is_blamed_where_reading_stops() -> None:
    task, function = SpecTask(0, 0, 0), FunctionTask(0, 0, 0)
    text = task.answer(task.rules).replace("end\ndone", "end\nwell\ndone")
    (fault,) = faults_of(task, text, True)
    assert (fault.rule, text[fault.start : fault.end]) == ("unreadable", "well")
    assert faults_of(task, text, False) == [], "it may not be done yet"
    assert [fault.rule for fault in faults_of(task, "", True)] == []
    code = function.answer(function.rules).replace("return Result(", "return (Result[")
    (fault,) = faults_of(function, code, True)
    assert (fault.rule, code[fault.start : fault.end].startswith("return")) == ("unreadable", True)


def test_a_function_is_blamed_as_soon_as_its_lines_are_there() -> None:
    function = FunctionTask(0, 0, 0)
    assert [f.rule for f in faults_of(function, "def sum_multiples_2(values):\n    if va", False)] == [
        "hints",
        "module",
    ]
    begun = "def sum_multiples_2(values):\n    if values is None:\n"
    assert {f.rule for f in faults_of(function, begun, False)} >= {"hints", "module"}
    assert faults_of(function, "def sum_multiples_2(val", False) == []
    begun = 'import math\n\ndef sum_multiples_2(values: int):\n    """Well."""\n'
    assert faults_of(function, begun, False) == []


def test_an_oracle_tells_blame_in_bytes_of_what_was_written() -> None:
    task = SpecTask(0, 0, 0)
    text = task.answer([rule for rule in task.rules if rule != "types"])
    before = "prompt é\n"
    first, size = len(before.encode()), len(text.encode())
    view = View(before + text, ByteSpan(first, first + size))
    verdict = RulesOracle(task, task.rules).check(view)
    assert verdict.status == "violated"
    (fault,) = verdict.violations
    assert view.text.encode()[slice(*fault.span)].decode().endswith(" flag")
    assert RulesOracle(task, ("repo",)).check(view).status == "satisfied"


def test_a_rule_about_parameters_counts_all_kinds() -> None:
    import ast

    module = ast.parse("def f(a: int, *, b): pass")
    (node,) = module.body
    assert isinstance(node, ast.FunctionDef)
    assert not hinted(functions()[0], node, module)
    assert set(RULES) == set(SpecTask(0, 0).rules)
