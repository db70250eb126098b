"""Oracles: what they find, where they put it, and that they are silent about sound code."""

from __future__ import annotations

import ast
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.patching.oracles import tools
from unmask.patching.oracles.calls import Calls, Layers, module_of
from unmask.patching.oracles.commands import Command, startup
from unmask.patching.oracles.copies import check_name, inside, limits_of, run_command
from unmask.patching.oracles.modules import has, spec_of
from unmask.patching.oracles.orm import SqlAlchemy
from unmask.patching.oracles.prefix import stuck
from unmask.patching.oracles.python import Imports, Names
from unmask.patching.oracles.specs import oracle_of
from unmask.patching.oracles.syntax import Syntax
from unmask.types import ByteSpan, Oracle, Verdict, View

OURS = sorted((Path(__file__).parent.parent.parent / "src" / "unmask").rglob("*.py"))


def said(oracle: Oracle, text: str, path: str | None = None) -> Verdict:
    return oracle.check(View.of(text, path=path))


def told(verdict: Verdict, text: str) -> list[tuple[str, str]]:
    """(code, what is underlined) of every fault."""
    data = text.encode()
    return [(one.code, data[one.span.start : one.span.end].decode()) for one in verdict.violations]


# Syntax.


@pytest.mark.parametrize("file", random.Random(0).sample(OURS, 12), ids=lambda file: file.name)
def test_beginnings_of_sound_code_are_never_wrong(file: Path) -> None:
    text = file.read_text(encoding="utf-8")[:5000]
    cuts = random.Random(file.name).sample(range(len(text)), 6)
    for cut in cuts:
        assert stuck(text[:cut]) is None, text[max(cut - 60, 0) : cut]


SOUND = [
    "f(a, *b, c, *d, **e, g=1, **h)\nx: T = a, *b\nreturn_ = lambda: (yield)\n",
    "@a[0].b(c).d\ndef g():\n    with f() as (a, *b), h():\n        return a, *b\n    for i in a, *b: yield i, *b\n",
    "x = [a for b in c if d if e for f in g if h]\ny = 'a\\\nb'\ntry:\n    pass\nexcept* E as e:\n    z[*a, 1:2]\n",
    "def f(\n  a, *,\n  b=1,\n) -> int:\n    return a  # end\n",
    "x = '''open\n and \"quoted\"''' + f'{1!r:>{2}}' \\\n    + 'é'\nif x:\n    y = 1\nelse:\n    pass\n",
    "class A(B, metaclass=C):\n    @d(1)\n    async def f(self, /, *a, **k): await g(*a, **k)\n\n\n    z: int = 1\n",
    "with open('a') as f, open('b') as g:\n\tfor i in f:\n\t\tprint(i)\n\ttry:\n\t\tpass\n\tfinally:\n\t\tdel i\n",
    "match x:\n    case {'a': [1, *_]} if y:\n        pass\nlambda *a, **k: (yield)\n",
]


@given(st.sampled_from(SOUND), st.data())
def test_every_beginning_of_every_statement(text: str, data: st.DataObject) -> None:
    ast.parse(text)
    assert stuck(text[: data.draw(st.integers(0, len(text)))]) is None


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("x = = 1", "="),
        ("def f(:\n", ":"),
        ("return x +\n", "\n"),
        ("if x\n    y", "\n    "),
        ("x = (1, 2]]\n", "]"),
        ("def f():\nx = 1\n", "x"),
        ("if x:\n        a = 1\n    b = 1\n", "    b = 1"),
        ("'abc\nx = 1\n", "'"),
        ("for é in in x:\n    pass\n", "in"),
        ("x = 1 2 3\n", "2"),
    ],
)
def test_beginnings_that_lead_nowhere(text: str, at: str) -> None:
    found = stuck(text)
    assert found is not None
    assert text[found[0] : found[1]] == at
    verdict = Syntax().check(View(text, ByteSpan(0, len(text.encode())), complete=False))
    assert [one.code for one in verdict.violations] == ["invalid-syntax"]
    assert told(verdict, text)[0][1] == at


@pytest.mark.parametrize(
    "text", ["i", "x = 1 i", "x = 'a", 'f("""a\nb', "x = a !", "x = 1 \\", "def f():\n    ", "x.", "@"]
)
def test_what_may_still_grow(text: str) -> None:
    assert stuck(text) is None


