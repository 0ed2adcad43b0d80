"""Folders in the cache: made once, by one process, completely or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cache_dir import readable_caches
from engine.derived import cached_folder as module
from engine.derived.cached_folder import LIST_NAME, cached_folder, known_digest
from engine.digest import file_digest
from engine.errors import ResourceError
from engine.origin import ORIGIN_NAME, Origin


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffedit-trt" / "models"


def write(folder: Path) -> None:
    (folder / "a").write_text("1")
    Origin("m", ()).write(folder)


def folders(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.is_dir())


def test_a_folder_is_made_once(cache: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        write(folder)

    first, second = (cached_folder("m", ["key"], 1, make) for _ in range(2))
    assert first == second
    assert len(made) == 1
    assert cached_folder("m", ["other"], 1, make) != first


def test_an_error_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        cached_folder("m", 1, 1, fail)
    assert folders(cache) == []


def test_what_a_killed_process_left_is_replaced(cache: Path) -> None:
    """A process that is killed cannot clean up; the next one starts anew."""
    code = (
        "import os; from pathlib import Path\n"
        "from engine.derived.cached_folder import cached_folder\n"
        "def make(f): (f / 'half').write_text('x'); os._exit(9)\n"
        "cached_folder('m', 1, 1, make)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(folders(cache)) == 1  # unfinished, and hidden
    assert folders(cache)[0].startswith(".")
    folder = cached_folder("m", 1, 1, write)
    assert folders(cache) == [folder.name]
    assert sorted(p.name for p in folder.iterdir()) == ["a", LIST_NAME, ORIGIN_NAME]


def test_two_processes_at_once_make_it_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import time; from pathlib import Path\n"
        "from engine.derived.cached_folder import cached_folder\n"
        "from engine.origin import Origin\n"
        "def make(f):\n"
        f"    open({str(log)!r}, 'a').write('made ')\n"
        "    time.sleep(0.3); (f / 'a').write_text('1'); Origin('m', ()).write(f)\n"
        "print(cached_folder('m', 1, 1, make))\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(outputs) == 1
    assert log.read_text() == "made "


def test_too_little_room_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 10})())
    with pytest.raises(ResourceError, match=r"needs 2\.1 GB in .*XDG_CACHE_HOME"):
        cached_folder("m", 1, 2_000_000_000, write)


def test_names_are_plain(cache: Path) -> None:
    folder = cached_folder("../a b/ü\n" * 30, 1, 1, write)
    assert folder.parent == cache
    assert folder.name.isprintable() and " " not in folder.name


def test_a_digest_is_remembered_until_the_file_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"one")
    first = known_digest(file)
    monkeypatch.setattr(module, "file_digest", lambda path: "read again")
    assert known_digest(file) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert known_digest(file) == "read again"


@pytest.mark.parametrize("digest", [file_digest, known_digest])
def test_a_file_that_keeps_its_size_and_time_is_another_file(
    digest: Callable[[Path], str], tmp_path: Path
) -> None:
    """As `cp -p`, `rsync -t` and archives leave it: weights of another training have one size."""
    old, new = tmp_path / "model", tmp_path / "new"
    for path, text in ((old, "one"), (new, "two")):
        path.write_text(text)
        os.utime(path, ns=(10**18, 10**18))
    before = digest(old)
    os.replace(new, old)
    assert digest(old) == hashlib.sha256(b"two").hexdigest() != before


def test_a_read_only_cache_is_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a part of a container's image. What is not in it is made elsewhere."""
    file = tmp_path / "model"
    file.write_text("one")
    made, digest = cached_folder("m", 1, 1, write), known_digest(file)
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda p, mode: str(cache.parent) != str(p) and access(p, mode)
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cached_folder("m", 1, 1, write) == made
    monkeypatch.setattr(module, "file_digest", lambda path: "read again")
    assert known_digest(file) == digest
    other = cached_folder("m", 2, 1, write)
    assert other.is_relative_to(tmp_path / "home") and (other / "a").is_file()


def test_a_cache_that_others_can_write_is_not_read(cache: Path) -> None:
    cached_folder("m", 1, 1, write)
    assert cache.parent in readable_caches()
    cache.parent.chmod(0o777)
    assert cache.parent not in readable_caches()


def damage_nothing(folder: Path) -> None:
    """A folder that is whole is not made again."""


def damage_by_deleting(folder: Path) -> None:
    (folder / "part" / "weights").unlink()


def damage_by_cutting(folder: Path) -> None:
    (folder / "part" / "weights").write_text("we")


def damage_by_a_link_to_nowhere(folder: Path) -> None:
    (folder / "link").readlink().rmdir()


def damage_by_deleting_a_folder(folder: Path) -> None:
    shutil.rmtree(folder / "part")


@pytest.mark.parametrize(
    "damage",
    [
        *(damage_nothing, damage_by_deleting, damage_by_cutting, damage_by_a_link_to_nowhere),
        damage_by_deleting_a_folder,
    ],
)
def test_a_folder_that_is_not_whole_is_made_again(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Such as after a cleaner of old files, a disk error, or a base that was moved."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        (tmp_path / "base").mkdir(exist_ok=True)
        made.append(folder)
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text("weights")
        (folder / "link").symlink_to(tmp_path / "base")
        write(folder)

    damage(cached_folder("m", 1, 1, make))
    folder = cached_folder("m", 1, 1, make)
    assert (folder / "part" / "weights").read_text() == "weights"
    assert (folder / "link").exists()
    assert len(made) == 1 + (damage is not damage_nothing)
