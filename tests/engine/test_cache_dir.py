"""The cache folder where there is no home, a read-only one, or no place at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.backends.torch import compile as compiler
from engine.backends.torch.kernels import attention
from engine.cache_dir import user_cache
from engine.errors import DiffEditError

ROOT = Path(__file__).resolve().parent.parent.parent
WITHOUT_USER = """
import json, os, pwd, sys, tempfile

def unknown(uid):
    raise KeyError("getpwuid(): uid not found")

os.environ.pop("HOME", None)
os.environ.pop("XDG_CACHE_HOME", None)
pwd.getpwuid = unknown  # what a container with a free user id has
"""


def python(code: str, **environment: str) -> dict[str, str]:
    """Run code in a process without HOME and without an entry in the list of users."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_USER + code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_a_user_without_a_home_has_a_folder_among_the_temporary_files(tmp_path: Path) -> None:
    code = "from engine.cache_dir import user_cache; print(json.dumps({'at': str(user_cache())}))"
    folder = Path(python(code, TMPDIR=str(tmp_path))["at"])
    assert folder == tmp_path / f"diffedit-trt-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    missing = python(code, TMPDIR=str(tmp_path / "missing"))["at"]
    assert missing != "" and "missing" not in missing


def test_the_home_folder_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert user_cache() == tmp_path / ".cache" / "diffedit-trt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "diffedit-trt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # as the standard says
    assert user_cache() == tmp_path / ".cache" / "diffedit-trt"
    assert not Path("relative").exists()


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder in which nothing can be made, for root too; returns the temporary folder."""
    (tmp_path / "home").write_text("a file, not a folder")
    (tmp_path / "tmp").mkdir()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_a_home_that_cannot_be_written(no_home: Path) -> None:
    assert user_cache() == no_home / f"diffedit-trt-{os.getuid()}"


def test_a_file_in_the_way_is_an_error(no_home: Path) -> None:
    folder = no_home / f"diffedit-trt-{os.getuid()}"
    folder.write_text("in the way")
    with pytest.raises(OSError, match="no writable folder"):
        user_cache()


def test_a_folder_that_others_can_write_is_closed(no_home: Path) -> None:
    folder = no_home / f"diffedit-trt-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert user_cache().stat().st_mode & 0o777 == 0o700


def test_without_any_folder_pytorchs_kernels_are_used_and_compiling_is_refused(
    no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (no_home / f"diffedit-trt-{os.getuid()}").write_text("in the way")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for cached in (attention.kernel, attention.works, attention.usable):
        cached.cache_clear()
    try:
        assert attention.usable() is False
    finally:
        for cached in (attention.kernel, attention.works, attention.usable):
            cached.cache_clear()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with pytest.raises(DiffEditError, match="TORCHINDUCTOR_CACHE_DIR"):
        compiler.compile_modules([], torch.device("cpu"))


@pytest.mark.slow
def test_an_edit_without_a_home(tiny: Path, tmp_path: Path) -> None:
    """bf16, so that the project's kernels are built wherever the processor has them."""
    code = f"""
from PIL import Image
from diffedit import DiffEditPipeline
with DiffEditPipeline.from_pretrained({str(tiny)!r}, device="cpu", dtype="bf16") as pipe:
    result = pipe(Image.new("RGB", (64, 64)), "a", num_inference_steps=2, num_maps_per_mask=1)
    print(json.dumps({{"size": str(result.image.size)}}))
"""
    assert python(code, TMPDIR=str(tmp_path)) == {"size": "(64, 64)"}
