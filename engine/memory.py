"""The memory that this process can still use, by the limits of the system and its cgroups.

Containers limit memory by cgroups, which /proc/meminfo does not show. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

NO_LIMIT = 1 << 60
"""cgroups of version 1 state a larger number than this if there is no limit."""
RECLAIMABLE = ("inactive_file", "active_file")
"""Counters of file pages, which the system drops when memory is needed."""


def available(root: Path = Path("/")) -> int:
    """Free memory in bytes; 0 if it is unknown.

    Swap does not count: weights are read by every call, and from a disk that takes minutes.

    Args:
        root: the folder with `proc` and `sys`.
    """
    info = _numbers(root / "proc/meminfo")
    free = info.get("MemAvailable:", 0) * 1024
    rooms = [*_cgroup_rooms(root), *([free] if free else [])]
    return max(0, min(rooms)) if rooms else 0


def amount(size: float) -> str:
    """Format bytes, such as "3.2 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """Yield the remaining bytes of each cgroup of this process."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        group = Path(path.strip("/"))
        for folder in (group, *group.parents):
            yield from _room(top / folder, *names)


def _room(folder: Path, limit_name: str, usage_name: str, prefix: str) -> Iterator[int]:
    limit, usage = _text(folder / limit_name).strip(), _text(folder / usage_name).strip()
    if not (limit.isdigit() and usage.isdigit()) or int(limit) > NO_LIMIT:
        return
    statistics = _numbers(folder / "memory.stat")
    files = sum(statistics.get(prefix + name, 0) for name in RECLAIMABLE)
    yield int(limit) - int(usage) + files


def _numbers(path: Path) -> dict[str, int]:
    """The first two columns of a file."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
