"""The mask of each of several edits in one pass: its id, refining it, and an edit with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.server.helpers import image_bytes
from tests.server.refusals import error_message
from tests.server.test_chains import code_and_param
from tests.server.test_several_edits import EDITS, STEPS, picture, post

MASKS = "/v1/masks"


@pytest.fixture(scope="module")
def found(client: TestClient) -> dict[str, Any]:
    answer = post(client, "masks", mask_cleaning="edges")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refined(client: TestClient, mask_id: str, **fields: str) -> Any:
    return client.post(f"{MASKS}/{mask_id}", data=fields or {"invert": "false"})


def edited(client: TestClient, **fields: str) -> Any:
    files = {"image": ("a.png", image_bytes())}
    return client.post("/v1/images/edits", data={**STEPS, **EDITS[0], **fields}, files=files)


def test_each_edit_has_a_mask_id_that_can_be_refined(
    client: TestClient, found: dict[str, Any]
) -> None:
    ids = [part["mask_id"] for part in found["edits"]]
    assert ids == [f"{found['mask_id']}~{k}" for k in range(len(EDITS))]
    shares = []
    for part in found["edits"]:
        larger = refined(client, part["mask_id"], threshold="0.1", grow="2")
        assert larger.status_code == 200, larger.text
        body = larger.json()
        assert body["refined_from"] == part["mask_id"]
        assert body["mask_share"] > part["mask_share"]
        again = refined(client, body["mask_id"], threshold="0.1", grow="2").json()
        assert (again["mask_id"], again["refined_from"]) == (body["mask_id"], part["mask_id"])
        shares.append(body["mask_id"])
    assert len({*shares}) == len(EDITS), "the same options of two edits are two masks"


def test_the_first_mask_is_its_own_refinement(client: TestClient, found: dict[str, Any]) -> None:
    first = found["edits"][0]
    same = refined(client, first["mask_id"]).json()
    assert (picture(same["mask"]) == picture(first["mask"])).all()
    assert same["cleaning"] == "edges"


def test_an_edit_uses_the_mask_of_one_of_several(client: TestClient, found: dict[str, Any]) -> None:
    first, second = found["edits"]
    larger = refined(client, second["mask_id"], threshold="0.1").json()
    for part in (first, larger):
        mask_id, mask = part["mask_id"], part["mask"]
        answer = edited(client, mask_id=mask_id)
        assert answer.status_code == 200, answer.text
        (data,) = answer.json()["data"]
        assert data["mask_id"] == mask_id
        assert (picture(data["mask"]) == picture(mask)).all()
        assert data["max_abs_diff_outside_mask"] == 0


def test_masks_of_several_results_have_their_own_ids(client: TestClient) -> None:
    answer = post(client, n="2")
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    ids = [[part["mask_id"] for part in one["edits"]] for one in data]
    assert ids == [[f"{one['edit_id']}~{k}" for k in (0, 1)] for one in data]
    body = refined(client, ids[1][0], threshold="0.2").json()
    assert body["refined_from"] == ids[1][0]
    mine, other = (np.asarray(picture(one["edits"][0]["mask"])) for one in data)
    assert mine.shape == other.shape == picture(body["mask"]).shape


@pytest.mark.parametrize("suffix", ["~2", "~x", "~", "~-1", "~00", ".x", ".", ".7~0", "~0~0"])
def test_ids_that_do_not_exist(client: TestClient, found: dict[str, Any], suffix: str) -> None:
    mask_id = found["mask_id"] + suffix
    error_message(refined(client, mask_id), 404, "no_such_mask")
    answer = edited(client, mask_id=mask_id)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == "mask_id"


def test_the_mask_of_one_edit_is_no_result(client: TestClient, found: dict[str, Any]) -> None:
    text = found["edits"][0]["mask_id"]
    fields = {**STEPS, **EDITS[0], "previous_edit_id": text}
    form = {name: (None, value) for name, value in fields.items()}
    answer = client.post("/v1/images/edits", files=form)
    assert code_and_param(answer) == (404, "no_such_edit", "previous_edit_id")


def test_the_mask_of_all_edits_cannot_be_refined(client: TestClient, found: dict[str, Any]) -> None:
    answer = refined(client, found["mask_id"])
    assert code_and_param(answer) == (400, "invalid_value", "mask_id")
    assert "use the mask_id of one of its edits" in answer.text
