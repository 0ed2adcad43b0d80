"""Build and load the CPU kernels with the machine's C++ compiler.

A kernel is compiled at its first use, into the user's cache folder. On machines without a compiler,
such as containers, they can be compiled beforehand, next to their sources:

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
COMPILE_TIMEOUT = 120
"""Seconds."""
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


class NativeError(RuntimeError):
    """A kernel cannot be used on this machine; the message is a clause with the reason."""


def load(source: Path, name: str) -> Any:
    """Load the function `name` of a C++ file, compiled if necessary. It returns an int.

    Raises NativeError with the message of the compiler or the loader.
    """
    try:
        function = getattr(ctypes.CDLL(str(_library(source))), name)
    except (OSError, AttributeError) as error:
        raise NativeError(f"its library cannot be loaded ({error}).") from None
    function.restype = ctypes.c_int
    return function


def is_preferred() -> bool:
    """Return whether the kernels are faster than PyTorch's on this kind of processor.

    This depends on the processor's features and not on a measurement: two processes on one machine
    must use the same kernels, because they round differently. With AVX-512 BF16 and no AMX, they
    were 1.6 to 2.4 times as fast as PyTorch's at the sizes of Stable Diffusion 1.5's U-Net. With
    AMX, PyTorch's were 1.2 to 6.9 times as fast as these (benchmarks/LOG.md, attempts 5, 6 and 17).
    """
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def works(operation: str, kernel: Callable[[], object]) -> bool:
    """Return whether a kernel can run here: the processor has the instructions, and it compiles.

    Args:
        operation: the operation's name, for the log.
        kernel: loads the kernel, or raises NativeError.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return False
    try:
        kernel()
    except NativeError as error:
        log.info("%s uses PyTorch's kernels: %s", operation, error)
        return False
    return True


def build(source: Path, folder: Path) -> Path:
    """Compile a C++ file into a shared library in `folder`, unless it is there already.

    Raises NativeError with the compiler's message.
    """
    path = folder / _library_name(source)
    if path.exists():
        return path
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise NativeError("there is no C++ compiler (g++, or the one in CXX).")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            output = Path(temporary) / path.name
            command = [compiler, *FLAGS, str(source), "-o", str(output)]
            done = subprocess.run(command, text=True, capture_output=True, timeout=COMPILE_TIMEOUT)
            if done.returncode:
                message = (done.stderr.strip() or "no message").splitlines()[0]
                raise NativeError(f"{compiler} could not compile it ({message}).")
            os.replace(output, path)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"it could not be compiled into {folder} ({error}).") from None
    return path


def _library(source: Path) -> Path:
    """Return the library next to the source, or the one in the user's cache folder."""
    prebuilt = source.with_name(_library_name(source))
    if prebuilt.exists():
        return prebuilt
    try:
        folder = user_cache()
    except OSError as error:
        raise NativeError(f"it cannot be stored anywhere: {error}.") from None
    return build(source, folder)


def _library_name(source: Path) -> str:
    """Return a name that changes with the source, its headers and the compiler's flags."""
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    content = "\n".join([*texts, *FLAGS])
    return f"{source.stem}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.so"


def main() -> None:
    """Build every kernel next to its source."""
    try:
        for source in sorted(Path(__file__).parent.glob("*.cpp")):
            sys.stdout.write(f"{build(source, source.parent)}\n")
    except NativeError as error:
        sys.exit(f"{source.name}: {error}")


if __name__ == "__main__":
    main()
