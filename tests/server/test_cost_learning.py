"""Predictions follow `--size` and the calls that really run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo.fake_server import open_fake
from demo.random_checkpoint import SD_SCHEDULER
from diffedit.pipeline import DiffEditPipeline
from diffedit.request import EditRequest
from diffedit.server import Settings
from diffedit.server.admission import check_time
from diffedit.server.cost_model import CostModel, measure
from diffedit.server.errors import ApiError
from engine.backends.fake import FakeNetworks
from engine.backends.fake_device import FakeDevice
from engine.models import NetworkNames

NAMES = NetworkNames(("text",), "vae_encode", "unet", "vae_decode")
CALLS = {
    "text": {1: 0.1},
    "vae_encode": {1: 0.5},
    "vae_decode": {1: 0.5},
    "unet": {1: 1.0, 2: 2.0},
}
DEFAULT = EditRequest(b"", "a", num_inference_steps=10)


@pytest.fixture
def cost_model() -> CostModel:
    return CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER)


def slow_down(cost_model: CostModel, factor: float, calls: int) -> None:
    for _ in range(calls):
        for net, profiles in CALLS.items():
            for batch_size, seconds in profiles.items():
                cost_model.observe(net, (), batch_size, factor * seconds)


def test_predictions_follow_the_calls(cost_model: CostModel) -> None:
    before = cost_model.work_seconds(DEFAULT), cost_model.latency_seconds(DEFAULT)
    slow_down(cost_model, 3.0, calls=60)
    assert cost_model.work_seconds(DEFAULT) == pytest.approx(3 * before[0], rel=0.01)
    assert cost_model.latency_seconds(DEFAULT) == pytest.approx(3 * before[1], rel=0.01)
    slow_down(cost_model, 1.0, calls=60)
    assert cost_model.work_seconds(DEFAULT) == pytest.approx(before[0], rel=0.01)


def test_one_outlier_changes_little(cost_model: CostModel) -> None:
    before = cost_model.work_seconds(DEFAULT)
    slow_down(cost_model, 1e6, calls=1)
    assert cost_model.work_seconds(DEFAULT) < 2 * before


def test_profiles_that_were_not_measured_are_learnt(cost_model: CostModel) -> None:
    for _ in range(60):
        cost_model.observe("unet", (), 4, 1.0)
        cost_model.observe("another network", (), 1, 1.0)
    assert cost_model.row_seconds("unet") == pytest.approx(0.25, rel=0.05)


def test_deadline_is_refused_only_far_beyond_the_prediction(cost_model: CostModel) -> None:
    latency = max(cost_model.latency_seconds(DEFAULT), cost_model.work_seconds(DEFAULT))

    def check(limit: float) -> float:
        return check_time(
            cost_model, DEFAULT, 1, None,
            mask_only=False, limit=limit, backlog=lambda work: 0.0, settings=Settings(),
        )  # fmt: skip

    assert check(0.6 * latency) > 0
    with pytest.raises(ApiError) as info:
        check(0.4 * latency)
    assert (info.value.status, info.value.code) == (400, "deadline_impossible")


@pytest.mark.parametrize("factor", [2, 4])
def test_measurement_is_at_the_size_of_the_pipeline(tiny: Path, factor: int) -> None:
    """Calls of a fake network that takes time in proportion to the area."""
    with open_fake(tiny) as plain:
        native = plain.checkpoint.family.native_size
        sized = DiffEditPipeline(plain.checkpoint, plain.networks, size=(native * factor, native))
        cost_model = measure(sized)
        shapes = {
            shape
            for (net, shape), backend in plain.networks.backends.items()  # type: ignore[attr-defined]
            if net == "vae_encode" and backend.calls
        }
        assert shapes == {(3, native * factor, native)}
        assert cost_model.canvases is not None
        assert cost_model.canvases.reference == (native * factor, native)
        sized.close()


def test_calls_at_another_canvas_are_scaled_by_their_area(tiny: Path) -> None:
    with open_fake(tiny) as pipeline:
        cost_model = measure(pipeline)
    canvases = cost_model.canvases
    assert canvases is not None
    height, width = canvases.reference
    before = cost_model.calls["vae_encode"][1]
    for _ in range(100):
        cost_model.observe("vae_encode", (3, height, width // 2), 1, 2 * before)
    assert cost_model.calls["vae_encode"][1] == pytest.approx(4 * before, rel=0.01)
    both = replace(canvases, sizes=(canvases.reference, (height, width // 2)))
    assert both.scale_of_image((100, 200)) == pytest.approx(0.5)
    assert both.scale_of_image((200, 200)) == 1.0


def test_running_edits_teach_the_server(tiny: Path) -> None:
    """The batcher reports the calls that it has run, with their seconds."""
    with open_fake(tiny, call_seconds=0.002) as pipeline:
        cost_model = measure(pipeline)
        observed: list[tuple[str, int, float]] = []
        pipeline.batcher.network_calls.on_call = lambda net, shape, size, s: observed.append(
            (net, size, s)
        )
        pipeline(np.zeros((32, 32, 3), np.uint8), "a", num_inference_steps=5)
    assert {net for net, _, _ in observed} == set(cost_model.calls)
    assert all(seconds >= 0.002 for _, _, seconds in observed)
    assert {size for net, size, _ in observed if net == "unet"} >= {1, 2}


def test_edits_on_a_gpu_teach_the_server(tiny: Path) -> None:
    """The host launches calls ahead of the device, so the time of a launch says nothing."""
    device = FakeDevice(lambda net, rows: 0.5 * rows)
    with open_fake(tiny) as pipeline:
        cost_model = measure(pipeline)
    pipeline = DiffEditPipeline(
        pipeline.checkpoint, FakeNetworks(factor=pipeline.checkpoint.family.factor, clock=device)
    )
    with pipeline:
        pipeline.batcher.network_calls.on_call = cost_model.observe
        pipeline.batcher.start()
        for _ in range(4):
            pipeline(np.zeros((32, 32, 3), np.uint8), "a", num_inference_steps=20)
            pipeline.cache_clear()
    assert cost_model.calls["unet"][2] > 0.5
