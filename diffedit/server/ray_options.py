"""The options of the Ray Serve application as plain values, for `serve run` and `serve deploy`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffedit.pipeline import DiffEditPipeline
from diffedit.server.scaling import Scaling
from diffedit.server.settings import Settings, read_settings
from engine.errors import DiffEditError


class Options(BaseModel):
    """What to serve, and how. See docs/deploy.md.

    Attributes:
        model: checkpoint folder or hub id.
        backend, engines, device, dtype, size, compile, pin_batch_size, variant, revision: arguments
            of `DiffEditPipeline.from_pretrained`.
        served_as: the name the model is served under.
        replicas: a number, or MIN:MAX.
        gpus_per_replica, cpus_per_replica: resources of each replica.
        settings: `Settings` by name.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    backend: str = "auto"
    engines: Path | None = None
    device: str | None = None
    dtype: str | None = None
    size: tuple[int, int] | None = None
    compile: bool = False
    pin_batch_size: int | None = None
    variant: str | None = None
    revision: str | None = None
    served_as: str = "diffedit"
    replicas: str = "1"
    gpus_per_replica: float = Field(1.0, ge=0)
    cpus_per_replica: float = Field(1.0, ge=0)
    settings: dict[str, Any] = {}

    def open_pipeline(self) -> DiffEditPipeline:
        """Load the model."""
        other = {"model", "served_as", "replicas", "gpus_per_replica", "cpus_per_replica"}
        arguments = self.model_dump(exclude=other | {"settings"})
        return DiffEditPipeline.from_pretrained(self.model, **arguments, warm=True)

    def scaling(self) -> Scaling:
        return Scaling.parse(self.replicas, gpus=self.gpus_per_replica, cpus=self.cpus_per_replica)

    def server_settings(self) -> Settings:
        """The settings. Raises DiffEditError for an invalid one."""
        return read_settings(self.settings)


def read_options(values: Options | Mapping[str, Any]) -> Options:
    """Check the options of a configuration file. Raises DiffEditError for the first invalid one."""
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(Options.model_fields)
            message = f"There is no option {name!r}; the options are {known}."
        elif first["type"] == "missing":
            message = f"The option {name} is missing; add it to the args of the application."
        else:
            what = first["msg"].removeprefix("Input should be ")
            message = f"{name} is {first['input']!r}, but must be {what}."
        raise DiffEditError(message) from None
