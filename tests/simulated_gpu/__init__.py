"""A GPU that PyTorch believes in, on a machine without one: it finds faults, not speed.

Tensors of this GPU are `SimulatedTensor`s with the device "cuda": they hold their values in the
host's memory, and every operation on them is checked first and then run on the CPU. So a whole edit
gives the values of a CPU, and the faults that a CPU would never show raise errors:

- tensors of two devices in one operation,
- a wait of the host where `set_sync_debug_mode` forbids it,
- work on one stream that reads or overwrites what another stream may still use (a race),
- a host that reads the result of a copy before the copy is known to be complete,
- freed memory that another stream still uses when it may be handed out again,
- in the capture of a graph, a wait or an access to memory that the replay would find freed.

What it cannot find: errors of CUDA's own kernels and libraries, numerical differences, anything
about speed, and mistakes in this simulation. Compiled code (`torch.compile`) does not run on it.
"""

from __future__ import annotations

from tests.simulated_gpu.install import simulated_gpu
from tests.simulated_gpu.order import GpuFault

__all__ = ["GpuFault", "simulated_gpu"]
