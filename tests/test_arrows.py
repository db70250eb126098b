"""Import direction, held by machine: a room imports only from the lines below it (docs/design.md, section 3).

Every import counts, inside functions and under TYPE_CHECKING too: to know a room's types is to know the room.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

SRC = Path(__file__).parent.parent / "src"
ROOT = "unmask"

# Top to bottom. Rooms of one line do not know each other. "__init__" is what `import unmask` gives.
LINES = [
    ["__main__"],
    ["cli"],
    ["server", "bench", "evaluation", "view"],
    ["__init__"],
    ["lm"],
    ["training", "engine"],
    ["model", "patching"],
    ["quantization"],
    ["decoding", "constraints", "text", "kernels"],
    ["visibility"],
    ["types", "config", "sandbox"],
]
LINE_OF = {room: number for number, line in enumerate(LINES) for room in line}
MAY_USE_TORCH = {"model", "engine", "training", "quantization", "bench", "lm"}
# So that every decoding rule is tested in milliseconds.
STANDARD_LIBRARY_ONLY = {"types", "config", "decoding", "sandbox", "kernels"}
LONGEST_FILE = 350


When = Literal["on load", "in a call", "for types only"]


class Import(NamedTuple):
    """One import: the dotted name of a module, where it stands, and when it runs."""

    name: str
    line: int
    when: When


class Module(NamedTuple):
    name: str
    path: Path
    imports: list[Import]

    @property
    def room(self) -> str:
        return room_of(self.name)


def room_of(module: str) -> str:
    """Room of a module of ours: "unmask.model.kv" -> "model"."""
    _, _, inner = module.partition(".")
    return inner.split(".")[0] or "__init__"


def read_tree(src: Path) -> list[Module]:
    """All modules of the package under `src` with what they import."""
    paths = {name_of(path, src): path for path in sorted((src / ROOT).rglob("*.py"))}
    return [Module(name, path, list(imports_of(path, name, set(paths)))) for name, path in paths.items()]


def name_of(path: Path, src: Path) -> str:
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, name: str, modules: set[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    in_calls = inside(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    for_types = inside(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    for node in ast.walk(tree):
        for target in targets(node, package, modules):
            when: When = "for types only" if node in for_types else "in a call" if node in in_calls else "on load"
            yield Import(target, getattr(node, "lineno", 0), when)


def inside(tree: ast.AST, holds: Callable[[ast.AST], bool]) -> set[ast.AST]:
    """All nodes in the bodies of those nodes of the tree for which `holds` is true."""
    bodies = [getattr(block, "body", []) for block in ast.walk(tree) if holds(block)]
    return {node for body in bodies for statement in body for node in ast.walk(statement)}


def targets(node: ast.AST, package: str, modules: set[str]) -> Iterator[str]:
    """Modules that one node imports. `from a import b` means a.b where that is a module, otherwise a."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: package.count(".") + 2 - node.level]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            if (base, alias.name) != (ROOT, "__version__"):  # a string that every room may print
                yield f"{base}.{alias.name}" if is_ours(f"{base}.{alias.name}", modules) else base
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def is_ours(name: str, modules: set[str]) -> bool:
    """Whether a dotted name is a module of the package or a room that is still to be built."""
    return name in modules or (name.count(".") == 1 and name.startswith(f"{ROOT}.") and room_of(name) in LINE_OF)


def problems(src: Path) -> list[str]:
    """All that breaks a rule, one line each."""
    tree = read_tree(src)
    return [*unknown_rooms(tree), *wrong_arrows(tree), *foreign_imports(tree), *long_files(tree), *cycles(tree)]


def unknown_rooms(tree: list[Module]) -> Iterator[str]:
    for room in sorted({module.room for module in tree} - LINE_OF.keys()):
        yield f"{room}: a room that is on no line; give it one in docs/design.md and here"


def wrong_arrows(tree: list[Module]) -> Iterator[str]:
    for module in tree:
        for name, line, when in module.imports:
            here, there = module.room, room_of(name)
            if name.split(".")[0] != ROOT or here == there or not {here, there} <= LINE_OF.keys():
                continue
            if LINE_OF[there] <= LINE_OF[here]:
                yield f"{module.path}:{line}: {here} must not import {there}, which is not below it"
            elif module.name == ROOT and when == "on load":
                yield f"{module.path}:{line}: `import unmask` must stay quick: import {name} only when it is asked for"


