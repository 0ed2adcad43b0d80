"""The options of `batch --ray`: where Ray runs, and the number and the resources of its actors.

It does not import Ray: `ray_batch` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

from diffedit.cli.errors import UsageError
from diffedit.cli.model_options import ModelOptions
from diffedit.cli.options import option

PANEL = "Several processes or machines"
Node = Mapping[str, float]
"""Resources of one machine of a Ray cluster by name, such as {"CPU": 8, "GPU": 1}."""


@dataclass(frozen=True)
class Actors:
    """A pool of worker processes.

    Attributes:
        count: number of actors.
        cpus, gpus: of each; may be fractions.
        room: number of such actors that fit on the machines at the moment.
    """

    count: int
    cpus: float
    gpus: float
    room: int


@dataclass(frozen=True)
class RayOptions:
    """Whether and how to run a batch with Ray."""

    ray: Annotated[
        bool, option(PANEL, "Run in worker processes with Ray.", "--ray", show_default=False)
    ] = False
    ray_address: Annotated[
        str | None,
        option(
            PANEL,
            "The cluster, for example 10.0.0.1:6379, or auto for the one of this machine.",
            "--ray-address",
            show_default="RAY_ADDRESS, or Ray is started on this machine",
        ),
    ] = None
    ray_actors: Annotated[
        int | None,
        option(
            PANEL,
            "Number of workers; each loads the model.",
            "--ray-actors",
            min=1,
            max=10_000,
            show_default="one per GPU; without GPUs one per machine",
        ),
    ] = None
    ray_gpus: Annotated[
        float | None,
        option(
            PANEL,
            "GPUs of a worker; a fraction shares one.",
            "--ray-gpus",
            min=0,
            max=64,
            show_default="1 if there are GPUs",
        ),
    ] = None
    ray_cpus: Annotated[
        float | None,
        option(
            PANEL,
            "CPU cores of a worker.",
            "--ray-cpus",
            min=0.01,
            max=4096,
            show_default="all cores, divided among the workers",
        ),
    ] = None

    def check(self, model: ModelOptions) -> None:
        """Raise UsageError for options that contradict each other."""
        given = [f.name for f in fields(self)[1:] if getattr(self, f.name) is not None]
        if given and not self.ray:
            name = "--" + given[0].replace("_", "-")
            raise UsageError(f"{name} is for --ray only; add --ray, or leave it out.")
        for name in ("ray_gpus", "ray_cpus"):
            amount = getattr(self, name)
            if amount is not None and amount > 1 and amount != int(amount):
                option_name = "--" + name.replace("_", "-")
                raise UsageError(
                    f"{option_name} is {amount:g}, but Ray accepts fractions only below 1; round "
                    "it."
                )
        if self.ray and model.device not in (None, "cpu", "cuda"):
            raise UsageError(
                f"--device is {model.device}, but Ray assigns a GPU to each worker; leave it out."
            )

    def actors(self, nodes: Sequence[Node], edits: int, device: str | None) -> Actors:
        """Choose the number of actors and the resources of each.

        Args:
            nodes: the machines.
            edits: number of edits; more actors would be idle.
            device: of the model; "cpu" leaves the GPUs to others.
        """
        total = sum(node.get("GPU", 0) for node in nodes)
        gpus = self.ray_gpus if self.ray_gpus is not None else float(total > 0 and device != "cpu")
        count = self.ray_actors or (int(total / gpus) if gpus else len(nodes))
        count = max(1, min(count, edits))
        cpus = self.ray_cpus or _share_of_cpus(nodes, count, gpus)
        return Actors(count, cpus, gpus, _room(nodes, cpus, gpus))


def _share_of_cpus(nodes: Sequence[Node], count: int, gpus: float) -> float:
    """Return the largest whole number of cores with which `count` actors fit, or a fraction."""
    total = int(sum(node.get("CPU", 0) for node in nodes))
    for cpus in range(total // count, 0, -1):
        if _room(nodes, cpus, gpus) >= count:
            return float(cpus)
    return 1.0 if total >= count else max(0.01, 100 * total // count / 100)


def _room(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    """Return the number of actors that fit on the machines."""
    wanted = {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
    return sum(min(int(n.get(name, 0) / wanted[name] + 1e-9) for name in wanted) for n in nodes)
