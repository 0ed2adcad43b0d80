"""The deployment files, and the server options and times that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "diffedit-trt.service"


def yaml_documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def shutdown_seconds(settings: Any) -> float:
    """The longest time that a graceful shutdown takes."""
    from diffedit.server.run import CLOSE_SECONDS

    accepting = settings.drain_delay_seconds + settings.drain_seconds
    return float(accepting + settings.linger_seconds + CLOSE_SECONDS)


def serve_options() -> set[str]:
    """Every option of `diffedit-trt serve`."""
    import typer.main

    from diffedit.cli import app

    commands = cast(Any, typer.main.get_command(app)).commands
    return {name for option in commands["serve"].params for name in option.opts}


def check_options(arguments: list[str]) -> None:
    """Check that `diffedit-trt serve` has every option."""
    assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= serve_options()
