"""Kernels that the machine's compiler makes: kept once made, and what happens where none can be."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from engine.backends.torch.kernels import attention, build, convolution
from engine.backends.torch.kernels.build import NativeError

needs_instructions = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this processor has no AVX-512 BF16"
)


@pytest.fixture(params=[attention, convolution], ids=["attention", "convolution"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """One that has a kernel; it remembers no compiler and no trial, before nor after."""
    found: ModuleType = request.param
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for cached in (found.kernel, found.usable):
        cached.cache_clear()
    yield found
    for cached in (found.kernel, found.usable):
        cached.cache_clear()


@needs_instructions
def test_it_is_compiled_once(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module.kernel()
    (made,) = (tmp_path / "diffedit-trt").iterdir()
    assert made.name.startswith(module.SOURCE.stem) and made.suffix == ".so"
    assert (tmp_path / "diffedit-trt").stat().st_mode & 0o077 == 0
    module.kernel.cache_clear()
    monkeypatch.setattr("subprocess.run", None)  # would be called to compile
    module.kernel()


def test_one_built_beforehand_needs_no_compiler(
    module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`python -m engine.backends.torch.kernels.build` writes it beside its source."""
    monkeypatch.setattr(build, "__file__", str(tmp_path / "native.py"))
    shutil.copy(module.SOURCE.with_name("native.h"), tmp_path)
    monkeypatch.setattr(module, "SOURCE", Path(shutil.copy(module.SOURCE, tmp_path)))
    build.main()
    (made,) = tmp_path.glob("*.so")
    assert str(made) in capsys.readouterr().out
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    module.kernel()
    assert not (tmp_path / "none").exists()
    made.unlink()
    with pytest.raises(SystemExit, match=r"\.cpp: there is no C\+\+ compiler"):
        build.main()


def test_another_header_makes_another_library(tmp_path: Path) -> None:
    header, source = tmp_path / "native.h", tmp_path / "kernel.cpp"
    source.write_text('#include "native.h"\n')
    names = set()
    for number in range(2):
        header.write_text(f"constexpr int kLanes = {number};\n")
        names.add(build.build(source, tmp_path).name)
    assert len(names) == 2


@pytest.mark.parametrize(("ours", "theirs", "chosen"), [(1, 8, True), (8, 1, False), (8, 8, False)])
def test_a_kernel_is_used_where_it_clearly_wins(
    ours: int, theirs: int, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    taken = iter([*[ours] * build.TRIES, *[theirs] * build.TRIES])
    clock = itertools.accumulate(step for one in taken for step in (0, one))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls: list[str] = []
    won = build.wins(
        "work", lambda: None, lambda: (lambda: calls.append("ours"), lambda: calls.append("theirs"))
    )
    assert won == chosen
    assert calls == ["ours"] * build.TRIES + ["theirs"] * build.TRIES


def test_without_a_compiler_it_is_left_out(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NativeError, match=r"no C\+\+ compiler"):
        module.kernel()
    assert not module.usable()


def test_a_damaged_library_is_left_out(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(build, "_library", lambda source: damaged)
    with pytest.raises(NativeError, match="cannot be loaded"):
        module.kernel()
    assert not module.usable()


def test_what_the_compiler_says_is_told(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.cpp"
    broken.write_text("#error of another age\n")
    monkeypatch.setattr(module, "SOURCE", broken)
    with pytest.raises(NativeError, match="of another age"):
        module.kernel()
    assert list((tmp_path / "diffedit-trt").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diffedit-trt").write_text("a file in the folder's place")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NativeError, match="could not be compiled into"):
        module.kernel()
