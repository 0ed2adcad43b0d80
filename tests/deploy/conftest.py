"""The server's default settings."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def settings() -> Any:
    pytest.importorskip("pydantic_settings", reason="the server extra is not installed")
    from diffedit.server.settings import Settings

    return Settings()
