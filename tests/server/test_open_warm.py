"""Servers open their pipelines warm: engines that do not run are found before the first request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffedit import DiffEditPipeline
from diffedit.cli import serve
from diffedit.cli.model_options import ModelOptions
from diffedit.server.ray_options import Options


def opened_by_serve(model: Path) -> DiffEditPipeline:
    pipeline = serve._open_pipeline(ModelOptions(model=str(model), device="cpu"))
    assert isinstance(pipeline, DiffEditPipeline)
    return pipeline


def opened_by_a_replica(model: Path) -> DiffEditPipeline:
    return Options.model_validate({"model": str(model), "device": "cpu"}).open_pipeline()


@pytest.mark.parametrize("opened", [opened_by_serve, opened_by_a_replica])
def test_every_network_has_run_when_a_server_is_open(
    opened: Callable[[Path], DiffEditPipeline], tiny: Path
) -> None:
    with opened(tiny) as pipeline:
        assert {network for network, _ in pipeline.costs} == {
            *("text", "vae_encode", "unet", "vae_decode")
        }
