"""The modules of a checkpoint's parts: always loaded, or offloaded until a call needs them.

Only the engine thread calls networks, so nothing here is locked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import torch

from engine.cuda import give_back_memory, wait_for

Load = Callable[[str], torch.nn.Module]


class Parts:
    """Part name -> module.

    At most one offloaded part is loaded at a time, and none while another part runs. On a CPU it is
    read from its files again; on a GPU it is copied from the host's memory.

    Args:
        modules: the parts that stay, on the device.
        offloaded: the names of the others.
        load: returns an offloaded part on the CPU.
        device: where the parts run.
    """

    def __init__(
        self,
        modules: dict[str, torch.nn.Module],
        device: torch.device,
        offloaded: Collection[str] = (),
        load: Load | None = None,
    ) -> None:
        self.modules = modules
        self.loads = 0
        """How often an offloaded part was loaded."""
        self._device = device
        self._offloaded = frozenset(offloaded)
        self._load = load
        self._in_use: str | None = None
        self._host: dict[str, torch.nn.Module] = {}

    def use(self, part: str) -> torch.nn.Module:
        """The module of a part, loaded, for a call that starts now."""
        if part != self._in_use:
            self._unload()
            if part in self._offloaded:
                self._fetch(part)
        return self.modules[part]

    def is_offloaded(self, part: str) -> bool:
        """Whether a part is loaded again for every use."""
        return part in self._offloaded

    def clear(self) -> None:
        """Drop every module."""
        self.modules = {}
        self._host.clear()
        self._in_use = None

    def _fetch(self, part: str) -> None:
        assert self._load is not None
        if self._device.type == "cpu":
            self.modules[part] = self._load(part)
        else:
            if part not in self._host:
                self._host[part] = self._load(part)
            self.modules[part] = copy_to(self._host[part], self._device)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # its calls run on another stream
        self._in_use = part
        self.loads += 1

    def _unload(self) -> None:
        part, self._in_use = self._in_use, None
        if part is None:
            return
        if self._device.type == "cuda":
            wait_for(self._device)  # a call may still read the weights
        del self.modules[part]
        if self._device.type == "cuda":
            give_back_memory(self._device)


def copy_to(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The module with copies of its weights on a device; `module` keeps its own."""
    known: dict[int, object] = {}
    for parameter in module.parameters():
        known[id(parameter)] = torch.nn.Parameter(parameter.to(device), requires_grad=False)
    for buffer in module.buffers():
        known[id(buffer)] = buffer.to(device)
    return copy.deepcopy(module, known)
