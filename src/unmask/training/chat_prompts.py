"""Prompts for self-distillation, made without a data set: templates and topics of ours, code and prose of the corpus.

The base model then writes the answers, and drafts learn what *it* would say. A prompt depends on (seed, its number)
alone, so a longer list begins with the shorter one.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random

from unmask.training.material import Material, head_of, material_from
from unmask.training.near import Forbidden


@cache
def _all_words() -> dict[str, tuple[str, ...]]:
    lists: dict[str, list[str]] = {}
    for line in files("unmask.training").joinpath("chat_topics.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            current = lists.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line)
    return {name: tuple(items) for name, items in lists.items()}


def _words(name: str) -> tuple[str, ...]:
    return _all_words()[name]


@dataclass(frozen=True, slots=True)
class Prompt:
    """kind: which maker it is from. chat: text is a user's message; else it is to be continued as it stands."""

    kind: str
    text: str
    chat: bool = True

    def row(self) -> dict[str, object]:
        """As a line of JSON: {"kind", "messages"} or {"kind", "prompt"}."""
        if self.chat:
            return {"kind": self.kind, "messages": [{"role": "user", "content": self.text}]}
        return {"kind": self.kind, "prompt": self.text}


def make_prompts(
    count: int, seed: int, material: Material, forbidden: Forbidden | None = None, *, chat: bool = True
) -> Iterator[Prompt]:
    """At most `count` different prompts. chat: messages of a user, of all kinds; else heads of functions and files.

    forbidden: benchmarks; what shares text with one is left out.
    """
    makers = [make for make, share, talks in _MAKERS if talks == chat for _ in range(share)]
    seen = set[str]()
    made = 0
    for number in range(20 * count):
        if made == count:
            return
        random = Random(f"{seed} {number}")
        prompt = random.choice(makers)(random, material)
        if prompt is None or prompt.text in seen or (forbidden and forbidden.found_in(prompt.text)):
            continue
        seen.add(prompt.text)
        made += 1
        yield prompt


def write_prompts(
    out: Path, corpus: Path, *, chats: int = 4000, heads: int = 2000, seed: int = 0, forbidden: Forbidden | None = None
) -> dict[str, int]:
    """Write the prompts as JSON lines, chats first, and return how many of each kind there are. See `make_prompts`."""
    material = material_from(corpus)
    counts: dict[str, int] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for chat, count in ((True, chats), (False, heads)):
            for prompt in make_prompts(count, seed, material, forbidden, chat=chat):
                file.write(json.dumps(prompt.row(), ensure_ascii=False) + "\n")
                counts[prompt.kind] = counts.get(prompt.kind, 0) + 1
    os.replace(part, out)
    return counts


def _code(r: Random, _: Material) -> Prompt:
    task, language = r.choice(_words("code tasks")), r.choice(_words("languages"))
    kind = "class" if task.startswith(("implements", "models")) else "function"
    form = r.choice(
        [
            f"Write a {language} {kind} that {task}.",
            f"I need a {language} {kind} that {task}. Can you write it?",
            f"Please write {language} code that {task}.",
            f"Show me how to write a {kind} in {language} that {task}.",
            f"Create a {kind} in {language}. It {task}.",
        ]
    )
    extra = ["", "", "", " Add comments.", " Add a docstring and type hints.", " Explain how it works."]
    extra += [" Give an example of its use.", " Only give the code.", " Handle bad input.", " Keep it short."]
    extra += [" Include a few tests.", " What is its time complexity?"]
    return Prompt("code", form + r.choice(extra))


def _explain(r: Random, _: Material) -> Prompt:
    topic, how = r.choice(_words("topics")), r.choice(_words("audiences"))
    return Prompt(
        "explain", r.choice([f"Explain {topic} {how}.", f"Can you explain {topic} {how}?", f"Describe {topic} {how}."])
    )


