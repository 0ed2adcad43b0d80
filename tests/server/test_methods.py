"""FlowEdit and the preset instant over HTTP: previews, rows, and unsupported models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient

from diffedit import DiffEditPipeline, EditRequest
from diffedit.algorithm.plan import EditPlan
from diffedit.method_options import decoding_steps
from diffedit.presets import resolve
from diffedit.request import METHODS
from diffedit.server import Settings, create_app
from engine.models import Defaults, flux
from tests.algorithm.flow_tools import TEN
from tests.server.helpers import wait_until
from tests.server.test_edits import edit, events_of
from tests.shared import Folders


@pytest.fixture(scope="module")
def schnell(folders: Folders) -> Iterator[TestClient]:
    """A server of a tiny FLUX.1 schnell on PyTorch."""
    folder = folders("tiny-schnell")

    def open_model() -> DiffEditPipeline:
        return DiffEditPipeline.from_pretrained(folder, device="cpu", dtype="fp32")

    app = create_app(open_model, "schnell", Settings())
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the server is ready")
        yield client


def test_flowedit_has_previews_and_its_own_options(schnell: TestClient) -> None:
    options: dict[str, Any] = {"method": "flowedit", "n_max": "4", "n_min": "1", "n_avg": "2"}
    response = edit(schnell, stream="true", partial_images="2", **options)
    events = [name for name, _ in events_of(response.text)]
    assert events == ["image_edit.partial_image"] * 2 + ["image_edit.completed"], response.text
    (data,) = edit(schnell, **options).json()["data"]
    assert data["rows"]["transformer"] == 2 * 2 + 3 * 2 * 2 + 1
    assert data["max_abs_diff_outside_mask"] == 0


def test_flowedit_is_refused_where_the_model_cannot(client: TestClient) -> None:
    response = edit(client, method="flowedit")
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "method" and "flow matching" in error["message"]


def test_an_option_of_another_method_is_refused(client: TestClient) -> None:
    error = edit(client, n_max="3").json()["error"]
    assert error["param"] == "n_max" and "method 'flowedit'" in error["message"]


@pytest.mark.parametrize("previews", ["0", "2"])
def test_the_instant_preset_takes_five_rows(client: TestClient, previews: str) -> None:
    fields: dict[str, Any] = {"preset": "instant", "num_maps_per_mask": "1"}
    (data,) = edit(client, partial_images=previews, **fields).json()["data"]
    assert data["rows"]["unet"] == 5
    assert any("does not look distilled" in warning for warning in data["warnings"])


@pytest.mark.parametrize("method", METHODS)
def test_the_steps_with_previews_are_those_of_the_plan(method: str) -> None:
    family = Defaults(10, flowedit=flux.FLOWEDIT)
    request = EditRequest(b"", "sky", method=method, num_inference_steps=10)  # type: ignore[arg-type]
    request = resolve(request, family)
    plan = EditPlan.for_edit(request, TEN)
    assert decoding_steps(request) == sum(s.calls for s in plan.stages if s.name == "decode")
