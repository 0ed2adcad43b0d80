"""Rows and flows.

A row is one evaluation of one network for one request. A flow is a generator that yields the rows
it needs next, is sent one answer per row in the same order, and returns its result. An answer is
the network's output tensor, or a tuple of tensors if the network has several outputs.

A flow holds no context manager across a `yield`, rarely reads values from the device, and has its
own random generator. Any number of flows can therefore share network calls.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")

Tensors = tuple[Tensor, ...]
Answer = Tensor | Tensors
"""The output of one row: a tensor, or a tuple if the network has several outputs."""


class Row(NamedTuple):
    """One example of one network, without a batch axis; inputs in the order of its NetSpec.

    Rows of one kind with equal keys are deduplicated: if they wait at the same time, they run once
    and share one output. Treat it as read-only. Rows with the key None are never deduplicated.
    """

    net: str
    inputs: tuple[Tensor, ...]
    key: Hashable = None

    @property
    def kind(self) -> tuple[str, tuple[int, ...]]:
        """Rows of equal kinds can share a call; see `NetSpec.kind`."""
        return self.net, tuple(self.inputs[0].shape)


Flow = Generator[list[Row], list[Any], T]
"""`T` is the result. An answer is a tensor, or a tuple of tensors of a network with several
outputs."""
