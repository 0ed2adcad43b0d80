"""Every limit of the server, with its default. As environment variables: DIFFEDIT_SERVE_NAME."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """What the server takes, keeps and waits for. Bytes, pixels and seconds."""

    model_config = SettingsConfigDict(env_prefix="DIFFEDIT_SERVE_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    api_keys: Path | None = None
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()

    max_body_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    max_pixels: Annotated[int, Field(gt=0)] = 16_000_000
    max_side: Annotated[int, Field(gt=0)] = 8192
    max_prompt_bytes: Annotated[int, Field(gt=0)] = 4096
    max_uploads: Annotated[int, Field(ge=1)] = 16
    upload_seconds: Annotated[float, Field(gt=0)] = 30.0

    max_active: Annotated[int, Field(ge=1)] = 8
    max_waiting: Annotated[int, Field(ge=0)] = 64
    max_queue_seconds: Annotated[float, Field(ge=0)] = 120.0
    request_seconds: Annotated[float, Field(gt=0)] = 600.0

    result_seconds: Annotated[float, Field(ge=0)] = 600.0
    result_bytes: Annotated[int, Field(ge=0)] = 256_000_000

    drain_seconds: Annotated[float, Field(ge=0)] = 60.0
    linger_seconds: Annotated[float, Field(ge=0)] = 1.0
    stall_seconds: Annotated[float, Field(gt=0)] = 60.0
    idle_unload_seconds: Annotated[float | None, Field(gt=0)] = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK
