"""Compiles `step.cpp` for this machine, once, and loads it. Kept in a folder by source, compiler and flags."""

from __future__ import annotations

import ctypes
import hashlib
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
    try:
        made = next((file for file in map(file_in, (SOURCE.parent, folder)) if file.exists()), None)
        return Library(made or build(file_in(folder)))
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None


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
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError(f"no C++ compiler: none of {', '.join(COMPILERS)} is there")
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        command = [compiler, *FLAGS, "-o", str(made), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
        os.replace(made, file)
    return file
