"""`torch.compile` applied from outside: to which modules, how, and where its results are kept.

On a CPU the weights become constants of the compiled call ("freezing"): PyTorch then packs them
once in the layout its matrix and convolution kernels want. A call of every batch size is compiled
when it first comes, and later processes find the generated code in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from engine.cache_dir import user_cache
from engine.errors import DiffEditError

log = logging.getLogger(__name__)

CPU_BATCH_SIZES = (1, 2)
"""A CPU's cores are busy with one row. More sizes would cost a compilation and a copy of the packed
weights each."""
SIZES_AT_MOST = 64
"""Compiled variants of one module, over all picture sizes and batches; PyTorch's own limit of 8
makes it run uncompiled past that, without a word."""


def compile_modules(modules: dict[str, torch.nn.Module], device: torch.device) -> None:
    """Have the UNet and both halves of the VAE compiled at their first calls.

    Raises DiffEditError where that needs a C++ compiler and there is none.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache() / "torch"))
    if device.type == "cpu":
        need_compiler()
    import_compiler()
    torch._dynamo.config.recompile_limit = max(SIZES_AT_MOST, torch._dynamo.config.recompile_limit)
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    vae: Any = modules["vae"]
    for part in (modules["unet"], vae.encoder, vae.decoder):  # a VAE is never called whole
        part.compile(dynamic=False)


def import_compiler() -> None:
    """Import PyTorch's compiler, without the warnings that its own deprecated code raises.

    PyTorch imports it at the first compiled call otherwise, where a program that turns warnings
    into errors would fail.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._inductor.compile_fx")


def need_compiler() -> None:
    """Raises DiffEditError where PyTorch finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError, RuntimeError):
        raise DiffEditError(
            "Compiling for a CPU needs a C++ compiler, and none was found: install g++ (or name "
            "one in CXX), or leave the option to compile out."
        ) from None


@contextlib.contextmanager
def first_call(name: str, batch: int, device: torch.device) -> Iterator[None]:
    """Around the call that compiles: says so, and makes the weights constants on a CPU."""
    from torch._inductor import config

    log.info("compiling the %s for %d rows; this takes minutes the first time", name, batch)
    began = time.perf_counter()
    with config.patch(freezing=device.type == "cpu"):
        yield
    log.info("compiled the %s for %d rows in %.0f s", name, batch, time.perf_counter() - began)
