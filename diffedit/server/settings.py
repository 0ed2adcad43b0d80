"""The server's settings and their defaults.

Each setting is also an environment variable: `DIFFEDIT_SERVE_` and its name in capitals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from diffedit.server.names import MAX_NAME, host_name, is_loopback, model_name
from engine.errors import DiffEditError

ENVIRONMENT_PREFIX = "DIFFEDIT_SERVE_"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _split(value: object) -> object:
    """Split a text at commas, or parse it as a JSON list, as environment variables contain it."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        return json.loads(value)
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _not_empty(value: object) -> object:
    """Refuse an empty path, which pathlib reads as the current folder."""
    if value == "":
        raise ValueError("empty")
    return value


def _without_repetitions(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


MAX_SECONDS = 31_536_000
"""A year."""
HostName = Annotated[str, BeforeValidator(host_name)]
ModelName = Annotated[str, BeforeValidator(model_name)]
HostNames = Annotated[
    tuple[HostName, ...], NoDecode, BeforeValidator(_split), AfterValidator(_without_repetitions)
]
ModelNames = Annotated[
    tuple[ModelName, ...], NoDecode, BeforeValidator(_split), AfterValidator(_without_repetitions)
]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Network, limits and timeouts of one server."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    host: HostName = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one."""
    api_keys: Annotated[Path | None, BeforeValidator(_not_empty)] = None
    """File of API keys, one name and key per line. None: requests need no key."""
    insecure: bool = False
    """Allow a non-loopback `host` without `api_keys`."""
    allowed_hosts: HostNames = ()
    """Accepted values of the Host header, in addition to the loopback names."""
    served_model_names: ModelNames = ()
    """More names that requests may use as their model."""

    max_body_bytes: PositiveCount = 20_000_000
    """Maximum size of a request body, in bytes."""
    max_pixels: PositiveCount = 16_000_000
    """Maximum width x height of an image or mask, in pixels."""
    max_side: PositiveCount = 8192
    """Maximum width or height of an image or mask, in pixels."""
    max_prompt_bytes: PositiveCount = 4096
    """Maximum size of each prompt, in bytes of UTF-8."""
    max_uploads: PositiveCount = 16
    """Memory for request bodies, in bodies of the maximum size. If it is full, the upload with the
    most byte-seconds is refused with 408."""
    upload_seconds: PositiveSeconds = 30.0
    """Timeout for the request headers, and again for the body, in seconds."""

    max_active: PositiveCount = 8
    """Maximum number of jobs that run at the same time and share network calls."""
    max_waiting: Count = 64
    """Maximum number of queued jobs."""
    max_queue_seconds: Seconds = 120.0
    """Maximum backlog, in predicted seconds of work. An idle server ignores it. With API keys, it
    applies to the predicted wait of a key, since the keys take turns."""
    key_max_edits: PositiveCount | None = None
    """Maximum number of running and queued edits of one API key. None: no quota."""
    key_edits_per_minute: PositiveCount | None = None
    """Maximum number of edits that one API key starts in a minute. None: no quota."""
    max_job_bytes: PositiveCount = 4_000_000_000
    """Maximum memory of all running and queued jobs, in predicted bytes of images and results."""
    request_seconds: PositiveSeconds = 600.0
    """Maximum time from admission to the response, in seconds."""

    result_seconds: Seconds = 600.0
    """Lifetime of a finished job, in seconds."""
    result_bytes: Count = 256_000_000
    """Maximum size of all stored results and previews, in bytes; the oldest are dropped first."""

    drain_delay_seconds: Seconds = 0.0
    """Time after SIGTERM in which the server is not ready but still accepts edits, in seconds. Load
    balancers notice meanwhile, so that no request is refused."""
    drain_seconds: Seconds = 60.0
    """Time for running and queued jobs to finish after that, in seconds."""
    linger_seconds: Seconds = 1.0
    """Time between the last finished job and the shutdown, in seconds; clients fetch results."""
    stall_seconds: PositiveSeconds = 60.0
    """A network call that takes longer counts as hung, in seconds. The limit is at least ten times
    the slowest measured call."""
    idle_unload_seconds: PositiveSeconds | None = None
    """Unload the model after this many seconds without a request. None: never."""

    @property
    def loopback(self) -> bool:
        """Whether the server is reachable from this machine only."""
        return is_loopback(self.host)


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Combine the given values, the environment and the defaults.

    Raises DiffEditError for the first invalid value, with the range and the default.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        raise DiffEditError(_sentence(error.errors()[0], values)) from None


def _sentence(error: ErrorDetails, values: Mapping[str, Any]) -> str:
    """What is wrong with one value, what is allowed, and how to get the default."""
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        return f"There is no setting {name!r}; see docs/server.md for the settings."
    source = name if name in values else f"{ENVIRONMENT_PREFIX}{name.upper()}"
    default = Settings.model_fields[name].default
    shown = "" if default in (None, ()) else f" to use {default}"
    value = repr(str(error["input"])[:60])
    return (
        f"{name} is invalid: {source} is {value}, but must be {_allowed(name)}; correct it, or "
        f"leave it out{shown}."
    )


def _allowed(name: str) -> str:
    """The allowed values of a setting in words."""
    words = {
        "host": "an address or a host name such as 127.0.0.1, without scheme or port",
        "port": "a whole number from 0 to 65535",
        "api_keys": "the path of a key file",
        "insecure": "true or false",
        "allowed_hosts": "host names such as edits.example.org, without scheme, port or *",
        "served_model_names": f"names of 1 to {MAX_NAME} printable characters",
    }
    if name in words:
        return words[name]
    field = Settings.model_fields[name]
    whole = field.annotation in (int, PositiveCount | None)
    bounds = [getattr(m, "ge", None) for m in field.metadata if hasattr(m, "ge")]
    number = "a whole number" if whole else "a number of seconds"
    lower = f"of {bounds[0]} or more" if bounds else "above 0"
    return f"{number} {lower}" if whole else f"{number} {lower}, at most {MAX_SECONDS}"
