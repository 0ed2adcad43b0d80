"""`mask_id` and `previous_edit_id`: earlier results instead of files, and what may go wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from demo.picture import still_life
from tests.server.helpers import FAST, SLOW, encoded, image_bytes, wait_until

EDITS, MASKS, JOBS = "/v1/images/edits", "/v1/masks", "/v1/jobs"
KEYS = {"alice": "alices-key-of-some-length", "bob": "bobs-key-of-some-length"}


def post(client: TestClient, path: str, image: bytes | None = None, **fields: Any) -> Any:
    """Send a form; `mask` and `image` are files."""
    key = fields.pop("key", None)
    mask = fields.pop("mask", None)
    form = {**FAST, "mask_thresholding_ratio": "1", **fields}
    parts: Any = {name: (None, text) for name, text in form.items()}  # multipart without files, too
    if image is not None:
        parts["image"] = ("a.png", image)
    if mask is not None:
        parts["mask"] = ("m.png", mask)
    headers = {"Authorization": f"Bearer {KEYS[key]}"} if key else {}
    return client.post(path, files=parts, headers=headers)


def edited(client: TestClient, image: bytes | None = None, **fields: Any) -> dict[str, Any]:
    response = post(client, EDITS, image, **fields)
    assert response.status_code == 200, response.text
    (edit,) = response.json()["data"]
    return dict(edit)


def pixels(b64: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))))


def code_and_param(response: Any) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def box(left: int, top: int, right: int, bottom: int) -> bytes:
    mask = Image.new("L", (96, 72))
    mask.paste(255, (left, top, right, bottom))
    return encoded(mask)


# -- masks -----------------------------------------------------------------------------------------


def test_mask_is_kept_and_the_words_change(client: TestClient) -> None:
    found = post(client, MASKS, image_bytes()).json()
    first = edited(client, image_bytes(), mask_id=found["mask_id"], prompt="a green ball")
    second = edited(client, image_bytes(), mask_id=found["mask_id"], prompt="a white cube")
    assert first["mask"] == second["mask"] == found["mask"]
    assert first["b64_json"] != second["b64_json"]
    assert first["mask_id"] == found["mask_id"]
    uploaded = edited(
        client, image_bytes(), mask=base64.b64decode(found["mask"]), prompt="a green ball"
    )
    assert first["b64_json"] == uploaded["b64_json"]


def test_mask_of_an_edit_serves_too(client: TestClient) -> None:
    first = edited(client, image_bytes())
    second = edited(client, image_bytes(), mask_id=first["edit_id"], prompt="a white cube")
    assert second["mask"] == first["mask"]


def test_mask_id_in_a_job(client: TestClient) -> None:
    found = post(client, MASKS, image_bytes()).json()
    job = post(client, JOBS, image_bytes(), mask_id=found["mask_id"]).json()["id"]
    wait_until(lambda: client.get(f"{JOBS}/{job}").json()["state"] == "succeeded", "it is done")
    (edit,) = client.get(f"{JOBS}/{job}").json()["data"]
    assert (edit["mask_id"], edit["edit_id"]) == (found["mask_id"], job)
    mask = client.get(f"{JOBS}/{job}/mask").content
    assert mask == base64.b64decode(found["mask"])


def test_mask_of_another_image_is_refused(client: TestClient) -> None:
    found = post(client, MASKS, image_bytes()).json()
    response = post(client, EDITS, image_bytes(80, 72), mask_id=found["mask_id"])
    assert code_and_param(response) == (400, "mask_of_another_image", "mask_id")


# -- chains ----------------------------------------------------------------------------------------


def test_chain_continues_from_the_result(client: TestClient) -> None:
    first = edited(client, image_bytes(), mask=box(0, 0, 48, 72))
    picture = base64.b64decode(first["b64_json"])
    chained = edited(client, previous_edit_id=first["edit_id"], mask=box(48, 0, 96, 72))
    uploaded = edited(client, picture, mask=box(48, 0, 96, 72))
    assert chained["b64_json"] == uploaded["b64_json"]
    assert chained["previous_edit_id"] == first["edit_id"]
    assert first["previous_edit_id"] is None
    branch = edited(client, previous_edit_id=first["edit_id"], prompt="a green cube")
    assert branch["edit_id"] != chained["edit_id"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_twenty_five_edits_do_not_drift_outside_their_masks(
    client: TestClient, output_format: str
) -> None:
    """Lossy formats, too: a chain continues from what was encoded, not from the file."""
    before = np.asarray(still_life(96, 72))
    union = np.zeros((72, 96), bool)
    fields: dict[str, Any] = {}
    image: bytes | None = image_bytes()
    for number in range(25):
        left, top = 8 * (number % 5), 6 * (number // 5)
        union[top : top + 8, left : left + 10] = True
        edit = edited(
            client, image, **fields, mask=box(left, top, left + 10, top + 8), seed=str(number),
            prompt=f"thing {number}", num_inference_steps="2", output_format=output_format,
        )  # fmt: skip
        image, fields = None, {"previous_edit_id": edit["edit_id"]}
    last = edited(client, **fields, mask=box(0, 0, 8, 8), num_inference_steps="2")
    after = pixels(last["b64_json"])
    assert last["max_abs_diff_outside_mask"] == 0
    assert (after[~union] == before[~union]).all()
    assert (after[union] != before[union]).any()


def test_mask_in_a_chain(client: TestClient) -> None:
    """A mask of the first image is valid in the chain; its last image can be masked, too."""
    found = post(client, MASKS, image_bytes()).json()
    first = edited(client, image_bytes(), mask_id=found["mask_id"])
    second = edited(
        client, previous_edit_id=first["edit_id"], mask_id=found["mask_id"], prompt="a green cube"
    )
    assert second["mask"] == found["mask"]
    on_result = post(client, MASKS, previous_edit_id=first["edit_id"])
    assert on_result.status_code == 200, on_result.text
    assert on_result.json()["previous_edit_id"] == first["edit_id"]


def test_each_of_several_edits_has_its_own_id(client: TestClient) -> None:
    edits = post(client, EDITS, image_bytes(), n="3").json()["data"]
    ids = [edit["edit_id"] for edit in edits]
    assert len(set(ids)) == 3
    outside = edited(client, previous_edit_id=ids[2], mask=box(0, 0, 8, 8))
    before, after = pixels(edits[2]["b64_json"]), pixels(outside["b64_json"])
    assert (before[8:] == after[8:]).all()
    response = post(client, EDITS, previous_edit_id=ids[0].split(".")[0] + ".7")
    assert code_and_param(response) == (404, "no_such_edit", "previous_edit_id")


def test_idempotency_key_of_a_chained_edit(client: TestClient) -> None:
    """A repeated request finds its edit, also when the parent is gone."""
    first = edited(client, image_bytes())
    parts = {**FAST, "previous_edit_id": first["edit_id"]}
    headers = {"Idempotency-Key": "chained"}

    def send(**more: str) -> Any:
        files: Any = {name: (None, text) for name, text in {**parts, **more}.items()}
        return client.post(JOBS, files=files, headers=headers)

    job = send().json()["id"]
    wait_until(lambda: client.get(f"{JOBS}/{job}").json()["state"] == "succeeded", "it is done")
    store = client.app.state.scheduler.store  # type: ignore[attr-defined]
    store.discard(store.get(first["edit_id"]))
    assert send().json()["id"] == job
    assert send(previous_edit_id="other").status_code == 422


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "fields", "expected"),
    [
        (True, {"mask_id": "none"}, (404, "no_such_mask", "mask_id")),
        (True, {"mask_id": ""}, (400, "invalid_value", "mask_id")),
        (True, {"mask_id": "../../etc"}, (400, "invalid_value", "mask_id")),
        (True, {"mask_id": "a" * 200}, (400, "invalid_value", "mask_id")),
        (True, {"mask_id": "a.b"}, (400, "invalid_value", "mask_id")),
        (False, {"previous_edit_id": "none"}, (404, "no_such_edit", "previous_edit_id")),
        (False, {"previous_edit_id": "\u0663"}, (400, "invalid_value", "previous_edit_id")),
        (True, {"previous_edit_id": "none"}, (400, "conflicting_fields", "previous_edit_id")),
        (True, {"mask_id": "none", "mask": b"x"}, (400, "conflicting_fields", "mask_id")),
        (
            True,
            {"mask_id": "none", "mask_format": "white"},
            (400, "conflicting_fields", "mask_format"),
        ),
        (False, {}, (400, "missing_field", "image")),
        (False, {"mask_id": "none"}, (400, "missing_field", "image")),
    ],
)
@pytest.mark.parametrize("path", [EDITS, JOBS])
def test_bad_ids(
    client: TestClient,
    path: str,
    image: bool,
    fields: dict[str, Any],
    expected: tuple[int, str, str],
) -> None:
    response = post(client, path, image_bytes() if image else None, **fields)
    assert code_and_param(response) == expected, response.text


def test_mask_id_with_a_method_that_has_no_mask(client: TestClient) -> None:
    found = post(client, MASKS, image_bytes()).json()
    response = post(client, EDITS, image_bytes(), mask_id=found["mask_id"], method="sdedit")
    assert response.status_code == 400
    assert post(client, MASKS, image_bytes(), mask_id=found["mask_id"]).status_code == 400


def test_mask_is_not_an_edit(client: TestClient) -> None:
    found = post(client, MASKS, image_bytes()).json()
    response = post(client, EDITS, previous_edit_id=found["mask_id"])
    assert code_and_param(response) == (400, "invalid_value", "previous_edit_id")


def test_ids_belong_to_their_key(make_client: Callable[..., TestClient], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("".join(f"{name} {key}\n" for name, key in KEYS.items()))
    client = make_client(api_keys=file)
    mask = post(client, MASKS, image_bytes(), key="alice").json()["mask_id"]
    response = post(client, EDITS, image_bytes(), key="bob", mask_id=mask)
    assert code_and_param(response) == (404, "no_such_mask", "mask_id")
    edit = edited(client, image_bytes(), key="alice", mask_id=mask)
    response = post(client, EDITS, key="bob", previous_edit_id=edit["edit_id"])
    assert code_and_param(response) == (404, "no_such_edit", "previous_edit_id")
    assert edited(client, key="alice", previous_edit_id=edit["edit_id"])


def test_ids_expire_with_the_results(make_client: Callable[..., TestClient]) -> None:
    client = make_client(result_seconds=0.0)
    mask = post(client, MASKS, image_bytes()).json()["mask_id"]
    response = post(client, EDITS, image_bytes(), mask_id=mask)
    assert code_and_param(response) == (404, "no_such_mask", "mask_id")


def test_edit_that_has_not_finished(make_client: Callable[..., TestClient]) -> None:
    client = make_client(call_seconds=0.02, max_queue_seconds=1e6)
    job = post(client, JOBS, image_bytes(), **{k: SLOW[k] for k in SLOW if k not in FAST}).json()
    response = post(client, EDITS, previous_edit_id=job["id"])
    assert code_and_param(response) == (409, "not_finished", "previous_edit_id")
    assert int(response.headers["retry-after"]) >= 1
    client.delete(f"{JOBS}/{job['id']}")
    response = post(client, EDITS, previous_edit_id=job["id"])
    assert code_and_param(response) == (404, "no_such_edit", "previous_edit_id")
