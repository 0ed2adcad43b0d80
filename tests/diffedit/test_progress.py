"""Stages, progress, previews and results follow the device, which runs behind the host.

The networks are fake and every call takes a second of simulated time. An edit of five steps has a
call for the texts, one of the encoder, one for the mask, four to encode, four to decode, and one of
the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diffedit import DiffEditPipeline, EditRequest
from engine.backends.fake import FakeNetworks
from engine.backends.fake_device import FakeDevice
from engine.checkpoint import Checkpoint

OPTIONS: dict[str, Any] = {
    "prompt": "a blue ball",
    "source_prompt": "a red ball",
    "preset": "paper",
    "num_inference_steps": 5,
    "num_maps_per_mask": 2,
}


@pytest.fixture(params=[1, 2, 10**9], ids=["one call in flight", "two", "no limit"])
def device(request: pytest.FixtureRequest) -> FakeDevice:
    return FakeDevice(in_flight=request.param)


@pytest.fixture
def pipe(tiny: Path, device: FakeDevice) -> Iterator[DiffEditPipeline]:
    networks = FakeNetworks(factor=4, clock=device)
    with DiffEditPipeline(Checkpoint.open(tiny), networks) as opened:
        yield opened


def test_progress_is_reported_when_a_call_is_finished(
    pipe: DiffEditPipeline, photo: Image.Image, device: FakeDevice
) -> None:
    seen: list[tuple[float, str, int]] = []
    done: list[float] = []

    def report(stage: str, finished: int, total: int) -> None:
        seen.append((device.now, stage, finished))

    handle = pipe.submit(EditRequest(photo, **OPTIONS), callback=report)
    handle.future.add_done_callback(lambda _: done.append(device.now))
    handle.result()
    mask = [(3.0, "mask", 4)]
    encode = [(4.0 + i, "encode", 5 + i) for i in range(4)]
    decode = [(8.0 + i, "decode", 10 + 2 * i) for i in range(4)]
    assert seen == [*mask, *encode, *decode, (12.0, "decode", 16), (12.0, "decode", 16)]
    assert done == [12.0]


def test_a_preview_is_shown_when_its_step_is_finished(
    pipe: DiffEditPipeline, photo: Image.Image, device: FakeDevice
) -> None:
    seen: list[float] = []
    request = EditRequest(photo, **OPTIONS)
    pipe.submit(request, on_preview=lambda latent, x0: seen.append(device.now)).result()
    assert seen == [8.0, 9.0, 10.0, 11.0]


def test_the_second_edit_of_a_photograph_starts_its_first_stage_at_once(
    pipe: DiffEditPipeline, photo: Image.Image, device: FakeDevice
) -> None:
    """Texts and trajectory are cached, so a stage begins before any call."""
    pipe.submit(EditRequest(photo, **OPTIONS)).result()
    began = device.now
    seen: list[tuple[float, str, int]] = []

    def report(stage: str, finished: int, total: int) -> None:
        seen.append((device.now - began, stage, finished))

    seconds = pipe.submit(EditRequest(photo, **OPTIONS), callback=report).result().stats.seconds
    assert seen[0] == (1.0, "mask", 4) and seen[1] == (2.0, "decode", 6)
    assert seen[-1] == (6.0, "decode", 12)
    assert list(seconds) == ["mask", "encode", "decode", "total"]


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_progress_ends_at_all_rows_though_the_mask_needs_fewer(
    pipe: DiffEditPipeline, photo: Image.Image, tolerance: float
) -> None:
    seen: list[tuple[str, int, int]] = []
    options = OPTIONS | {"num_maps_per_mask": 6, "mask_tolerance": tolerance}
    options |= {"inversion_stride": 3, "preset": "draft"}
    request = EditRequest(photo, **options)
    result = pipe.submit(request, callback=lambda *report: seen.append(report)).result()
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["mask", "encode", "decode"]
    assert seen[-1][1] == seen[-1][2] == 12 + 2 + 4 + 3  # three steps are guided
    assert result.stats.rows["unet"] == (4 if tolerance else 12) + 9
