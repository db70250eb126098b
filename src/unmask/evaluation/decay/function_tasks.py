"""Tier B: one Python function under some rules, all of which can be told from its syntax tree; run in the sandbox."""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from unmask.evaluation.decay.functions import SHOWN, Asked, expected, functions
from unmask.evaluation.decay.tasks import PADDING, Judged
from unmask.sandbox import Limits, run_python

Node = ast.FunctionDef
LIMITS = Limits(seconds=2.0)
FENCE = "\n```"
# What every answer may use, put before it when it is run.
GIVEN = """from dataclasses import dataclass

@dataclass
class Result:
    value: object

def seal(value):
    return value
"""


def hinted(asked: Asked, node: Node, module: ast.Module) -> bool:
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return all(argument.annotation is not None for argument in arguments)


def documented(asked: Asked, node: Node, module: ast.Module) -> bool:
    return bool(ast.get_docstring(node))


def called(node: Node) -> set[str]:
    """Names that are called as they stand."""
    return {one.func.id for one in ast.walk(node) if isinstance(one, ast.Call) and isinstance(one.func, ast.Name)}


def sealed(asked: Asked, node: Node, module: ast.Module) -> bool:
    return "seal" in called(node)


def tame(asked: Asked, node: Node, module: ast.Module) -> bool:
    return not called(node) & {"eval", "exec", node.name} and not any(
        isinstance(one, ast.Global) for one in ast.walk(node)
    )


def raising(asked: Asked, node: Node, module: ast.Module) -> bool:
    raised = [one.exc for one in ast.walk(node) if isinstance(one, ast.Raise)]
    names = [one.func if isinstance(one, ast.Call) else one for one in raised]
    return any(isinstance(one, ast.Name) and one.id == "ValueError" for one in names)


def snake(asked: Asked, node: Node, module: ast.Module) -> bool:
    stored = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
    return all(name == name.lower() for name in stored)


def short(asked: Asked, node: Node, module: ast.Module) -> bool:
    return (node.end_lineno or 0) - node.lineno < most_lines(asked)


def importing(asked: Asked, node: Node, module: ast.Module) -> bool:
    found = [one for one in ast.walk(module) if isinstance(one, ast.Import | ast.ImportFrom)]
    names = [alias.name for one in found if isinstance(one, ast.Import) for alias in one.names]
    return names == ["math"] and all(isinstance(one, ast.Import) for one in found)


def wrapped(asked: Asked, node: Node, module: ast.Module) -> bool:
    values = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
    made = [isinstance(v, ast.Call) and isinstance(v.func, ast.Name) and v.func.id == "Result" for v in values]
    return bool(made) and all(made)


def single(asked: Asked, node: Node, module: ast.Module) -> bool:
    return sum(isinstance(one, ast.Return) for one in ast.walk(node)) == 1


RULES: dict[str, tuple[Callable[[Asked], str], Callable[[Asked, Node, ast.Module], bool]]] = {
    "hints": (lambda asked: "All parameters have type hints.", hinted),
    "docstring": (lambda asked: "The function begins with a docstring.", documented),
    "helper": (lambda asked: "It calls the helper seal on what it has found.", sealed),
    "tame": (lambda asked: "It does not use eval, exec, global or recursion.", tame),
    "error": (lambda asked: f"It raises ValueError where {asked.parameters[0][0]} is None.", raising),
    "snake": (lambda asked: "Names of variables are in snake case.", snake),
    "lines": (lambda asked: f"It has at most {most_lines(asked)} lines.", short),
    "module": (lambda asked: "The code begins with import math and imports nothing else.", importing),
    "result": (lambda asked: "It returns a Result that holds the value.", wrapped),
    "single": (lambda asked: "It has a single return.", single),
}


def render(asked: Asked, active: Sequence[str]) -> str:
    """A right answer that obeys the active rules, and breaks those others that can be broken without harm."""
    parameters = ", ".join(f"{name}: {kind}" if "hints" in active else name for name, kind in asked.parameters)
    lines = ["import math", ""] if "module" in active else []
    lines.append(f"def {asked.name}({parameters}):")
    if "docstring" in active:
        lines.append(f'    """Return {asked.statement}."""')
    if "error" in active:
        lines += [f"    if {asked.parameters[0][0]} is None:", '        raise ValueError("nothing given")']
    name = "result" if "snake" in active else "finalResult"
    lines += ["    " + re.sub(r"\bresult\b", name, line) for line in asked.body]
    value = f"seal({name})" if "helper" in active else name
    return "\n".join([*lines, f"    return {f'Result({value})' if 'result' in active else value}"])


