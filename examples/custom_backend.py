"""Write your own backend. This one runs another backend and adds up the time of every network.

python examples/custom_backend.py build/examples/5.png "a black cube" "a red cube"
"""

import sys
import time
from collections import defaultdict

import torch
from torch import Tensor

from diffedit import DiffEditPipeline
from engine.backends import Backend, Details, DeviceQueue, Networks
from engine.netspec import NetSpec, Size

MODEL = "demo/model"


class TimedBackend:
    """One network: a `Backend` (see docs/reference/backends.md)."""

    def __init__(self, inner: Backend, seconds: defaultdict[str, float]) -> None:
        self.inner = inner
        self.seconds = seconds
        self.spec: NetSpec = inner.spec
        self.device: torch.device = inner.device

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        started = time.perf_counter()
        outputs = self.inner(batch)
        self.seconds[self.spec.name] += time.perf_counter() - started
        return outputs


class TimedNetworks:
    """All networks of a checkpoint: a `Networks`."""

    name = "timed"

    def __init__(self, inner: Networks) -> None:
        self.inner = inner
        self.device: torch.device = inner.device
        self.queue: DeviceQueue = inner.queue
        self.sizes: tuple[Size, ...] | None = inner.sizes
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def find(self, net: str, shape: tuple[int, ...]) -> TimedBackend:
        return TimedBackend(self.inner.find(net, shape), self.seconds)

    def describe(self) -> str:
        return f"timed {self.inner.describe()}"

    def details(self) -> Details:
        return self.inner.details()

    def close(self) -> None:
        self.inner.close()


def main(image: str, source: str, prompt: str) -> None:
    """Edit with the backend, and print the seconds of each network."""
    ordinary = DiffEditPipeline.from_pretrained(MODEL, backend="torch")
    networks = TimedNetworks(ordinary.networks)
    with DiffEditPipeline(ordinary.checkpoint, networks) as pipe:
        result = pipe(image, prompt, source, preset="draft")
        print(pipe.describe())
    for name, seconds in networks.seconds.items():
        print(f"{name}: {seconds:.2f} s for {result.stats.rows[name]} rows")


if __name__ == "__main__":
    main(*sys.argv[1:])
