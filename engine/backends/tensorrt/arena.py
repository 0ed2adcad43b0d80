"""Scratch memory on the GPU, shared by all execution contexts, because calls run one at a time."""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENT = 256
"""Alignment in bytes that TensorRT requires for scratch memory, inputs and outputs."""


class Arena:
    """A block of GPU memory that grows when needed.

    Attributes:
        device: where the memory is.
        generation: changes whenever the address may have changed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generation = 0
        self._memory: Tensor | None = None

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes.

        Raises torch.OutOfMemoryError; the arena then keeps its old size.
        """
        before = 0 if self._memory is None else self._memory.numel()
        if size <= before:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # running calls still use the old memory
        self.free()
        try:
            self._allocate(size)
        except torch.OutOfMemoryError:
            self._allocate(before)
            raise

    def address_and_size(self) -> tuple[int, int]:
        """Return (address, bytes), as TensorRT's `set_device_memory` takes them."""
        assert self._memory is not None, "call reserve first"
        return self._memory.data_ptr(), self._memory.numel()

    def free(self) -> None:
        """Return the memory to PyTorch. Contexts that use it must be bound again."""
        self._memory = None
        self.generation += 1

    def _allocate(self, size: int) -> None:
        if size:
            self._memory = torch.empty(size, dtype=torch.uint8, device=self.device)


def aligned(size: int) -> int:
    """Round `size` bytes up to a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT
