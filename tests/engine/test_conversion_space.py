"""A conversion that does not fit on the disk is refused, and not blamed on the file."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from demo import random_checkpoint
from engine.derived.additions import Additions
from engine.errors import CheckpointError, ResourceError
from engine.hub import find_checkpoint
from engine.load_errors import load_error
from tests.single_files import single_file


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may become larger, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A checkpoint folder, and the single file of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = random_checkpoint.make(tmp_path / "model", "tiny")
    return folder, single_file(folder, tmp_path / "one.safetensors")


def test_a_write_that_fails_is_not_blamed_on_the_file(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, file = made
    additions = Additions(base=folder)
    with (
        pytest.raises(ResourceError, match=r"too large for this disk.*ulimit"),
        largest_file(100_000),
    ):
        find_checkpoint(file, additions=additions)
    models = tmp_path / "cache" / "diffedit-trt" / "models"
    assert [p.name for p in models.iterdir() if p.is_dir() and p.name != "digests"] == []
    find_checkpoint(file, additions=additions).check_files()


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (28, ResourceError, "There is no space left for F; free"),
        (122, ResourceError, "There is no space left for F; free"),
        (27, ResourceError, "ulimit -f"),
        (13, CheckpointError, "permission denied"),
        (5, CheckpointError, r"cannot be read \(Input/output error\)"),
    ],
)
def test_safetensors_states_the_systems_error_in_its_text(
    number: int, kind: type[Exception], words: str
) -> None:
    error = SafetensorError(f"Error while serializing: I/O error: Some words (os error {number})")
    with pytest.raises(kind, match=words):
        raise load_error(error, "F")


def test_fp8_needs_twice_its_size(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written as bf16, because no library computes with it."""
    folder, file = made
    state = {n: t.to(torch.float8_e4m3fn) for n, t in load_file(file).items()}
    save_file(state, file)
    needed = 2 * sum(t.numel() for t in state.values())
    free = type("Usage", (), {"free": needed})()  # without the reserve
    monkeypatch.setattr("shutil.disk_usage", lambda path: free)
    with pytest.raises(ResourceError, match="The conversion needs"):
        find_checkpoint(file, additions=Additions(base=folder))
