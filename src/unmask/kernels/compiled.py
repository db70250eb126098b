"""Compiles `step.cpp` for this machine, once, and loads it. Kept in a folder by source and flags."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from threading import Lock

from unmask.kernels.shapes import BatchShape, MatrixShape, ModelShape

SOURCE = Path(__file__).with_name("step.cpp")
FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni", "fma")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *(f"-m{name.replace('_', '')}" for name in FEATURES))
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 120  # that compiling may take
LOCK = Lock()
log = logging.getLogger(__name__)


class Library:
    """The functions of `step.cpp`."""

    def __init__(self, file: Path) -> None:
        found = ctypes.CDLL(str(file))
        self.layers, self.product = found.unmask_layers, found.unmask_product
        self.memory, self.release = found.unmask_memory, found.unmask_release
        self.memory.restype = c_void_p
        self.release.argtypes = [c_void_p]
        self.layers.argtypes = [POINTER(ModelShape), POINTER(BatchShape), c_void_p, c_int]
        self.product.argtypes = [POINTER(MatrixShape), c_void_p, c_int64, c_void_p, c_void_p, c_int]
        self.layers.restype = self.product.restype = self.release.restype = None


def library(folder: Path) -> Library | None:
    """The library, compiled into `folder` if it is not there yet; None where it cannot be had, or is not wanted
    (`UNMASK_KERNELS=0`). Compiling takes some seconds, for which other threads wait."""
    with LOCK:
        return find(folder)


@cache
def find(folder: Path) -> Library | None:
    if os.environ.get("UNMASK_KERNELS") == "0" or not sys.platform.startswith("linux") or not can_run():
        return None
    for file in map(file_in, (SOURCE.parent, folder)):
        try:
            if trusted(file):
                return Library(file)
        except (OSError, AttributeError) as error:
            log.warning("%s cannot be loaded: %s", file, error)
    try:
        return Library(build(file_in(folder)))
    except subprocess.CalledProcessError as error:
        log.warning("kernels cannot be compiled: %s", error.stderr.decode(errors="replace")[:500])
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.info("no kernels of our own: %s", error)
    return None


def trusted(file: Path) -> bool:
    """Whether it is there, and nobody but its owner could have written it, who is this user or the system's."""
    if not file.exists():
        return False
    for part in (file, file.parent):
        found = part.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            log.warning("%s is not loaded: others than you may write to %s", file, part)
            return False
    return True


def file_in(folder: Path) -> Path:
    """Where the library is in a folder. It may lie beside its source (`python -m unmask.kernels`), for images that
    have no compiler."""
    return folder / f"step-{version()}.so"


def version() -> str:
    """Changes with the source and the flags."""
    return hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:20]


def can_run() -> bool:
    """Whether this processor has the instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return set(FEATURES) <= set(flags)


def build(file: Path) -> Path:
    """Compile, into a file of another name first, so that nobody loads half a library. OSError without a compiler."""
    compilers = [path for name in COMPILERS if (path := shutil.which(name))]
    if not compilers:
        raise FileNotFoundError(f"no C++ compiler: none of {', '.join(COMPILERS)} is there")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        for number, compiler in enumerate(compilers, 1):
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
            done = subprocess.run(command, check=number == len(compilers), capture_output=True, timeout=SECONDS)
            if done.returncode == 0:
                break
        made.chmod(0o755)
        os.replace(made, file)
    return file
