"""The server's settings and their defaults.

Each setting is also an environment variable: `DIFFEDIT_SERVE_` and its name in capitals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """Network, limits and timeouts of one server."""

    model_config = SettingsConfigDict(env_prefix="DIFFEDIT_SERVE_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port; 0 picks a free one."""
    api_keys: Path | None = None
    """File of API keys, one name and key per line. None: requests need no key."""
    insecure: bool = False
    """Allow a non-loopback `host` without `api_keys`."""
    allowed_hosts: tuple[str, ...] = ()
    """Accepted values of the Host header, in addition to the loopback names."""

    max_body_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    """Maximum size of a request body, in bytes."""
    max_pixels: Annotated[int, Field(gt=0)] = 16_000_000
    """Maximum width x height of an image or mask, in pixels."""
    max_side: Annotated[int, Field(gt=0)] = 8192
    """Maximum width or height of an image or mask, in pixels."""
    max_prompt_bytes: Annotated[int, Field(gt=0)] = 4096
    """Maximum size of each prompt, in bytes of UTF-8."""
    max_uploads: Annotated[int, Field(ge=1)] = 16
    """Maximum number of request bodies read at the same time; others wait."""
    upload_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Timeout for the request headers, and again for the body, in seconds."""

    max_active: Annotated[int, Field(ge=1)] = 8
    """Maximum number of jobs that run at the same time and share network calls."""
    max_waiting: Annotated[int, Field(ge=0)] = 64
    """Maximum number of queued jobs."""
    max_queue_seconds: Annotated[float, Field(ge=0)] = 120.0
    """Maximum backlog, in predicted seconds of work. An idle server ignores it."""
    request_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Maximum time from admission to the response, in seconds."""

    result_seconds: Annotated[float, Field(ge=0)] = 600.0
    """Lifetime of a finished job, in seconds."""
    result_bytes: Annotated[int, Field(ge=0)] = 256_000_000
    """Maximum size of all stored results and previews, in bytes; the oldest are dropped first."""

    drain_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Time for running and queued jobs to finish after SIGTERM, in seconds."""
    linger_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Time between the last finished job and the shutdown, in seconds; clients fetch results."""
    stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    """A network call that takes longer counts as hung, in seconds. The limit is at least ten times
    the slowest measured call."""
    idle_unload_seconds: Annotated[float | None, Field(gt=0)] = None
    """Unload the model after this many seconds without a request. None: never."""

    @property
    def loopback(self) -> bool:
        """Whether the server is reachable from this machine only."""
        return self.host in LOOPBACK
