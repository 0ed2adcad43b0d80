"""Presets over HTTP: the form's fields, the document, and what the server predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from demo.random_checkpoint import SD_SCHEDULER
from diffedit.presets import DECIDED
from diffedit.request import EditRequest
from diffedit.server.cost_model import CostModel
from diffedit.server.field_schemas import field_schema
from engine.models import FEW_STEPS, NetworkNames
from tests.server.helpers import PROMPTS, image_bytes

NAMES = NetworkNames(("text",), "vae_encode", "unet", "vae_decode")
CALLS = {net: {1: 0.0} for net in ("text", "vae_encode", "vae_decode")} | {"unet": {1: 1.0}}


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({"preset": "draft"}, 18),
        ({"preset": "draft", "num_maps_per_mask": "4"}, 24),
        ({"preset": "balanced", "mask_tolerance": "0", "guidance_interval": "0,1"}, 6 + 6 + 32),
        ({"preset": "balanced", "mask_tolerance": "0", "inversion_stride": "1"}, 6 + 16 + 22),
    ],
)
def test_a_form_chooses_a_preset_and_overrides_it(
    client: TestClient, fields: dict[str, str], rows: int
) -> None:
    image = image_bytes(60 + rows)  # another one each time, so that nothing is cached
    files = {"image": ("a.png", image, "image/png")}
    answer = client.post("/v1/images/edits", data=PROMPTS | fields, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["rows"]["unet"] == rows


def test_the_document_says_where_a_default_comes_from() -> None:
    for name in DECIDED:
        schema = field_schema(name)
        assert "default" not in schema and "Default: " in schema["description"]
    assert field_schema("preset")["enum"] == ["paper", "balanced", "draft", "instant"]
    assert field_schema("mask_dilation")["default"] == 0


def predicted(**options: Any) -> float:
    model = CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER)
    return model.work_seconds(EditRequest(b"", "a", **options))


def test_predictions_follow_the_preset_and_the_model() -> None:
    assert predicted() == predicted(preset="balanced") == 34
    assert predicted(preset="paper") == 140
    assert predicted(preset="draft") == 18
    assert predicted(preset="draft", inversion_stride=1) == 23
    few = CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER, defaults=FEW_STEPS)
    assert few.work_seconds(EditRequest(b"", "a")) == 6 + 3 + 3
    assert few.work_seconds(EditRequest(b"", "a", preset="paper")) == 20 + 3 + 3


def test_a_known_image_saves_the_inversion_of_the_default_preset() -> None:
    model = CostModel(NAMES, CALLS, np.zeros((5, 3), np.float32), SD_SCHEDULER)
    assert model.encoding_seconds() == 6  # 16 levels, three of them a row


def test_a_form_without_a_preset_is_balanced(client: TestClient) -> None:
    files = {"image": ("a.png", image_bytes(56, 40), "image/png")}
    edit = client.post("/v1/images/edits", data=PROMPTS, files=files).json()["data"][0]
    used = edit["parameters"]
    assert (used["preset"], used["num_inference_steps"], used["mask_cleaning"]) == (
        *("balanced", 20),
        "edges",
    )
    assert edit["rows"]["unet"] <= 34
    assert field_schema("preset")["default"] == "balanced"
