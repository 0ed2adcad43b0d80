"""The form field `edits`: several edits in one pass, equal to the library's, and its bad input."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from demo.fake_server import open_fake
from diffedit.request import EditRequest
from diffedit.server.response_schemas import EDIT, MASK
from tests.server.helpers import encoded, image_bytes, wait_until
from tests.server.refusals import error_message

EDITS = [
    {"source_prompt": "a blue ball", "prompt": "a red ball"},
    {"source_prompt": "a blue ball", "prompt": "a green cube on a table"},
]
STEPS = {"num_inference_steps": "5", "num_maps_per_mask": "2", "preset": "paper"}
OPTIONS = {**STEPS, "mask_thresholding_ratio": "1"}


def post(client: TestClient, path: str = "images/edits", edits: Any = None, **fields: Any) -> Any:
    text = edits if isinstance(edits, str) else json.dumps(EDITS if edits is None else edits)
    form = {**OPTIONS, "edits": text, **fields}
    files = {"image": ("a.png", image_bytes())}
    files |= {name: ("m.png", form.pop(name)) for name in ("mask",) if name in form}
    return client.post(f"/v1/{path}", data=form, files=files)


def picture(b64: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))))


def conforms(body: Any, form: Any) -> bool:
    jsonschema_rs = pytest.importorskip("jsonschema_rs")
    return bool(jsonschema_rs.is_valid(form, body))


@pytest.mark.parametrize("form", [{}, {"prompt": ""}, {"prompt": " ", "source_prompt": ""}])
def test_a_form_of_several_edits_is_the_librarys(
    client: TestClient, tiny: Path, form: dict[str, str]
) -> None:
    answer = post(client, seed="3", **form)
    assert answer.status_code == 200, answer.text
    assert conforms(answer.json(), EDIT)
    (found,) = answer.json()["data"]
    with open_fake(tiny) as pipe:
        request = EditRequest(
            image_bytes(),
            edits=EDITS,
            seed=3,
            preset="paper",
            num_inference_steps=5,
            num_maps_per_mask=2,
            mask_thresholding_ratio=1.0,
        )
        expected = pipe.submit(request).result()
    assert (picture(found["b64_json"]) == np.asarray(expected.image)).all()
    assert (picture(found["mask"]) == np.asarray(expected.mask)).all()
    assert found["parameters"]["edits"] == EDITS
    assert [{key: part[key] for key in EDITS[0]} for part in found["edits"]] == EDITS
    for part, own in zip(found["edits"], expected.edits, strict=True):
        assert (picture(part["mask"]) == np.asarray(own.mask)).all()
        assert part["mask_share"] == round(float((np.asarray(own.mask) == 255).mean()), 6)
    assert any(part["mask_share"] for part in found["edits"])


def test_one_edit_has_no_list_of_edits(client: TestClient) -> None:
    form = {**OPTIONS, **EDITS[0]}
    answer = client.post(
        "/v1/images/edits", data=form, files={"image": ("a.png", image_bytes())}
    ).json()
    assert "edits" not in answer["data"][0]
    assert conforms(answer, EDIT)


def test_masks_of_several_edits(client: TestClient) -> None:
    answer = post(client, "masks")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert conforms(body, MASK)
    parts = [picture(part["mask"]) for part in body["edits"]]
    assert (np.maximum(*parts) == picture(body["mask"])).all()
    assert not np.minimum(*parts).any(), "the earlier edit has the cells"
    assert (body["threshold"], body["cleaning"]) == (0.5, "none")
    refused = client.post(f"/v1/masks/{body['mask_id']}", data={"threshold": "0.2"})
    assert refused.status_code == 400
    assert "several edits share it" in refused.json()["error"]["message"]
    kept = {**OPTIONS, "mask_id": body["mask_id"], "prompt": "a vase"}
    del kept["mask_thresholding_ratio"]
    reused = client.post(
        "/v1/images/edits", data=kept, files={"image": ("a.png", image_bytes())}
    ).json()
    assert (picture(reused["data"][0]["mask"]) == picture(body["mask"])).all()


def test_a_job_of_several_edits_and_its_stream(client: TestClient) -> None:
    job = post(client, "jobs").json()["id"]
    wait_until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded", "it ends")
    (facts,) = client.get(f"/v1/jobs/{job}").json()["data"]
    assert facts["parameters"]["edits"] == EDITS
    events = post(client, stream="true").text
    done = json.loads(events.partition("event: image_edit.completed\r\ndata: ")[2].split("\r\n")[0])
    assert [part["prompt"] for part in done["edits"]] == [edit["prompt"] for edit in EDITS]


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ("not JSON", "JSON list"),
        ("", "JSON list"),
        ("[" * 60000, "JSON list"),
        ("9" * 6000, "JSON list"),
        ("{}", "JSON list"),
        ("[]", "JSON list"),
        ('["a -> b"]', "object for each edit"),
        ([EDITS[0], {"source_prompt": "a", "prompt": ""}], "Edit 2: prompt is blank"),
        ([EDITS[0], {"source_prompt": "a", "prompt": "\u200b"}], "Edit 2: prompt is blank"),
        ([{"source_prompt": "a"}], "Edit 1: Edit: missing a required argument: 'prompt'"),
        ([{"prompt": 5}], "Edit 1: prompt is 5"),
        ([{"prompt": None}], "Edit 1: prompt is None"),
        ([{"prompt": "a", "strength": 1}], "There is no field of an edit 'strength'"),
        ([{"prompt": "a\0"}], "Edit 1: prompt is"),
        ([{"prompt": f"a {k}"} for k in range(17)], "at most 16"),
        ([{"prompt": "é" * 3000}], "prompt of edit 1 has more than 4096 bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_edits_are_refused_with_a_sentence(client: TestClient, edits: Any, words: str) -> None:
    code = "too_long" if "bytes" in words else "invalid_value"
    for path in ("images/edits", "masks"):
        answer = post(client, path, edits)
        assert words in error_message(answer, 400, code, "edits")


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prompt": "a"}, "invalid_value", "leave out prompt"),
        ({"source_prompt": "a"}, "invalid_value", "leave out source_prompt"),
        ({"focus": "true"}, "invalid_value", "leave out focus"),
        ({"method": "sdedit"}, "invalid_value", "one edit at a time"),
        ({"mask_id": "abc"}, "conflicting_fields", "edits and mask_id are given"),
        ({"mask": encoded(Image.new("L", (96, 72)))}, "conflicting_fields", "edits and mask are"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_edits_and_what_belongs_to_one_edit(
    client: TestClient, fields: dict[str, Any], code: str, words: str
) -> None:
    assert words in error_message(post(client, **fields), 400, code)


def test_the_official_client_sends_them_as_one_text(client: TestClient) -> None:
    openai = pytest.importorskip("openai")
    api = openai.OpenAI(
        api_key="-", base_url="http://localhost/v1", http_client=client, max_retries=0
    )
    image = ("a.png", image_bytes(), "image/png")
    extra = {**OPTIONS, "edits": json.dumps(EDITS)}
    answer = api.images.edit(image=image, prompt="", extra_body=extra)
    assert [part["prompt"] for part in answer.data[0].edits] == [e["prompt"] for e in EDITS]
    with pytest.raises(openai.BadRequestError, match="send one text"):
        api.images.edit(image=image, prompt="", extra_body={**OPTIONS, "edits": EDITS})


def test_a_repeated_key_with_other_edits_is_refused(client: TestClient) -> None:
    def send(edits: Any) -> Any:
        return client.post(
            "/v1/jobs",
            data={**OPTIONS, "edits": json.dumps(edits)},
            files={"image": ("a.png", image_bytes())},
            headers={"Idempotency-Key": "several"},
        )

    first = send(EDITS)
    assert send(EDITS).json()["id"] == first.json()["id"]
    assert send(EDITS[::-1]).status_code == 422
