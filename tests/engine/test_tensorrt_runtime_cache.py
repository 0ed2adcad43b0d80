"""The file that keeps the kernels compiled by TensorRT for RTX."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from engine.backends.tensorrt.runtime_cache import RuntimeCacheFile
from tests.engine.compiled import entry, spec


def test_saved_kernels_are_loaded_by_the_next_process(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"), kind="tensorrt-rtx")
    cache = RuntimeCacheFile(made, tmp_path)
    assert cache.load() is None
    cache.save(b"kernels")
    assert cache.path == tmp_path / f"{made.files[0].name}.cache"
    assert RuntimeCacheFile(made, tmp_path).load() == b"kernels"


def test_the_file_is_written_only_if_the_content_changed(tmp_path: Path) -> None:
    cache = RuntimeCacheFile(entry(tmp_path, spec("text")), tmp_path)
    cache.save(b"kernels")
    cache.path.unlink()
    cache.save(b"kernels")
    assert not cache.path.exists()
    cache.save(b"more kernels")
    assert cache.load() == b"more kernels"
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


def test_a_damaged_file_or_one_of_another_engine_is_ignored(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"))
    cache = RuntimeCacheFile(made, tmp_path)
    cache.save(b"kernels")
    rebuilt = replace(made, files=(replace(made.files[0], sha256="0" * 64),))
    assert RuntimeCacheFile(rebuilt, tmp_path).load() is None
    whole = cache.path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + b"S", b"", whole[:10]):
        cache.path.write_bytes(damaged)
        assert cache.load() is None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(whole)
    cache.path.unlink()
    cache.path.symlink_to(elsewhere)
    assert cache.load() is None


def test_a_read_only_folder_keeps_the_file_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = entry(tmp_path, spec("text"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    cache = RuntimeCacheFile(made, tmp_path)
    assert cache.path.parent == tmp_path / "home" / "diffedit-trt"
    cache.save(b"kernels")
    assert RuntimeCacheFile(made, tmp_path).load() == b"kernels"


def test_a_file_that_cannot_be_written_is_not_an_error(tmp_path: Path) -> None:
    made = entry(tmp_path, spec("text"))
    (tmp_path / f"{made.files[0].name}.cache").mkdir()  # a file cannot be renamed onto a folder
    cache = RuntimeCacheFile(made, tmp_path)
    cache.save(b"kernels")
    assert cache.load() is None
