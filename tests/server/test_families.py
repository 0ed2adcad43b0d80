"""Models of other families on PyTorch, over HTTP: the model's card, edits, masks and jobs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from fastapi.testclient import TestClient
from PIL import Image

from demo.picture import still_life
from diffedit import DiffEditPipeline
from diffedit.server import Settings, create_app
from tests.engine.test_lora_runtime import attention_lora
from tests.server.helpers import FAST, encoded, image_bytes, wait_until
from tests.server.test_edits import events_of
from tests.shared import Folders

DENOISERS = {
    "tiny-sdxl": "unet",
    "tiny-sd3": "transformer",
    "tiny-flux": "transformer",
    "tiny-schnell": "transformer",
}
GUIDANCE = {
    "tiny-sdxl": "classifier-free",
    "tiny-sd3": "classifier-free",
    "tiny-flux": "embedded",
    "tiny-schnell": "distilled",
}
FORM = {**FAST, "mask_thresholding_ratio": "1"}


@dataclass(frozen=True)
class Served:
    """A served checkpoint with a LoRA."""

    kind: str
    folder: Path
    lora: Path
    client: TestClient

    def post(self, path: str, mask: Image.Image | None = None, **fields: str) -> Any:
        files = {"image": ("a.png", image_bytes())}
        if mask is not None:
            files["mask"] = ("m.png", encoded(mask))
        response = self.client.post(path, files=files, data={**FORM, **fields})
        assert response.status_code in (200, 202), response.text
        return response


@pytest.fixture(scope="module", params=DENOISERS)
def served(
    request: pytest.FixtureRequest, folders: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    kind = request.param
    base = tmp_path_factory.mktemp("secret-folder")
    folder, lora = folders(kind), base / "style.safetensors"
    attention_lora(folder, DENOISERS[kind], DENOISERS[kind], lora)

    def open_pipeline() -> DiffEditPipeline:
        return DiffEditPipeline.from_pretrained(
            folder, backend="torch", dtype="fp32", device="cpu", lora=[(lora, 0.25)]
        )

    app = create_app(open_pipeline, "served", Settings(result_seconds=60.0))
    with TestClient(app, base_url="http://localhost") as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "the server is ready")
        yield Served(kind, folder, lora, client)


def check_provenance(served: Served, facts: dict[str, Any]) -> None:
    made, digest = facts["provenance"], hashlib.sha256(served.lora.read_bytes()).hexdigest()
    fused = {"name": "style.safetensors", "sha256": digest, "scale": 0.25}
    assert made["loras"] == [fused]
    assert (made["model"], made["backend"], made["precision"]) == ("served", "torch", "fp32")
    assert len(made["weights"]) >= 32
    assert made["embeddings"] == []
    assert facts["denoiser"] == DENOISERS[served.kind]
    assert facts["rows"][facts["denoiser"]] > 0
    assert "secret-folder" not in json.dumps(made)


def test_card_of_the_model(served: Served) -> None:
    family = DiffEditPipeline.from_pretrained(served.folder, device="cpu").checkpoint.family
    listed = served.client.get("/v1/models").json()["data"]
    card = served.client.get("/v1/models/served").json()
    assert listed == [card]
    assert card["family"] == family.name
    assert card["native_size"] == family.native_size
    assert card["guidance"] == GUIDANCE[served.kind]
    assert card["uses_guidance"] is (served.kind != "tiny-schnell")
    assert card["uses_negative_prompt"] is (GUIDANCE[served.kind] == "classifier-free")
    assert card["precision"] == "fp32"
    assert card["loras"][0]["name"] == "style.safetensors"
    assert "secret-folder" not in json.dumps(card)


def test_whole_edit_states_what_made_it(served: Served) -> None:
    (facts,) = served.post("/v1/images/edits").json()["data"]
    check_provenance(served, facts)
    assert facts["max_abs_diff_outside_mask"] == 0
    assert facts["mask_read_as"] is None


def test_stream_states_what_made_it(served: Served) -> None:
    name, facts = events_of(served.post("/v1/images/edits", stream="true").text)[-1]
    assert name == "image_edit.completed"
    check_provenance(served, facts)


def test_mask_alone_states_what_made_it(served: Served) -> None:
    files = {"image": ("a.png", image_bytes())}
    response = served.client.post("/v1/masks", files=files, data=FORM)
    assert response.status_code == 200, response.text
    check_provenance(served, response.json())


def test_job_with_a_mask_changes_only_its_inside(served: Served) -> None:
    mask = Image.new("L", (96, 72))
    mask.paste(255, (0, 0, 48, 72))
    job = served.post("/v1/jobs", mask).json()["id"]
    path = f"/v1/jobs/{job}"
    wait_until(lambda: served.client.get(path).json()["state"] == "succeeded", "it has finished")
    (facts,) = served.client.get(path).json()["data"]
    check_provenance(served, facts)
    assert facts["mask_read_as"] == "white"
    before = np.asarray(still_life(96, 72))
    after = np.asarray(Image.open(io.BytesIO(served.client.get(f"{path}/image").content)))
    assert (after[:, 48:] == before[:, 48:]).all()
    assert (after[:, :48] != before[:, :48]).any()


def test_defaults_of_the_card_are_those_of_the_edit(served: Served) -> None:
    """An edit that gives the card's defaults is the edit that gives none."""
    card = served.client.get("/v1/models/served").json()
    fields = {**FORM, "num_inference_steps": "2"}
    own = (*fields, "inversion_stride")  # which is smaller with so few steps
    given = {name: f"{value:g}" for name, value in card["defaults"].items() if name not in own}
    pictures = [
        base64.b64decode(served.post("/v1/images/edits", **more).json()["data"][0]["b64_json"])
        for more in (fields, {**given, **fields})
    ]
    assert pictures[0] == pictures[1]