def _write(r: Random, _: Material) -> Prompt:
    form, subject, tone = r.choice(_words("forms")), r.choice(_words("subjects")), r.choice(_words("tones"))
    verb = r.choice(["Write", "Please write", "Compose", "Draft"])
    return Prompt(
        "write", f"{verb} {form} about {subject}, {tone}." if r.random() < 0.7 else f"{verb} {form} about {subject}."
    )


def _list(r: Random, _: Material) -> Prompt:
    things, n = r.choice(_words("things")), r.choice((3, 4, 5, 6, 7, 8, 10, 12))
    end = r.choice(["", "", " as a numbered list", " with one sentence each", " as a table", " as JSON"])
    return Prompt(
        "list", r.choice([f"List {n} {things}{end}.", f"Give me {n} {things}{end}.", f"What are {n} {things}?"])
    )


def _how(r: Random, _: Material) -> Prompt:
    goal = r.choice(_words("goals"))
    forms = [f"How do I {goal}?", f"What is the best way to {goal}?", f"Give me tips on how to {goal}."]
    forms += [f"I want to {goal}. Where should I start?", f"Explain step by step how to {goal}."]
    return Prompt(
        "how", r.choice(forms) + r.choice(["", "", " Keep it short.", " I have little time.", " Be specific."])
    )


def _maths(r: Random, _: Material) -> Prompt:
    a, b, c = r.randint(3, 60), r.randint(2, 12), r.randint(2, 40)
    (one, two), goods = r.sample(_words("names"), 2), r.choice(_words("goods"))
    return Prompt(
        "maths",
        r.choice(
            [
                f"{one} has {a + c} {goods} and gives {c} of them to {two}. How many are left?",
                f"A box holds {b} {goods}. How many {goods} are in {a} boxes?",
                f"{one} buys {a} {goods} at {b} dollars each and pays {a * b + c} dollars. How much is the change?",
                f"What is {a} times {c}, plus {b}? Show the steps.",
                f"Solve for x: {b}x + {a} = {a + b * c}.",
                f"What is {b * 5}% of {a * 10}?",
                f"A train travels {a * b} km in {b} hours. What is its average speed?",
                f"A rectangle is {a} cm long and {c} cm wide. What are its area and its perimeter?",
                f"{one} saves {a} dollars a week. After how many weeks are there {a * c} dollars?",
                f"Compute the mean and the median of {a}, {b}, {c}, {a + b} and {b + c}.",
                f"{one} is {a} years old, {two} is {b} years older. How old are they together?",
                f"Write {a * c + b} as a product of prime numbers.",
            ]
        ),
    )


def _about_prose(r: Random, m: Material) -> Prompt | None:
    if not m.paragraphs:
        return None
    asked = r.choice(
        [
            "Summarise the following paragraph in one sentence.",
            "Summarise this text in your own words.",
            "Rewrite the following text in simpler language.",
            "Rewrite this paragraph in a friendlier tone, and keep its content.",
            "List the main points of the following text.",
            "What is the following text about? Answer in a few words.",
            "Write three questions that the following text answers.",
            "Give the following text a title.",
            "Repeat the following text, but replace every 'you' with 'the user'.",
            "Copy this text and put each sentence on a line of its own.",
            "Find the most important sentence of this text and quote it.",
            "Explain the following paragraph to somebody who is new to programming.",
            "Extract the technical terms of this text as a list.",
            "Shorten the following text to half of its length.",
        ]
    )
    return Prompt("prose", f"{asked}\n\n{r.choice(m.paragraphs)}")


def _about_code(r: Random, m: Material) -> Prompt | None:
    if not m.functions:
        return None
    asked = r.choice(
        [
            "Explain what this function does.",
            "Explain the following code line by line.",
            "What does this function return? Answer briefly.",
            "Write a test for the following function.",
            "Write a docstring for this function.",
            "Review this code. What could be better?",
            "Which errors can this function raise?",
            "Suggest a better name for this function and say why.",
            "Show an example of how to call this function.",
        ]
    )
    return Prompt("about code", f"{asked}\n\n```python\n{r.choice(m.functions)}\n```")


