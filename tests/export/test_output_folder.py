"""One builder at a time, and no incomplete or temporary files."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from export.output_folder import StorageError, opened


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_a_second_builder_waits_for_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    order: list[str] = []
    waiting, inside = threading.Event(), threading.Event()

    def wait() -> None:
        order.append("waits")
        waiting.set()

    def second() -> None:
        inside.wait(10)
        with opened(out, wait):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with opened(out, lambda: order.append("never")) as temporary:
        (out / "kept").touch()
        assert temporary.is_dir()
        inside.set()
        assert waiting.wait(10)
        order.append("first done")
    thread.join(10)
    assert order == ["waits", "first done", "second"]


def test_a_waiting_builder_survives_that_the_first_takes_its_folder_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    waiting, inside, done = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        inside.wait(10)
        with opened(out, waiting.set) as temporary:
            assert temporary.is_dir()
            done.set()

    thread = threading.Thread(target=second)
    thread.start()
    with opened(out, waiting.set):
        inside.set()
        assert waiting.wait(10)
    thread.join(10)
    assert done.is_set()
    assert not out.exists()


def test_what_dead_builders_left_is_removed_and_what_live_ones_own_is_not(tmp_path: Path) -> None:
    dead, alive = dead_pid(), os.getppid()
    for pid in (dead, alive):
        (tmp_path / f".build-{pid}").mkdir()
        (tmp_path / f".build-{pid}" / "half.onnx").touch()
        (tmp_path / f".manifest.json.{pid}.tmp").touch()
    (tmp_path / ".build-notes").touch()
    with opened(tmp_path, lambda: None):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {
        f".build-{alive}",
        f".manifest.json.{alive}.tmp",
        ".build-notes",
        ".lock",
    }


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupted() -> None:
        with opened(out, lambda: None) as temporary:
            (temporary / "half.onnx").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not out.exists()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist; create it first"):
        opened(tmp_path / "a" / "b", lambda: None).__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="is a file"):
        opened(tmp_path / "file", lambda: None).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            opened(tmp_path / "out", lambda: None).__enter__()
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_file_system() -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        opened(Path("/proc/diffedit-trt"), lambda: None).__enter__()
