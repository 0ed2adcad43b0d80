"""`torch.compile`, applied to the modules of a checkpoint.

On a CPU the weights become constants of the compiled code ("freezing"): PyTorch then packs them
once, in the layout of its matrix and convolution kernels. Every batch size is compiled at its first
call. The generated code is kept in the user's cache folder for later processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence

import torch

from engine.cache_dir import user_cache
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

CPU_BATCH_SIZES = (1, 2)
"""One row is enough to use all cores of a CPU. Each further batch size would need a compilation and
another copy of the packed weights."""
MAX_VARIANTS = 64
"""Compiled variants of one module, over all picture sizes and batch sizes. PyTorch's default is 8,
and it runs a module uncompiled beyond that, without a warning."""


def import_compiler() -> None:
    """Import PyTorch's compiler; ignore the deprecation warnings of its own modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._dynamo
        import torch._inductor.compile_fx  # noqa: F401


def compile_modules(modules: Sequence[torch.nn.Module], device: torch.device) -> None:
    """Mark modules to be compiled at their first calls.

    Raises DiffEditError if `device` is a CPU and there is no C++ compiler, or no folder for
    the generated code.
    """
    _choose_cache_folder()
    if device.type == "cpu":
        need_compiler()
    import_compiler()
    torch._dynamo.config.recompile_limit = max(MAX_VARIANTS, torch._dynamo.config.recompile_limit)
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    for module in modules:
        module.compile(dynamic=False)


def _choose_cache_folder() -> None:
    """Store the generated code in the user's cache folder, unless the user chose another one."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(user_cache() / "torch")
    except OSError as error:
        raise DiffEditError(
            f"Compiling needs a folder for the generated code, but {error}; set "
            "TORCHINDUCTOR_CACHE_DIR to one, or leave compile out."
        ) from None


def need_compiler() -> None:
    """Raise DiffEditError if PyTorch finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError, RuntimeError):
        raise DiffEditError(
            "Compiling for a CPU needs a C++ compiler, but none was found; install g++ (or set CXX "
            "to another compiler), or leave compile out."
        ) from None


@contextlib.contextmanager
def first_call(name: str, batch: int, device: torch.device) -> Iterator[None]:
    """Wrap the call that compiles: log it, and on a CPU make the weights constants."""
    from torch._inductor import config

    log.info("compiling the %s for %d rows; this takes minutes the first time", name, batch)
    start = time.perf_counter()
    with config.patch(freezing=device.type == "cpu"):
        yield
    log.info("compiled the %s for %d rows in %.0f s", name, batch, time.perf_counter() - start)
