"""Predicted seconds of an edit, checked by hand, and the preview map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.fake_server import open_fake
from demo.random_checkpoint import SD_SCHEDULER
from diffedit.request import EditRequest
from diffedit.server.cost_model import CostModel, measure
from diffedit.server.previews import fit_rgb_map, latent_to_rgb
from engine.models import Defaults, NetworkNames

NAMES = NetworkNames(("text",), "vae_encode", "unet", "vae_decode")
CALLS = {
    "text": {1: 0.1, 4: 0.2},
    "vae_encode": {1: 0.5},
    "vae_decode": {1: 0.7},
    "unet": {1: 1.0, 2: 1.5, 8: 4.0, 20: 8.0},
}


@pytest.fixture
def cost_model() -> CostModel:
    return CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER)


def request(**options: object) -> EditRequest:
    """With the paper's settings, but for the steps."""
    chosen: dict[str, Any] = {"preset": "paper", "num_inference_steps": 10, **options}
    return EditRequest(b"", "a", **chosen)


def test_latency_is_the_sum_of_the_calls(cost_model: CostModel) -> None:
    default = request()
    assert cost_model.latency_seconds(default) == pytest.approx(
        0.2 + 0.5 + 8.0 + 8 * 1.0 + 8 * 1.5 + 0.7
    )
    assert cost_model.latency_seconds(default, mask_only=True) == pytest.approx(0.2 + 0.5 + 8.0)
    with_mask = request(mask_image=b"")
    assert cost_model.latency_seconds(with_mask) == pytest.approx(
        0.2 + 0.5 + 8 * 1.0 + 8 * 1.5 + 0.7
    )
    unguided = request(method="sdedit", guidance_scale=1.0)
    assert cost_model.latency_seconds(unguided) == pytest.approx(0.2 + 0.5 + 8 * 1.0 + 0.7)


def test_work_is_rows_in_the_fastest_profile(cost_model: CostModel) -> None:
    assert cost_model.row_seconds("unet") == pytest.approx(0.4)
    other = 0.5 + 2 * 0.05 + 0.7
    assert cost_model.work_seconds(request()) == pytest.approx((20 + 8 + 16) * 0.4 + other)
    mask_only = cost_model.work_seconds(request(), mask_only=True)
    assert mask_only == pytest.approx(20 * 0.4 + other - 0.7)


@pytest.mark.parametrize("focus", [True, "auto"])
def test_focus_encodes_the_window_too(cost_model: CostModel, focus: object) -> None:
    """The mask is found on the whole photograph; a given mask needs no search, so only a window."""

    def more(**options: object) -> list[float]:
        asked, plain = request(focus=focus, **options), request(**options)
        return [
            cost_model.work_seconds(asked) - cost_model.work_seconds(plain),
            cost_model.latency_seconds(asked) - cost_model.latency_seconds(plain),
        ]

    assert more() == pytest.approx([0.5, 0.5])
    assert more(mask_image=b"") == pytest.approx([0, 0])
    asked = request(focus=focus)
    assert cost_model.work_seconds(asked, mask_only=True) == cost_model.work_seconds(
        request(), mask_only=True
    )


def test_several_edits_share_the_inversion_and_the_negative_row(cost_model: CostModel) -> None:
    one = cost_model.work_seconds(request())
    edits = [("b", "a"), ("b", "c"), ("b", "d")]
    three = EditRequest(b"", edits=edits, preset="paper", num_inference_steps=10)
    added = 2 * (10 + 8) * 0.4 + (5 - 2) * 0.05  # masks and decoding; b, c and d
    assert cost_model.work_seconds(three) == pytest.approx(one + added)


@pytest.mark.parametrize(("rows", "seconds"), [(0, 0), (1, 1), (3, 4), (20, 8), (23, 12), (40, 16)])
def test_call_seconds_of_a_number_of_rows(cost_model: CostModel, rows: int, seconds: float) -> None:
    assert cost_model.call_seconds("unet", rows) == pytest.approx(seconds)


def test_preview_map_is_recovered_from_samples() -> None:
    generator = np.random.default_rng(0)
    rgb_map = generator.normal(size=(5, 3)).astype(np.float32)
    latents = generator.normal(size=(3, 4, 6, 8)).astype(np.float32)
    cells = np.einsum("kchw,cd->kdhw", latents, rgb_map[:4]) + rgb_map[4][None, :, None, None]
    images = cells.repeat(2, 2).repeat(2, 3).astype(np.float32)
    np.testing.assert_allclose(fit_rgb_map(latents, images), rgb_map, atol=1e-4)
    rgb = latent_to_rgb(latents[0], rgb_map)
    np.testing.assert_allclose(rgb, cells[0].transpose(1, 2, 0).clip(-1, 1), atol=1e-5)


def test_preview_map_keeps_the_prior_where_the_image_does_not_determine_it() -> None:
    """An image of one colour determines one row of the map."""
    prior = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    latents = np.zeros((1, 4, 8, 8), np.float32)
    latents[:, 0] = 1
    rgb_map = fit_rgb_map(latents, np.full((1, 3, 16, 16), 0.25, np.float32), prior)
    np.testing.assert_allclose(latent_to_rgb(latents[0], rgb_map), 0.25, atol=0.02)
    np.testing.assert_allclose(rgb_map[1:4], prior[1:4], atol=1e-5)


def test_measurement_runs_every_profile(tiny: Path) -> None:
    with open_fake(tiny, call_seconds=0.002) as pipeline:
        cost_model = measure(pipeline)
        assert set(cost_model.calls) == {"text", "vae_encode", "vae_decode", "unet"}
        for (net, _), backend in pipeline.networks.backends.items():  # type: ignore[attr-defined]
            assert set(cost_model.calls[net]) == set(backend.spec.batch_sizes)
            assert set(backend.calls) == set(backend.spec.batch_sizes)
        assert all(s >= 0.002 for calls in cost_model.calls.values() for s in calls.values())
        assert cost_model.rgb_map.shape == (5, 3)


def test_guidance_as_an_input_needs_one_row_a_step() -> None:
    """FLUX.1 dev: 40 rows less than with two rows a step, at 50 steps and strength 0.8."""
    two = CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER)
    dev = Defaults(guidance="embedded")
    one = CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER, defaults=dev)
    request = EditRequest(b"", "a cup", "a mug", preset="paper")
    less = two.work_seconds(request) - one.work_seconds(request)
    texts = one.row_seconds(NAMES.text_encoders[0])  # the negative text equals the empty one here
    assert less == pytest.approx(40 * one.row_seconds(NAMES.denoiser), abs=texts / 2)
    assert one.work_seconds(request, mask_only=True) == two.work_seconds(request, mask_only=True)
