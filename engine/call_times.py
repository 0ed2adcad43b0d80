"""How long calls take, by kind and batch size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from engine.row_queues import Kind

WEIGHT = 0.3
"""Weight of the newest call in the mean of its kind's seconds."""


class CallTimes:
    """Mean seconds of the calls of each kind and batch size."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Kind, dict[int, float]] = defaultdict(dict)

    def observe(self, kind: Kind, batch_size: int, seconds: float) -> None:
        """Count a finished call."""
        known = self._seconds[kind]
        before = known.get(batch_size, seconds)
        known[batch_size] = before + WEIGHT * (seconds - before)

    def largest(self, kind: Kind, sizes: Collection[int], own: int, factor: float) -> int:
        """The largest batch size whose call takes at most `factor` times that of `own` rows.

        Sizes that did not run yet are interpolated between the nearest ones that did.
        """
        known = sorted(self._seconds[kind].items()) or [(1, 0.0)]
        batch, seconds = zip(*known, strict=True)
        least = min(size for size in sizes if size >= own)
        limit = factor * float(np.interp(least, batch, seconds))
        return max(s for s in sizes if s <= least or float(np.interp(s, batch, seconds)) <= limit)
