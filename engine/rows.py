"""A row is one network evaluation of one request; a flow is a generator of rows.

A flow yields the rows it needs next, is sent one output per row in the same order, and returns its
result. It holds no context manager across a `yield`, reads no device value but where it must, and
owns its random generator, so that any number of flows can share calls without knowing it.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from typing import NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")


class Row(NamedTuple):
    """One example of one network, without a batch axis; inputs in the order of its NetSpec.

    `key`, where there is one, stands for the inputs: rows of one kind with equal keys are the same
    row. Those that wait at the same time are run once and answered with one tensor, which nobody
    may change.
    """

    net: str
    inputs: tuple[Tensor, ...]
    key: Hashable = None

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """What rows must share to share a call: see `NetSpec.kind`."""
        return self.net, tuple(self.inputs[0].shape)


Flow = Generator[list[Row], list[Tensor], T]
