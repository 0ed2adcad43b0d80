"""Copy tensors of the host to the device of a flow."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to the device.

    To a GPU, the copy is queued behind the work of the flows, on their stream, whichever stream the
    caller has chosen. The host does not wait; for that, CUDA needs pinned memory.
    """
    if device.type != "cuda":
        return tensor.to(device)
    with torch.cuda.stream(torch.cuda.default_stream(device)):
        return tensor.pin_memory().to(device, non_blocking=True)
