"""Install torch into the environment that runs this: a CPU build where no GPU is visible.

On Linux the package registry's torch brings gigabytes of CUDA libraries, which a machine without a GPU has no use for.
Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import importlib
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"

Version = tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """Versions that will do: from `low` up to, and without, `high`."""

    low: Version
    high: Version

    def __contains__(self, version: str) -> bool:
        number = release(version)
        return number is not None and self.low <= number < self.high

    def __str__(self) -> str:
        return f"torch>={'.'.join(map(str, self.low))},<{'.'.join(map(str, self.high))}"


class Choice(NamedTuple):
    """Which installer to ask, and for what."""

    installer: Literal["pip", "uv"]
    requirement: str


def release(version: str) -> Version | None:
    """The numbers of a version, whatever its build ("2.13.0+cpu"); None for pre-releases, which nobody asked for."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)(?:\+[\w.]+)?", version)
    return tuple(map(int, found[1].split("."))) if found else None


def wanted(pyproject: str) -> Wanted:
    """The range that the package itself asks for, so that it is written in one place."""
    for requirement in tomllib.loads(pyproject)["project"]["dependencies"]:
        if found := re.fullmatch(r"torch>=([\d.]+),<([\d.]+)", requirement):
            low, high = (release(bound) or () for bound in found.groups())
            return Wanted(low, high)
    raise SystemExit("pyproject.toml: expected a dependency of the form torch>=A,<B")


def choose(versions: Iterable[str], system: str, gpu: bool, want: Wanted) -> Choice:
    """What to install, given the versions that pip can find (here), the operating system and whether a GPU is visible.

    uv is asked only where pip has nothing but CUDA builds: it knows where CPU builds are kept.
    """
    if gpu:
        return Choice("pip", str(want))
    cpu_builds = [version for version in versions if version in want and version.endswith("+cpu")]
    if cpu_builds:
        return Choice("pip", f"torch=={max(cpu_builds, key=lambda version: release(version) or ())}")
    return Choice("pip" if system in ("Darwin", "Windows") else "uv", str(want))


def available(listing: str) -> list[str]:
    """Versions in what `pip index versions` prints."""
    found = re.search(r"^Available versions: (.+)$", listing, flags=re.MULTILINE)
    return found[1].split(", ") if found else []


def installed() -> str | None:
    """Version of the torch that is there and works."""
    try:
        return str(importlib.import_module("torch").__version__)
    except (ImportError, OSError):  # OSError: a shared library of a broken or interrupted installation
        return None


def gpu_visible() -> bool:
    """Whether an NVIDIA driver is at work here."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi, "-L"], capture_output=True, check=False).returncode == 0


def pip(*arguments: str, listen: bool = False) -> subprocess.CompletedProcess[str]:
    """Run this environment's pip; `listen` keeps what it prints instead of showing it."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=listen, text=True, check=False)


def install(choice: Choice) -> bool:
    """Carry the choice out; whether it went well."""
    if choice.installer == "pip":
        return pip("install", "-qq", choice.requirement).returncode == 0
    if pip("install", "-qq", "uv").returncode:
        return False
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    return subprocess.run([*command, "--torch-backend", "cpu", choice.requirement], check=False).returncode == 0


def main() -> None:
    want = wanted(PYPROJECT.read_text(encoding="utf-8"))
    if (installed() or "") in want:
        return
    # Not `pip install --dry-run`, which fetches the whole wheel (half a gigabyte) to say which one it would take.
    versions = available(pip("index", "versions", "torch", listen=True).stdout)
    choice = choose(versions, platform.system(), gpu_visible(), want)
    name = choice.requirement + (" (CPU build)" if choice.installer == "uv" else "")
    print(f"Installing {name}, which may take some minutes", flush=True)
    if not install(choice):
        anyway = f'{sys.executable} -m pip install "{want}"'
        sys.exit(f"Could not install {name}; to take the registry's own build:  {anyway}  and then try again")


if __name__ == "__main__":
    main()
