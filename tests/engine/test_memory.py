"""Free memory: the system's figure and every cgroup's above the process, the smallest wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.memory import amount, available

MEMINFO = "MemTotal:  24000000 kB\nMemAvailable:  20000000 kB\nSwapFree: 1000000 kB\n"
GIB = 1 << 30


def machine(root: Path, files: dict[str, object]) -> Path:
    for name, content in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(content))
    return root


def group(folder: str, limit: object, usage: int, files: int = 0) -> dict[str, object]:
    statistics = f"anon 5\ninactive_file {files // 2}\nactive_file {files - files // 2}\n"
    names = {"memory.max": limit, "memory.current": usage, "memory.stat": statistics}
    return {f"sys/fs/cgroup/{folder}/{name}": content for name, content in names.items()}


def test_without_a_cgroup_it_is_what_the_system_has_free_without_swap(tmp_path: Path) -> None:
    assert available(machine(tmp_path, {})) == 20_000_000 * 1024
    assert available(machine(tmp_path / "b", {"proc/self/cgroup": "0::/\n"})) == 20_000_000 * 1024


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    """Inside a container the process is at the root of its own hierarchy."""
    files = {"proc/self/cgroup": "0::/\n", **group("", 8 * GIB, 5 * GIB, files=2 * GIB)}
    assert available(machine(tmp_path, files)) == 5 * GIB


def test_the_limits_of_all_groups_above_count(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user/job\n",
        **group("user/job", "max", 3 * GIB),
        **group("user", 4 * GIB, 3 * GIB),
    }
    assert available(machine(tmp_path, files)) == GIB


def test_a_full_group_has_no_room(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", **group("", GIB, 2 * GIB)}
    assert available(machine(tmp_path, files)) == 0


@pytest.mark.parametrize(("limit", "room"), [(6 * GIB, 3 * GIB), (2**63 - 4096, None)])
def test_cgroups_of_version_1(tmp_path: Path, limit: int, room: int | None) -> None:
    folder = "sys/fs/cgroup/memory/docker"
    files: dict[str, object] = {
        "proc/self/cgroup": "9:cpu,cpuacct:/x\n8:memory:/docker\n0::/none\n",
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": 4 * GIB,
        f"{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\n",
    }
    assert available(machine(tmp_path, files)) == (room or 20_000_000 * 1024)


def test_an_unknown_system_says_nothing(tmp_path: Path) -> None:
    assert available(tmp_path) == 0


def test_this_machine_has_some(tmp_path: Path) -> None:
    assert not Path("/proc/meminfo").exists() or available() > 10**8


def test_amounts_for_people() -> None:
    assert [amount(3_200_000), amount(12_340_000_000)] == ["3.2 MB", "12.3 GB"]
