"""Errors while weights are loaded state the actual cause."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from engine.checkpoint import Checkpoint
from engine.errors import CheckpointError, DiffEditError, ResourceError
from engine.loader import load_module

ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 3438167540 bytes."
)


class SafetensorError(Exception):
    """Named as the library's."""


REASONS: dict[str, tuple[Exception, type[DiffEditError], str]] = {
    "allocator": (RuntimeError(ALLOCATOR), ResourceError, "not enough memory to load .*unet"),
    "Python": (MemoryError(), ResourceError, "not enough memory"),
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory."), ResourceError, "not enough memory"),
    "C++": (RuntimeError("std::bad_alloc"), ResourceError, "not enough memory"),
    "mmap": (OSError(errno.ENOMEM, "Cannot allocate memory"), ResourceError, "not enough memory"),
    "Rust": (
        SafetensorError("I/O error: Cannot allocate memory (os error 12)"),
        ResourceError,
        "not enough memory",
    ),
    "permission": (
        PermissionError(errno.EACCES, "Permission denied", "/m/unet/model.safetensors"),
        CheckpointError,
        r"model.safetensors cannot be read \(permission denied\)",
    ),
    "disk": (OSError(errno.ENOSPC, "No space left", "/c/x"), ResourceError, "no space left for"),
    "a bad disk": (OSError(errno.EIO, "Input/output error"), CheckpointError, "Input/output error"),
    "missing file": (
        FileNotFoundError(errno.ENOENT, "No such file", "/m/x"),
        CheckpointError,
        "/m/x does not exist",
    ),
    "package": (
        ModuleNotFoundError("No module named 'accelerate.utils'", name="accelerate.utils"),
        CheckpointError,
        "the package accelerate is missing; install it",
    ),
    "broken package": (
        ImportError("cannot import name 'x' from 'torch'"),
        CheckpointError,
        "a package is missing or does not work",
    ),
    "damaged": (SafetensorError("invalid header"), CheckpointError, "are damaged.*invalid header"),
    "anything else": (KeyError("x"), CheckpointError, "cannot be loaded: KeyError: 'x'"),
    "no text": (ValueError(), CheckpointError, "cannot be loaded: ValueError"),
}


@pytest.mark.parametrize("case", REASONS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_reasons(case: str, wrapped: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a library hides it behind an error of its own."""
    error, kind, words = REASONS[case]

    def fail(*_: object, **__: object) -> Any:
        if not wrapped:
            raise error
        raise OSError("Unable to load weights from checkpoint file") from error

    if wrapped and case in ("anything else", "no text"):
        words = "cannot be loaded: OSError: Unable to load"
    if wrapped and case == "damaged":
        words = "are damaged"
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", fail)
    with pytest.raises(DiffEditError, match=words) as caught:
        load_module(Checkpoint.open(tiny), "unet", torch.float32)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert ("damaged" in str(caught.value)) == (case == "damaged")
    assert "download" not in str(caught.value) or case in ("missing file", "damaged")


def test_a_missing_library(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(CheckpointError, match="the package transformers is missing"):
        load_module(Checkpoint.open(tiny), "text_encoder", torch.float32)


def test_memory_really_runs_out(tiny: Path, tmp_path: Path) -> None:
    """An allocation that no machine can give: the error of this PyTorch, not one made up."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))

    def too_much(*_: object, **__: object) -> Any:
        return torch.empty(2**60, dtype=torch.int8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet2DConditionModel, "from_pretrained", too_much)
        with pytest.raises(ResourceError, match="not enough memory"):
            load_module(Checkpoint.open(folder), "unet", torch.float32)


@pytest.mark.skipif(os.geteuid() == 0, reason="not applicable: root may read everything")
@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_files_without_permission(name: str, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / "unet" / name).chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        Checkpoint.open(folder).check_files()


def test_a_folder_whose_name_is_not_utf8(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"mod\xe8le")
    shutil.copytree(tiny, folder)
    found, plain = Checkpoint.open(folder), Checkpoint.open(tiny)
    for part in plain.family.parts:
        wanted = load_module(plain, part.name, torch.float32).state_dict()
        for name, tensor in load_module(found, part.name, torch.float32).state_dict().items():
            assert torch.equal(tensor, wanted[name])
