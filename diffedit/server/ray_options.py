"""The options of the Ray Serve application as plain values, for `serve run` and `serve deploy`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffedit.arguments import CHECKS, DEVICE
from diffedit.checks import short_repr
from diffedit.pipeline import DiffEditPipeline
from diffedit.request import InvalidRequest
from diffedit.server.names import MAX_NAME
from diffedit.server.scaling import Scaling
from diffedit.server.settings import ModelName, Settings, read_settings
from engine.errors import DiffEditError

PIPELINE_ARGUMENTS = tuple(
    name
    for name in inspect.signature(DiffEditPipeline.from_pretrained).parameters
    if name not in ("model", "warm", "on_progress")
)
Resources = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""GPUs or CPUs of a replica. Ray accepts fractions below 1."""


class Options(BaseModel):
    """What to serve, and how. See docs/deploy.md.

    Attributes:
        model: checkpoint folder or hub id.
        pipeline: further arguments of `DiffEditPipeline.from_pretrained`. A configuration file
            lists them at the same level as the other options.
        served_as: the name the model is served under.
        replicas: a number, or MIN:MAX.
        gpus_per_replica, cpus_per_replica: resources of each replica.
        settings: `Settings` by name.
    """

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    model: Annotated[str, Field(strict=True)]
    pipeline: dict[str, Any] = {}
    served_as: ModelName = "diffedit"
    replicas: str = "1"
    gpus_per_replica: Resources = 1.0
    cpus_per_replica: Resources = 1.0
    settings: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _collect_arguments(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("pipeline", {}), Mapping):
            return values
        pipeline = {name: values[name] for name in PIPELINE_ARGUMENTS if name in values}
        rest = {name: value for name, value in values.items() if name not in pipeline}
        return {**rest, "pipeline": {**rest.get("pipeline", {}), **pipeline}}

    def open_pipeline(self) -> DiffEditPipeline:
        """Load the model."""
        return DiffEditPipeline.from_pretrained(self.model, **self.pipeline, warm=True)

    def scaling(self) -> Scaling:
        return Scaling.parse(self.replicas, gpus=self.gpus_per_replica, cpus=self.cpus_per_replica)

    def server_settings(self) -> Settings:
        """The settings. Raises DiffEditError for an invalid one."""
        return read_settings(self.settings)


def read_options(values: Options | Mapping[str, Any]) -> Options:
    """Check the options of a configuration file. Raises DiffEditError for the first invalid one.

    What depends on the machine, such as the files and the GPU, is left to the replicas.
    """
    try:
        options = Options.model_validate(values)
    except ValidationError as error:
        raise DiffEditError(_sentence(error, values)) from None
    for name, value in {"model": options.model, **options.pipeline}.items():
        (_check_device if name == "device" else CHECKS[name])(value)
    for name in ("gpus_per_replica", "cpus_per_replica"):
        amount = getattr(options, name)
        if amount > 1 and amount != int(amount):
            raise DiffEditError(
                f"{name} is {amount:g}, but Ray accepts fractions only below 1; round it."
            )
    return options


def _sentence(error: ValidationError, values: object) -> str:
    """What is wrong with the first invalid option."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        own = (n for n in Options.model_fields if n != "pipeline")
        known = ", ".join((*own, *PIPELINE_ARGUMENTS))
        return f"There is no option {name!r}; the options are {known}."
    if first["type"] == "missing":
        return f"The option {name} is missing; add it to the args of the application."
    if not first["loc"]:
        return (
            f"The args of the application are {short_repr(values)}, but must be options by name; "
            "write at least model: PATH."
        )
    if name == "served_as":
        what = f"a name of 1 to {MAX_NAME} printable characters"
    else:
        what = first["msg"].removeprefix("Input should be ").split(", unable")[0]
    return f"{name} is {first['input']!r}, but must be {what}."


def _check_device(device: object) -> None:
    """Check the name only: the replicas' machines may have other GPUs than this one."""
    if device is not None and not (isinstance(device, str) and DEVICE.fullmatch(device)):
        raise InvalidRequest(f"There is no device {short_repr(device)}; use cpu, cuda or cuda:N.")