def most_lines(asked: Asked) -> int:
    """Of the function itself: two more than the longest right answer of ours, which has six beside its body."""
    return len(asked.body) + 5 + 2


@dataclass(frozen=True, slots=True)
class FunctionTask:
    """shots: examples before the task, under other rules."""

    number: int
    seed: int
    shots: int = 2

    rules = tuple(RULES)
    maskable = frozenset(("hints", "docstring", "lines", "module"))
    stops = (FENCE,)
    max_tokens = 160

    @property
    def asked(self) -> Asked:
        return functions()[self.number]

    @property
    def name(self) -> str:
        return f"B/{self.seed}/{self.asked.name}"

    def prompt(self, active: Sequence[str], padding: int = 0) -> str:
        parts = list[str]()
        for shot, shown in enumerate((SHOWN * self.shots)[: self.shots]):
            rules = Random(f"example {self.seed} {shot}").sample(self.rules, len(self.rules) // 2)
            parts.append(f"{worded(shown, rules, 0)}{render(shown, rules)}{FENCE}\n\n")
        return "".join(parts) + worded(self.asked, active, padding)

    def answer(self, active: Sequence[str]) -> str:
        return render(self.asked, active)

    def read(self, text: str) -> tuple[Node, ast.Module] | None:
        """The function and all of the code; None where it is not there or cannot be read."""
        try:
            module = ast.parse(text.split("```")[0])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        named = (one for one in module.body if isinstance(one, Node) and one.name == self.asked.name)
        return next(((node, module) for node in named), None)

    def kept(self, text: str, active: Sequence[str]) -> dict[str, bool]:
        found = self.read(text)
        if found is None:
            return dict.fromkeys(active, False)
        return {rule: RULES[rule][1](self.asked, *found) for rule in active}

    def judge(self, text: str, active: Sequence[str]) -> Judged:
        passed = held(self.asked, text.split("```")[0]) if self.read(text) else 0
        return Judged(passed, len(self.asked.inputs), self.kept(text, active))

    def grammar(self, active: Sequence[str]) -> dict[str, Any]:
        return {"type": "regex", "pattern": pattern(self.asked, active)}


def worded(asked: Asked, active: Sequence[str], padding: int) -> str:
    """The task in words, up to where the code begins."""

    def lines() -> Iterator[str]:
        names = ", ".join(name for name, _ in asked.parameters)
        yield f"Write a Python function {asked.name}({names}) that returns {asked.statement}."
        yield "Given are a function seal(value), which returns its value, and a dataclass Result(value)."
        yield "Rules:"
        yield from (f"- {RULES[rule][0](asked)}" for rule in active)
        yield from (f"- {sentence}" for sentence in PADDING[:padding])
        yield "```python\n"

    return "\n".join(lines())


def held(asked: Asked, code: str) -> int:
    """How many calls give back what they have to, in the sandbox; 0 for a program that does not come to its end."""
    word = secrets.token_hex(8)
    cases = list(zip(asked.inputs, expected(asked), strict=True))
    program = f"""{GIVEN}
{code}

right = 0
for arguments, value in {cases!r}:
    try:
        found = {asked.name}(*arguments)
        right += (found.value if isinstance(found, Result) else found) == value
    except Exception:
        pass
print()
print({word!r}, right)
"""
    verdict = run_python(program, LIMITS)
    said = re.findall(rf"^{word} (\d+)$", verdict.output, flags=re.MULTILINE)
    return int(said[-1]) if verdict.passed and said else 0


def pattern(asked: Asked, active: Sequence[str]) -> str:
    """All code blocks of one function of that name and those parameters that obey those of the active rules that a mask
    can enforce."""
    kind = r"[A-Za-z][A-Za-z\[\], |]*"
    hint = f": {kind}" if "hints" in active else f"(: {kind})?"
    parameters = ", ".join(f"{name}{hint}" for name, _ in asked.parameters)
    first = "import math\n\n" if "module" in active else "(import math\n\n)?"
    docstring = '    """[ !#-~]+"""\n'
    begin = docstring if "docstring" in active else f"({docstring})?"
    most = most_lines(asked) - 2 if "lines" in active else 24
    return rf"{first}def {asked.name}\({parameters}\)( -> {kind})?:\n{begin}((    [ -~]+)?\n){{1,{most}}}```"