def test_what_the_grammar_does_not_know_is_unknown() -> None:
    for text in ("class A[T]:\n    x: T\n", "with (\n    open('a') as f,\n    open('b') as g,\n):\n    pass\n"):
        assert Syntax().check(View(text, ByteSpan(0, len(text)), complete=False)).status == "unknown"


def test_only_what_is_written_counts_while_it_is_written() -> None:
    text = "x = (1,\n) ) )\n"
    assert Syntax().check(View(text, ByteSpan(4, 7), complete=False)).status == "satisfied"
    assert Syntax().check(View(text, ByteSpan(4, 7))).status == "violated"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("é = 1\nx = 2 +* 3\n", "*"),
        ("def f():\n  return\nreturn 1\n", "return 1"),
        ("x = (\n", "("),
        ("def f(a, a): pass\n", "a"),
        ("é = (1 2)\n", "1 2"),
    ],
)
def test_whole_texts_are_compiled(text: str, at: str) -> None:
    assert told(said(Syntax(), text), text) == [("invalid-syntax", at)]


# Names and imports.


def test_names() -> None:
    text = "import os, sys as é\n\ndef f(a):\n    ü = b\n    return 'ñ', bä.c(os)\n"
    assert told(said(Names(), text), text) == [
        ("unused-import", "é"),
        ("unused-variable", "ü"),
        ("undefined-name", "b"),
        ("undefined-name", "bä"),
    ]
    assert {one.severity for one in said(Names(), text).violations} == {0.5, 1.0}
    assert said(Names(), "def f(:\n").status == said(Imports(), "def f(:\n").status == "unknown"
    assert said(Names(), "print(len([i for i in range(3)]), __name__)\n") == Verdict("satisfied")


@pytest.mark.parametrize("file", random.Random(1).sample(OURS, 12), ids=lambda file: file.name)
def test_sound_code_has_no_faults(file: Path) -> None:
    view = View.of(file.read_text(encoding="utf-8"), path=file.name)
    for oracle in (Syntax(), Names(), Imports(frozenset({"unmask"}))):
        assert oracle.check(view).violations == ()


def test_imports() -> None:
    text = (
        "import os.path, nonesuch.a, json.nonesuch\n"
        "from collections.abc import Mapping, Mappings\n"
        "from . import x\nfrom __future__ import annotations\nfrom typing import *\nfrom itertools import chian\n"
        "try:\n    import tomlllib\nexcept ImportError:\n    pass\n"
    )
    assert told(said(Imports(), text), text) == [
        ("unresolved-import", "nonesuch.a"),
        ("unresolved-import", "json.nonesuch"),
        ("unresolved-import", "Mappings"),
        ("unresolved-import", "chian"),
    ]
    assert said(Imports(frozenset({"nonesuch", "json"})), "import nonesuch.a\n").status == "satisfied"


@pytest.mark.parametrize("module", ["os", "json", "re", "collections", "typing", "math", "itertools", "ast", "enum"])
def test_a_module_has_all_that_it_has(module: str) -> None:
    for name in dir(__import__(module)):
        assert has(module, name), name
    assert not has(module, "nonesuch")


def test_looking_for_a_module_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "loud_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "part.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert spec_of("loud_package.part") is not None
    assert spec_of("loud_package.other") is None


# Structure.


CALLS = """from os import system as run
import subprocess as sp

def save(self, é):
    sp.call("é")
    self.session.add(é)
    return run("x")
"""


def test_calls() -> None:
    verdict = said(
        Calls(must_not=("os.system", "subprocess.call", "call"), must=("session.commit", "session.add")), CALLS
    )
    assert told(verdict, CALLS) == [
        ("forbidden-call", 'sp.call("é")'),
        ("missing-call", ""),
        ("forbidden-call", 'run("x")'),
    ] or told(verdict, CALLS) == [
        ("forbidden-call", 'sp.call("é")'),
        ("forbidden-call", 'run("x")'),
        ("missing-call", ""),
    ]
    inner = said(Calls(must=("session.commit",), scope="save"), CALLS)
    (fault,) = inner.violations
    assert CALLS.encode()[fault.span.start :].decode().startswith('return run("x")')
    assert said(
        Calls(must=("session.add", "run"), scope="save"), CALLS.replace("from os import system as run", "")
    ) == (Verdict("satisfied"))
    assert said(Calls(must=("x",), scope="load"), CALLS).status == "unknown"
    with pytest.raises(ValueError, match="calls must name something"):
        Calls()


