"""Responses have the fields of `EditResult`."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from demo.picture import still_life
from diffedit import EditRequest
from diffedit.pipeline import DiffEditPipeline
from diffedit.request import METHODS
from tests.server.helpers import FAST, encoded, image_bytes, wait_until
from tests.server.test_chains import EDITS, JOBS, MASKS, box, code_and_param, edited, pixels, post

PHOTO = encoded(still_life(480, 360))


def small_mask() -> bytes:
    mask = Image.new("L", (480, 360))
    mask.paste(255, (200, 150, 260, 200))
    return encoded(mask)


def pipeline_of(client: TestClient) -> DiffEditPipeline:
    pipeline: Any = client.app.state.engine_host.pipeline  # type: ignore[attr-defined]
    assert isinstance(pipeline, DiffEditPipeline)
    return pipeline


def array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "balanced"},
        {"preset": "draft", "mask_feather": 0.05, "mask_dilation": 1},
        {"method": "masked-sdedit", "strength": 0.5},
        {"method": "sdedit"},
        {"method": "encode-decode"},
        {"preset": "instant", "step_scale": 0.5},
    ],
    ids=str,
)
def test_answer_equals_the_result_in_python(client: TestClient, options: dict[str, Any]) -> None:
    common = {**FAST, "num_inference_steps": 4, "num_maps_per_mask": 1, "seed": 3, **options}
    fields = {name: str(value) for name, value in common.items()}
    response = client.post(EDITS, files={"image": ("a.png", image_bytes())}, data=fields)
    assert response.status_code == 200, response.text
    (answer,) = response.json()["data"]
    result = pipeline_of(client).submit(EditRequest(image_bytes(), **common)).result()
    assert (pixels(answer["b64_json"]) == array(result.image)).all()
    assert (pixels(answer["mask"]) == array(result.mask)).all()
    assert (pixels(answer["blend_mask"]) == array(result.blend_mask)).all()
    assert answer["parameters"] == result.parameters
    assert answer["warnings"] == list(result.warnings)
    assert (answer["seed"], answer["window"]) == (result.seed, None)
    assert answer["mask_id"] == answer["edit_id"]


def test_parameters_are_those_that_were_used(client: TestClient) -> None:
    response = post(client, EDITS, image_bytes(), n="2", seed="5", preset="balanced")
    first, second = (edit["parameters"] for edit in response.json()["data"])
    assert (first["seed"], second["seed"]) == (5, 6)
    assert first["mask_cleaning"] == "edges", "the preset's default is filled in"
    assert first["guidance_scale"] > 1, "the model's default is filled in"
    again = edited(client, image_bytes(), preset="balanced", seed="6")
    assert again["parameters"] == second


@pytest.mark.parametrize("focus", ["true", "auto"])
def test_window_of_a_focused_edit(client: TestClient, focus: str) -> None:
    edit = edited(client, PHOTO, mask=small_mask(), focus=focus)
    left, top, right, bottom = edit["window"]
    assert 0 <= left < 200 and 0 <= top < 150 and 260 < right <= 480 and 200 < bottom <= 360
    blend = pixels(edit["blend_mask"])
    assert blend[:top].max() == blend[:, right:].max() == 0 < blend.max()
    assert edited(client, PHOTO, mask=small_mask())["window"] is None


def test_window_of_a_found_mask_that_is_used_again(client: TestClient) -> None:
    fields = {"focus": "true", "mask_threshold": "0.9"}
    direct = edited(client, PHOTO, **fields)
    kept = edited(client, PHOTO, mask_id=direct["edit_id"], focus="true")
    assert kept["window"] == direct["window"]
    assert kept["b64_json"] == direct["b64_json"]


@pytest.mark.parametrize("path", [EDITS, JOBS])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_known(client: TestClient, path: str, method: str) -> None:
    response = post(client, path, image_bytes(), method=method)
    if method == "flowedit":  # the tests' model was not trained by flow matching
        assert code_and_param(response)[0] == 400 if path == EDITS else 202
        return
    assert response.status_code < 300, response.text


def test_jobs_and_streams_say_the_same(client: TestClient) -> None:
    job = post(client, JOBS, image_bytes(), preset="balanced").json()["id"]
    wait_until(lambda: client.get(f"{JOBS}/{job}").json()["state"] == "succeeded", "it is done")
    (facts,) = client.get(f"{JOBS}/{job}").json()["data"]
    edit = edited(client, image_bytes(), preset="balanced")
    for name in ("parameters", "window", "warnings", "mask_share"):
        assert facts[name] == edit[name], name
    blend = client.get(f"{JOBS}/{job}/blend_mask")
    assert blend.headers["content-type"] == "image/png"
    assert blend.content == base64.b64decode(edit["blend_mask"])
    stream = post(client, EDITS, image_bytes(), preset="balanced", stream="true").text
    assert edit["blend_mask"] in stream
    assert '"window":null' in stream


def test_mask_says_what_it_was_found_with(client: TestClient) -> None:
    fields = {"preset": "balanced", "method": "masked-sdedit", "mask_feather": "0.02"}
    found = post(client, MASKS, image_bytes(), **fields).json()
    assert found["parameters"]["mask_cleaning"] == found["cleaning"] == "edges"
    assert found["parameters"]["mask_feather"] == found["feather"] == 0.02
    assert found["parameters"]["method"] == "masked-sdedit"
    blend = Image.open(io.BytesIO(base64.b64decode(found["blend_mask"])))
    assert (blend.mode, blend.size) == ("L", (96, 72))
    response = client.get(f"{JOBS}/{found['mask_id']}/image")
    assert code_and_param(response) == (404, "no_such_image", "job_id")
    assert client.get(f"{JOBS}/{found['mask_id']}/mask").status_code == 200


@pytest.mark.parametrize("method", ["sdedit", "encode-decode"])
def test_method_without_a_mask_has_none_to_find(client: TestClient, method: str) -> None:
    response = post(client, MASKS, image_bytes(), method=method)
    assert code_and_param(response) == (400, "invalid_value", "method")


def test_mask_covers_what_the_caller_has_painted(client: TestClient) -> None:
    edit = edited(client, image_bytes(), mask=box(8, 8, 40, 40))
    assert edit["mask_read_as"] == "white"
    assert pixels(edit["blend_mask"])[24, 24] == 255