def foreign_imports(tree: list[Module]) -> Iterator[str]:
    for module in tree:
        for name, line, _ in module.imports:
            top = name.split(".")[0]
            if top == "torch" and module.room not in MAY_USE_TORCH:
                yield f"{module.path}:{line}: {module.room} must not import torch"
            elif module.room in STANDARD_LIBRARY_ONLY and top != ROOT and top not in sys.stdlib_module_names:
                yield f"{module.path}:{line}: {module.room} must not import {top}: standard library only"


def long_files(tree: list[Module]) -> Iterator[str]:
    for module in tree:
        lines = len(module.path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_FILE:
            yield f"{module.path}: {lines} lines, over {LONGEST_FILE}: split it"


def cycles(tree: list[Module]) -> Iterator[str]:
    # Two files of one room may know each other's types: only imports that run can go round in circles.
    graph = {m.name: sorted({i.name for i in m.imports if i.when != "for types only"} - {m.name}) for m in tree}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "import cycle: " + " -> ".join(reversed(error.args[1]))


def test_arrows() -> None:
    assert not problems(SRC), "\n" + "\n".join(problems(SRC))


def made_up(src: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = src / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return src


FINE = {
    "__init__.py": "def __getattr__(name):\n    from unmask.lm import LM\n    return LM\n",
    "__main__.py": "from unmask.cli import main\n",
    "cli.py": "from unmask import LM, __version__, server, types\n",
    "server/__init__.py": "from unmask.engine import runner\n",
    "engine/__init__.py": "",
    "engine/runner.py": "import torch\nfrom . import pages\nfrom ..model.kv import Cache\nimport unmask.decoding\n",
    "engine/pages.py": "import numpy\n",
    "model/kv.py": "import torch.nn.functional as F\nfrom unmask.types import Span\n",
    "model/adapter.py": "if TYPE_CHECKING:\n    from unmask.model.decoder import Decoder\n",
    "model/decoder.py": "from unmask.model.adapter import LowRank\n",
    "decoding/__init__.py": "import math\nfrom unmask.decoding import ar\n",
    "decoding/ar.py": "from ..types import Span\nfrom unmask import visibility\n",
    "types.py": "import dataclasses\n",
}


def test_the_checker_lets_a_sound_tree_pass(tmp_path: Path) -> None:
    assert problems(made_up(tmp_path, FINE)) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("model/kv.py", "from unmask.engine.runner import step\n", "kv.py:1: model must not import engine"),
        ("model/kv.py", "def f():\n    import unmask.engine\n", "kv.py:2: model must not import engine"),
        ("model/kv.py", "if TYPE_CHECKING:\n    from ..lm import LM\n", "kv.py:2: model must not import lm"),
        ("model/kv.py", "from .. import lm\n", "kv.py:1: model must not import lm"),
        ("model/kv.py", "from unmask import LM\n", "kv.py:1: model must not import __init__"),
        ("model/kv.py", "import_module('unmask.server')\n", "kv.py:1: model must not import server"),
        ("engine/runner.py", "from unmask import training\n", "runner.py:1: engine must not import training"),
        ("text.py", "from unmask.constraints import regex\n", "text.py:1: text must not import constraints"),
        ("types.py", "import unmask.config\n", "types.py:1: types must not import config"),
        ("text.py", "import torch\n", "text.py:1: text must not import torch"),
        ("server/app.py", "def f():\n    from torch.nn import Module\n", "app.py:2: server must not import torch"),
        ("decoding/ar.py", "import numpy as np\n", "ar.py:1: decoding must not import numpy"),
        ("__init__.py", "from unmask.lm import LM\n", "__init__.py:1: `import unmask` must stay quick"),
        ("attic.py", "", "attic: a room that is on no line"),
        ("types.py", "\n" * 351, "types.py: 351 lines, over 350"),
        ("engine/pages.py", "from .runner import step\n", "import cycle: unmask.engine"),
        ("decoding/ar.py", "from unmask.decoding import start\n", "import cycle: unmask.decoding"),
    ],
)
def test_the_checker_complains(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    assert complaint in "\n".join(problems(made_up(tmp_path, {**FINE, file: text})))
