"""Kernels of our own for CPUs with AVX-512 BF16: built by the machine's C++ compiler, loaded.

They are built when first wanted, into the user's cache folder, for one source and one compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.backends.caches import user_cache

INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "fma")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp"),
    *(f"-m{name}" for name in INSTRUCTIONS),
)
CLEARLY = 1.2
"""How many times faster a kernel must be in its trial: the choice is to be the same every time."""
COMPILING_AT_MOST = 120  # seconds
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


class NativeError(RuntimeError):
    """A kernel cannot be had here; one sentence."""


def load(source: Path, name: str) -> Any:
    """A function of the library made of a C++ file; it returns an int.

    Raises NativeError with what the compiler or the loader said.
    """
    try:
        found = getattr(ctypes.CDLL(str(_library(source))), name)
    except (OSError, AttributeError) as error:
        raise NativeError(f"its library cannot be loaded ({error}).") from None
    found.restype = ctypes.c_int
    return found


def fastest(call: Callable[[], object], tries: int = 4) -> float:
    """Seconds of the quickest of some calls."""
    taken = []
    for _ in range(tries):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _library(source: Path) -> Path:
    """The shared library, compiled if this source was not yet with this compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise NativeError("there is no C++ compiler (g++, or what CXX names).")
    known = "\n".join([source.read_text(), compiler, *FLAGS])
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    path = user_cache() / f"{source.stem}-{digest}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [compiler, *FLAGS, str(source), "-o", str(made)]
            done = subprocess.run(
                command, text=True, capture_output=True, timeout=COMPILING_AT_MOST
            )
            if done.returncode:
                first = (done.stderr.strip() or "no message").splitlines()[0]
                raise NativeError(f"{compiler} could not compile it ({first}).")
            os.replace(made, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"it could not be compiled into {path.parent} ({error}).") from None
    return path