@pytest.mark.parametrize(
    ("path", "text", "status"),
    [
        ("app/models/user.py", "from app.services import users\n", "violated"),
        ("app/models/user.py", "from ..services.users import find\n", "violated"),
        ("app/models/user.py", "from .. import routes\n", "violated"),
        ("app/models/user.py", "from app.models import base\nimport os\n", "satisfied"),
        ("app/services/user.py", "import app.models.user as m\n", "satisfied"),
        ("app/services/user.py", "def f():\n    import app.routes\n", "violated"),
        ("app/other.py", "import app.routes\n", "unknown"),
    ],
)
def test_layers(path: str, text: str, status: str) -> None:
    ranks = {"models": 0, "services": 1, "routes": 2}
    assert said(Layers(ranks), text, path).status == status


def test_names_of_modules() -> None:
    assert module_of("./a/b/__init__.py") == "a.b"


MODELS = """from __future__ import annotations
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
class Base(DeclarativeBase):
    pass
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    näme: Mapped[str] = mapped_column(String(30))
    posts: Mapped[list["Post"]] = relationship(back_populates="author")
class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    author: Mapped[User] = relationship(back_populates="posts")
"""


@pytest.mark.parametrize(
    ("old", "new", "at"),
    [
        ("users.id", "users.ident", '"users.ident"'),
        ("users.id", "user.id", '"user.id"'),
        ("users.id", "users", '"users"'),
        ('back_populates="author"', 'back_populates="writer"', '"writer"'),
        ('"Post"', '"Posts"', 'posts: Mapped[list["Posts"]] = relationship(back_populates="author")'),
    ],
)
def test_models_that_do_not_agree(old: str, new: str, at: str) -> None:
    text = MODELS.replace(old, new)
    assert told(said(SqlAlchemy(run=False), text), text)[0][1] == at


def test_both_ends_of_a_pair_are_blamed() -> None:
    text = MODELS.replace('back_populates="posts"', 'back_populates="näme"')
    pair = said(SqlAlchemy(run=False), text).violations
    blamed = {text.encode()[span.start : span.end].decode() for one in pair for span in one.blamed}
    assert blamed == {'"author"', '"näme"'}


def test_models_of_several_files_are_judged_by_what_is_known() -> None:
    text = MODELS.replace("class Base(DeclarativeBase):\n    pass", "from base import Base").replace(
        "users.id", "teams.id"
    )
    assert said(SqlAlchemy(run=False), text) == Verdict("satisfied")
    mixed = MODELS.replace("class Post(Base)", "class Post(Mixin, Base)").replace('"users.id"', '"posts.uid"')
    assert said(SqlAlchemy(run=False), mixed) == Verdict("satisfied")  # the mixin may have it
    assert said(SqlAlchemy(), "x = 1\n").status == "satisfied"


@pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="sqlalchemy is not installed")
@pytest.mark.parametrize(
    ("old", "new", "status", "at"),
    [
        ("", "", "satisfied", None),
        ('ForeignKey("users.id")', "", "violated", "posts: Mapped"),
        ("String(30)", "Strin(30)", "violated", "    näme: Mapped"),
        ("import ForeignKey", "import nonesuch, ForeignKey", "unknown", None),
    ],
)
def test_sqlalchemy_has_the_last_word(old: str, new: str, status: str, at: str | None) -> None:
    text = MODELS.replace(old, new) if old else MODELS
    verdict = said(SqlAlchemy(), text)
    assert verdict.status == status
    if at is not None:
        assert told(verdict, text)[0][1].startswith(at)


# Tools and commands.


def test_tools_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "tool", lambda name: None)
    monkeypatch.setattr(tools, "find_spec", lambda name: None)
    assert said(tools.Ruff(), "x").status == said(tools.Mypy(), "x").status == "unknown"


@pytest.mark.slow
def test_mypy_of_a_file_and_of_a_project(tmp_path: Path) -> None:
    text = "def f(x: int) -> str:\n    return x\n"
    assert told(said(tools.Mypy(), text, "m.py"), text) == [("return-value", "x")]
    (tmp_path / "other.py").write_text("def g() -> str: ...\n", encoding="utf-8")
    (tmp_path / "m.py").write_text("", encoding="utf-8")
    text = "from other import g\n\nx: int = g()\n"
    assert told(said(tools.Mypy(tmp_path), text, "m.py"), text) == [("assignment", "g()")]


