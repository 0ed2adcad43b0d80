"""Kernels of our own for CPUs with AVX-512 BF16: built by the machine's C++ compiler, loaded.

They are built when first wanted, into the user's cache folder. For machines without a compiler
(a container, say) they can be built beforehand, beside their sources:

    python -m engine.backends.torch.kernels.build
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine.cache_dir import user_cache

log = logging.getLogger(__name__)

INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "fma")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp"),
    *(f"-m{name}" for name in INSTRUCTIONS),
)
CLEARLY = 1.2
"""How many times faster a kernel must be in its trial: the choice is to be the same every time."""
TRIES = 4
COMPILING_AT_MOST = 120  # seconds
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64

Call = Callable[[], object]


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


def wins(what: str, kernel: Callable[[], object], trial: Callable[[], tuple[Call, Call]]) -> bool:
    """Whether a kernel can be had here and clearly beats PyTorch's.

    Args:
        what: it computes, for the log.
        kernel: gives it, or raises NativeError.
        trial: gives the same work for both: a call of ours and one of PyTorch's.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    try:
        kernel()
    except NativeError as error:
        log.info("%s by PyTorch's kernels: %s", what, error)
        return False
    with torch.inference_mode():
        ours, theirs = (_fastest(call) for call in trial())
    log.info("%s: %.1f ms by our kernel, %.1f ms by PyTorch's", what, 1e3 * ours, 1e3 * theirs)
    return ours * CLEARLY < theirs


def _fastest(call: Call) -> float:
    """Seconds of the quickest of some calls."""
    taken = []
    for _ in range(TRIES):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)


def build(source: Path, folder: Path) -> Path:
    """The shared library of a C++ file in a folder, compiled if it is not there yet.

    Raises NativeError with what the compiler said.
    """
    path = folder / _name(source)
    if path.exists():
        return path
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise NativeError("there is no C++ compiler (g++, or what CXX names).")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / path.name
            command = [compiler, *FLAGS, str(source), "-o", str(made)]
            done = subprocess.run(
                command, text=True, capture_output=True, timeout=COMPILING_AT_MOST
            )
            if done.returncode:
                first = (done.stderr.strip() or "no message").splitlines()[0]
                raise NativeError(f"{compiler} could not compile it ({first}).")
            os.replace(made, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"it could not be compiled into {folder} ({error}).") from None
    return path


def _library(source: Path) -> Path:
    beside = source.with_name(_name(source))
    return beside if beside.exists() else build(source, user_cache())


def _name(source: Path) -> str:
    """Another one for every version of the source and its headers, and of how it is compiled."""
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    known = "\n".join([*texts, *FLAGS])
    return f"{source.stem}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"


def main() -> None:
    """Build every kernel beside its source."""
    try:
        for source in sorted(Path(__file__).parent.glob("*.cpp")):
            sys.stdout.write(f"{build(source, source.parent)}\n")
    except NativeError as error:
        sys.exit(f"{source.name}: {error}")


if __name__ == "__main__":
    main()