def _edit(r: Random, m: Material) -> Prompt | None:
    """A function with a small change asked for, of things that are really in it."""
    if not m.functions:
        return None
    code = r.choice(m.functions)
    function = ast.parse(code).body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    new = r.choice(["value", "item", "result_", "data", "target", "source", "options", "count", "name_", "entry"])
    changes = [
        f"Rename the function {function.name} to {r.choice(['compute', 'run', 'handle', 'get', 'do'])}_{function.name}",
        "Remove the docstring",
        "Remove all comments",
        "Make the docstring one line long",
        "Add a print statement at the start that shows the name of the function",
        "Add a logging call at the end",
        "Use single quotes for all strings",
        "Add type hints",
    ]
    for argument in arguments:
        changes += [f"Rename the argument {argument} to {new}", f"Raise a ValueError if {argument} is None"]
        changes += [f"Give {argument} the default value None"]
    change = r.choice(changes)
    form = r.choice(
        [
            f"{change} and show the whole function.",
            f"{change}. Leave everything else as it is.",
            f"Please edit this function: {change[0].lower()}{change[1:]}. Return the complete code.",
        ]
    )
    return Prompt("edit", f"{form}\n\n```python\n{code}\n```")


def _complete(r: Random, m: Material) -> Prompt | None:
    if not m.functions:
        return None
    asked = r.choice(["Complete this function.", "Finish the following Python function.", "Fill in the missing body."])
    return Prompt("complete", f"{asked}\n\n```python\n{head_of(r.choice(m.functions))}\n```")


def _function_head(r: Random, m: Material) -> Prompt | None:
    return Prompt("function", head_of(r.choice(m.functions)), chat=False) if m.functions else None


def _sketch(r: Random, _m: Material) -> Prompt:
    """Signature and docstring of a function that nobody has written yet, from a task."""
    verb, _, rest = r.choice(_words("code tasks")).partition(" ")
    task = f"{verb.removesuffix('es' if verb.endswith(('sses', 'ches')) else 's')} {rest}"  # "sorts" -> "sort"
    told = [word for word in "".join(c if c.isalpha() else " " for c in task.lower()).split() if len(word) > 3]
    name = "_".join(told[: r.randint(2, 3)])
    hints = r.random() < 0.5
    arguments = r.sample(("text: str", "items: List[int]", "n: int", "path: str", "names: List[str]", "size: int"), 2)
    given = ", ".join(a if hints else a.partition(":")[0] for a in arguments[: r.randint(1, 2)])
    start = "from typing import List\n\n\n" if hints else ""
    doc = f"{task[0].upper()}{task[1:]}."
    quoted = r.choice([f'""" {doc}\n    """', f'"""{doc}"""', f'"""\n    {doc}\n    """', f"'''{doc}'''"])
    return Prompt("sketch", f"{start}def {name}({given}):\n    {quoted}", chat=False)


def _file_head(r: Random, m: Material) -> Prompt | None:
    """The first lines of a file, cut at the end of a line; without its newline, which would glue to the next indent."""
    if not m.files:
        return None
    lines = r.choice(m.files).split("\n")
    text = "\n".join(lines[: r.randint(8, 60)]).rstrip()
    return Prompt("file", text, chat=False) if len(text) >= 100 else None


Maker = Callable[[Random, Material], Prompt | None]
_MAKERS: Sequence[tuple[Maker, int, bool]] = (  # maker, share, whether it makes chats
    (_code, 5, True),
    (_explain, 4, True),
    (_write, 4, True),
    (_list, 2, True),
    (_how, 2, True),
    (_maths, 2, True),
    (_about_prose, 3, True),
    (_about_code, 2, True),
    (_edit, 5, True),
    (_complete, 3, True),
    (_function_head, 3, False),
    (_sketch, 1, False),
    (_file_head, 1, False),
)
