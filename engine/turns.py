"""Whose turn the next network call is, if several groups of flows share the device.

Each group, such as the edits of one API key, gets an equal share of the device's time while it has
flows. A call belongs to the group that has had the least; rows of others fill it up, as far as
they do not make it much slower. Start-time fair queueing: Goyal, Vin and Cheng, "Start-Time Fair
Queuing", IEEE/ACM Transactions on Networking 1997.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

Group = Hashable
"""The flows that share one part of the device's time."""


class Turns:
    """The device time of each group that has flows, in seconds."""

    def __init__(self) -> None:
        self._flows: Counter[Group] = Counter()
        self._seconds: dict[Group, float] = {}
        self._last: dict[Group, int] = {}
        self._number = 0
        self._now = 0.0  # the time of the group that had the last call, before that call

    @property
    def several(self) -> bool:
        """Whether several groups have flows."""
        return len(self._flows) > 1

    def enter(self, group: Group) -> None:
        """Count a flow that starts. A group that had none gets no credit for the time before the
        call that runs."""
        if not self._flows[group]:
            self._seconds[group] = max(self._seconds.get(group, 0.0), self._now)
        self._flows[group] += 1

    def leave(self, group: Group) -> None:
        """Count a flow that ended. The time of its group is kept while it is more than that of
        the others, so that a group gains nothing by leaving."""
        self._flows[group] -= 1
        if not self._flows[group]:
            del self._flows[group]
            self._forget(self._now if self._flows else float("inf"))

    def _forget(self, seconds: float) -> None:
        """Forget groups without flows that had no more than some time."""
        for one in [one for one in self._seconds if one not in self._flows]:
            if self._seconds[one] <= seconds:
                del self._seconds[one]
                self._last.pop(one, None)

    def order(self, groups: Iterable[Group]) -> list[Group]:
        """The groups in the order of their turns: the least time first, then the longest ago."""
        return sorted(groups, key=lambda one: (self._seconds[one], self._last.get(one, -1)))

    def take(self, group: Group) -> None:
        """Note that the next call belongs to a group."""
        self._number += 1
        self._last[group] = self._number
        self._now = self._seconds[group]

    def charge(self, rows: Mapping[Group, int], seconds: float) -> None:
        """Divide the time of a finished call by the rows of each group."""
        total = sum(rows.values())
        for group, count in rows.items():
            if group in self._seconds:
                self._seconds[group] += seconds * count / total