@pytest.mark.parametrize("confined", [True, False])
def test_commands_are_run_in_a_copy(tmp_path: Path, confined: bool) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "m.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "run.py").write_text("import part.m\nopen('left', 'w').close()\nprint(part.m.x / part.m.y)\n")
    command = Command("python run.py", "part/m.py", tmp_path, confined=confined)
    assert command.check(View.of("x = 1\ny = 1\n")) == Verdict("satisfied")
    text = "x = 1\ny = 0\n"
    verdict = command.check(View.of(text))
    assert (verdict.status, verdict.detail) == ("violated", "ZeroDivisionError: division by zero")
    assert verdict.violations[0].code == "exit-1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part", "run.py"]


def test_a_failure_blames_the_text(tmp_path: Path) -> None:
    text = "def f(a):\n    é = a.missing\n    return é\n"
    (tmp_path / "run.py").write_text("import m\nm.f(1)\n", encoding="utf-8")
    (fault,) = Command("python run.py", "m.py", tmp_path).check(View.of(text)).violations
    assert [text.encode()[span.start : span.end].decode() for span in fault.blamed] == ["a.missing"]


@pytest.mark.parametrize(("confined", "code"), [(True, None), (False, None)])
def test_a_command_that_does_not_end(confined: bool, code: int | None) -> None:
    ended = run_command("while true; do :; done", {}, limits_of(1.0), None, confined)
    assert (ended.ran, ended.code) == (True, code)
    assert ended.why


def test_start_up(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("from app import db\n", encoding="utf-8")
    oracle = startup("app", "app/db.py", tmp_path)
    assert oracle.check(View.of("x = 1\n")).status == "satisfied"
    verdict = oracle.check(View.of("import nonesuch_module\n"))
    assert (verdict.status, verdict.violations[0].message) == ("violated", "start-up of app failed")


def test_what_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret"
    for name in ("a.py", ".git/config", "x/__pycache__/a.pyc", "x/b.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    outside.write_text("key", encoding="utf-8")
    (root / "link").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    assert sorted(path.relative_to(root).as_posix() for path in inside(root)) == ["a.py", "x/b.py"]
    monkeypatch.setattr("unmask.patching.oracles.copies.MOST_FILES", 1)
    with pytest.raises(ValueError, match="is too large to be copied"):
        list(inside(root))


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "a\\b", "a\0", "."])
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(ValueError, match="must be a relative path that stays inside"):
        check_name(name)


# Their JSON.


@pytest.mark.parametrize(
    ("given", "oracle"),
    [
        ({"type": "calls", "must_not": ["eval"]}, Calls(must_not=("eval",))),
        ({"type": "calls", "must": ["a.b"], "scope": "C.f"}, Calls(must=("a.b",), scope="C.f")),
        ({"type": "layers", "ranks": {"a": 0, "b": 1}}, Layers({"a": 0, "b": 1})),
        ({"type": "sqlalchemy"}, SqlAlchemy()),
        ({"type": "ruff", "rules": ["E711"]}, tools.Ruff((*tools.RULES, "E711"))),
        ({"type": "mypy"}, tools.Mypy()),
        ({"type": "startup", "module": "app"}, startup("app", "m.py")),
    ],
)
def test_oracles_from_json(given: dict[str, object], oracle: Oracle) -> None:
    assert oracle_of(given, "m.py") == oracle


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"type": "magic"},
            "an oracle's type must be one of calls, layers, sqlalchemy, ruff, mypy, startup, got 'magic'",
        ),
        ([], "an oracle's type must be one of"),
        ({"type": "sqlalchemy", "url": "x"}, "has no field 'url'; it has: none"),
        ({"type": "calls"}, "calls must name something"),
        ({"type": "calls", "must": "eval"}, "must must be a list of names, got 'eval'"),
        ({"type": "calls", "must": ["a b"]}, "must must be a list of names"),
        ({"type": "layers"}, "ranks must map names to whole numbers, got None"),
        ({"type": "layers", "ranks": {"a": True}}, "ranks must map names to whole numbers, got True"),
        ({"type": "startup", "module": "a; rm -rf"}, "module must be a dotted name"),
        ({"type": "ruff", "rules": ["--fix"]}, "rules must be a list of names"),
    ],
)
def test_oracles_that_mean_nothing(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle_of(given, "m.py")
    if given == {"type": "magic"}:
        with pytest.raises(ValueError, match="one of calls, layers, sqlalchemy, ruff, got 'mypy'"):
            oracle_of({"type": "mypy"}, "m.py", static=True)
