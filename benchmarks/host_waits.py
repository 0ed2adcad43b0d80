"""Where the host waits for a GPU during an edit, by PyTorch's own debug mode."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import torch

from diffedit import DiffEditPipeline, EditRequest


def host_waits(pipe: DiffEditPipeline, request: EditRequest) -> Counter[str]:
    """The places where the host waits during one edit, "file.py:line", with their counts.

    Empty on a CPU. Waits for an event are not counted: they read nothing.
    """
    if pipe.networks.device.type != "cuda":
        pipe.submit(request).result()
        return Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            pipe.submit(request).result()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [
        f"{Path(one.filename).name}:{one.lineno}"
        for one in caught
        if "synchroniz" in str(one.message)
    ]
    return Counter(places)
