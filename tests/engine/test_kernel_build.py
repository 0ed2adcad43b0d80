"""Building the CPU kernels, choosing them by the processor, and falling back to PyTorch's."""

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
from tests.engine.processor import needs_compiler


@pytest.fixture(params=[attention, convolution], ids=["attention", "convolution"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module with a kernel, on a simulated AVX-512 BF16 processor, with empty caches."""
    kernel_module: ModuleType = request.param
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    _forget(kernel_module)
    yield kernel_module
    _forget(kernel_module)


def _forget(kernel_module: ModuleType) -> None:
    for cached in (kernel_module.kernel, kernel_module.works, kernel_module.usable):
        cached.cache_clear()


@needs_compiler
def test_a_kernel_is_compiled_once(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module.kernel()
    (library,) = (tmp_path / "diffedit-trt").iterdir()
    assert library.name.startswith(module.SOURCE.stem) and library.suffix == ".so"
    assert (tmp_path / "diffedit-trt").stat().st_mode & 0o077 == 0
    module.kernel.cache_clear()
    monkeypatch.setattr("subprocess.run", None)  # compiling would call it
    module.kernel()


@needs_compiler
def test_a_prebuilt_kernel_needs_no_compiler(
    module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`python -m engine.backends.torch.kernels.build` writes it next to its source."""
    monkeypatch.setattr(build, "__file__", str(tmp_path / "native.py"))
    shutil.copy(module.SOURCE.with_name("native.h"), tmp_path)
    monkeypatch.setattr(module, "SOURCE", Path(shutil.copy(module.SOURCE, tmp_path)))
    build.main()
    (library,) = tmp_path.glob("*.so")
    assert str(library) in capsys.readouterr().out
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    module.kernel()
    assert not (tmp_path / "none").exists()
    library.unlink()
    with pytest.raises(SystemExit, match=r"\.cpp: there is no C\+\+ compiler"):
        build.main()


@needs_compiler
def test_a_changed_header_makes_another_library(tmp_path: Path) -> None:
    header, source = tmp_path / "native.h", tmp_path / "kernel.cpp"
    source.write_text('#include "native.h"\n')
    names = set()
    for number in range(2):
        header.write_text(f"constexpr int kLanes = {number};\n")
        names.add(build.build(source, tmp_path).name)
    assert len(names) == 2


@needs_compiler
@pytest.mark.parametrize("seconds", [0.001, 10.0])
@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "chosen"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_the_processor_decides_and_no_clock(
    module: ModuleType,
    avx512_bf16: bool,
    amx: bool,
    chosen: bool,
    seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A busy machine must not change which kernel runs, since the kernels round differently."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    steps = itertools.chain([0.0, seconds] * 4, itertools.repeat(seconds))  # ours first
    monkeypatch.setattr("time.perf_counter", lambda: next(steps))
    assert module.usable() == chosen


def test_a_processor_without_the_instructions_loads_no_kernel(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise AssertionError("a kernel must not be built for this processor")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not build.works("operation", fail)
    assert not module.usable()


def test_without_a_compiler_the_kernel_is_not_used(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NativeError, match=r"no C\+\+ compiler"):
        module.kernel()
    assert not module.usable()


def test_a_damaged_library_is_not_used(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(build, "_library", lambda source: damaged)
    with pytest.raises(NativeError, match="cannot be loaded"):
        module.kernel()
    assert not module.usable()


@needs_compiler
def test_the_compilers_message_is_part_of_the_error(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.cpp"
    broken.write_text("#error unsupported source\n")
    monkeypatch.setattr(module, "SOURCE", broken)
    with pytest.raises(NativeError, match="unsupported source"):
        module.kernel()
    assert list((tmp_path / "diffedit-trt").iterdir()) == []


@needs_compiler
def test_a_cache_folder_that_cannot_be_written_is_an_error(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(NativeError, match="there is no writable folder"):
        module.kernel()
