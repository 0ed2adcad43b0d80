"""The predicted seconds of an edit, by hand; and the preview map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.fake_server import open_fake
from demo.random_checkpoint import SD_SCHEDULER
from diffedit.request import EditRequest
from diffedit.server.cost_model import CostModel, measure
from diffedit.server.previews import colours, fit
from engine.models import NetworkNames

NAMES = NetworkNames(("text",), "vae_encode", "unet", "vae_decode")
CALLS = {
    "text": {1: 0.1, 4: 0.2},
    "vae_encode": {1: 0.5},
    "vae_decode": {1: 0.7},
    "unet": {1: 1.0, 2: 1.5, 8: 4.0, 20: 8.0},
}


@pytest.fixture
def costs() -> CostModel:
    return CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER)


def request(**options: object) -> EditRequest:
    return EditRequest(b"", "a", num_inference_steps=10, **options)  # type: ignore[arg-type]


def test_seconds_alone_are_the_calls_one_after_the_other(costs: CostModel) -> None:
    default = request()
    assert costs.alone(default) == pytest.approx(0.2 + 0.5 + 8.0 + 8 * 1.0 + 8 * 1.5 + 0.7)
    assert costs.alone(default, mask_only=True) == pytest.approx(0.2 + 0.5 + 8.0)
    given = request(mask_image=b"")
    assert costs.alone(given) == pytest.approx(0.2 + 0.5 + 8 * 1.0 + 8 * 1.5 + 0.7)
    plain = request(method="sdedit", guidance_scale=1.0)
    assert costs.alone(plain) == pytest.approx(0.2 + 0.5 + 8 * 1.0 + 0.7)


def test_work_is_rows_at_the_best_profile(costs: CostModel) -> None:
    assert costs.row_seconds("unet") == pytest.approx(0.4)
    rest = 0.5 + 2 * 0.05 + 0.7
    assert costs.work(request()) == pytest.approx((20 + 8 + 16) * 0.4 + rest)
    assert costs.work(request(), mask_only=True) == pytest.approx(20 * 0.4 + rest - 0.7)


@pytest.mark.parametrize(("rows", "seconds"), [(0, 0), (1, 1), (3, 4), (20, 8), (23, 12), (40, 16)])
def test_calls_that_hold_some_rows(costs: CostModel, rows: int, seconds: float) -> None:
    assert costs.call_seconds("unet", rows) == pytest.approx(seconds)


def test_the_preview_map_is_found_again() -> None:
    generator = np.random.default_rng(0)
    table = generator.normal(size=(5, 3)).astype(np.float32)
    latents = generator.normal(size=(3, 4, 6, 8)).astype(np.float32)
    cells = np.einsum("kchw,cd->kdhw", latents, table[:4]) + table[4][None, :, None, None]
    pictures = cells.repeat(2, 2).repeat(2, 3).astype(np.float32)
    np.testing.assert_allclose(fit(latents, pictures), table, atol=1e-4)
    shown = colours(latents[0], table)
    np.testing.assert_allclose(shown, cells[0].transpose(1, 2, 0).clip(-1, 1), atol=1e-5)


def test_a_plain_picture_keeps_the_prior_where_it_says_nothing() -> None:
    """One colour fixes one line of the map; the rest stays what it was."""
    prior = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    latents = np.zeros((1, 4, 8, 8), np.float32)
    latents[:, 0] = 1
    found = fit(latents, np.full((1, 3, 16, 16), 0.25, np.float32), prior)
    np.testing.assert_allclose(colours(latents[0], found), 0.25, atol=0.02)
    np.testing.assert_allclose(found[1:4], prior[1:4], atol=1e-5)


def test_measuring_warms_up_every_profile(tiny: Path) -> None:
    with open_fake(tiny, call_seconds=0.002) as pipe:
        found = measure(pipe)
        assert set(found.calls) == {"text", "vae_encode", "vae_decode", "unet"}
        for (net, _), backend in pipe.networks.backends.items():  # type: ignore[attr-defined]
            assert set(found.calls[net]) == set(backend.spec.batch_sizes)
            assert set(backend.calls) == set(backend.spec.batch_sizes)
        assert all(s >= 0.002 for calls in found.calls.values() for s in calls.values())
        assert found.colours.shape == (5, 3)
