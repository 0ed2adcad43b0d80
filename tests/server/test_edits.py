"""POST /v1/images/edits, /v1/masks and /v1/jobs: correct results for valid requests."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from demo.picture import still_life
from tests.server.helpers import FAST, encoded, image_bytes, wait_until


def decoded(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def edit(
    client: TestClient, image: bytes | None = None, mask: bytes | None = None, **data: Any
) -> Any:
    files = {"image": ("a.png", image or image_bytes())}
    if mask is not None:
        files["mask"] = ("m.png", mask)
    return client.post("/v1/images/edits", files=files, data={**FAST, **data})


def test_edit_keeps_every_pixel_outside_the_mask(client: TestClient) -> None:
    response = edit(client, image_bytes(88, 72), seed="3")  # an image that is not cached
    assert response.status_code == 200, response.text
    (data,) = response.json()["data"]
    before = np.asarray(still_life(88, 72))
    after, mask = np.asarray(decoded(data["b64_json"])), np.asarray(decoded(data["mask"]))
    assert after.shape == before.shape
    assert set(np.unique(mask)) == {0, 255}
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask > 0] != before[mask > 0]).any()
    assert data["max_abs_diff_outside_mask"] == 0
    assert data["seed"] == 3
    assert data["rows"]["unet"] == 2 * 2 + 4 + 2 * 4
    assert {"mask", "encode", "decode", "total", "queue"} <= set(data["timings"])
    assert "queue;dur=" in response.headers["server-timing"]


def test_result_equals_the_python_api(client: TestClient, tiny: Any) -> None:
    from demo.fake_server import open_fake

    data = edit(client, seed="7", strength="0.6").json()["data"][0]
    with open_fake(tiny) as pipe:
        alone = pipe(
            still_life(96, 72), FAST["prompt"], FAST["source_prompt"], seed=7, strength=0.6,
            preset="paper", num_inference_steps=5, num_maps_per_mask=2,
        )  # fmt: skip
    assert decoded(data["b64_json"]).tobytes() == alone.image.tobytes()
    assert decoded(data["mask"]).tobytes() == alone.mask.tobytes()


def test_n_edits_have_consecutive_seeds(client: TestClient) -> None:
    several = edit(client, n="3", seed="5", method="sdedit").json()["data"]
    alone = edit(client, seed="6", method="sdedit").json()["data"][0]
    assert [d["seed"] for d in several] == [5, 6, 7]
    assert several[1]["b64_json"] == alone["b64_json"]
    assert several[0]["b64_json"] != several[1]["b64_json"]


def left_half_mask(size: tuple[int, int], convention: str) -> bytes:
    """A mask that edits the left half of an image."""
    width, height = size
    left = np.zeros((height, width), np.uint8)
    left[:, : width // 2] = 255
    if convention == "white":
        return encoded(Image.fromarray(left))
    if convention == "black":
        return encoded(Image.fromarray(255 - left))
    if convention == "opaque":  # as canvas.toBlob and many editors write white on black
        return encoded(Image.fromarray(left).convert("RGBA"))
    if convention == "zero and one":
        return encoded(Image.fromarray(left // 255))
    rgba = Image.new("RGBA", size, (9, 9, 9, 255))
    rgba.putalpha(Image.fromarray(255 - left))
    return encoded(rgba)


@pytest.mark.parametrize(
    ("convention", "mask_format", "read_as"),
    [
        ("white", None, "white"),
        ("opaque", None, "white"),
        ("zero and one", None, "white"),
        ("alpha", None, "alpha"),
        ("alpha", "alpha", "alpha"),
        ("black", "black", "black"),
        ("white", "white", "white"),
    ],
)
def test_edit_changes_only_pixels_inside_the_uploaded_mask(
    client: TestClient, convention: str, mask_format: str | None, read_as: str
) -> None:
    options: dict[str, Any] = {"mask_format": mask_format} if mask_format else {}
    response = edit(client, mask=left_half_mask((96, 72), convention), **options)
    assert response.status_code == 200, response.text
    data = response.json()["data"][0]
    assert data["mask_read_as"] == read_as
    mask = np.asarray(decoded(data["mask"])) > 0
    assert mask[:, :48].all()
    assert not mask[:, 48:].any()
    before, after = np.asarray(still_life(96, 72)), np.asarray(decoded(data["b64_json"]))
    assert (before[:, 48:] == after[:, 48:]).all()
    assert data["max_abs_diff_outside_mask"] == 0
    assert data["mask_share"] == 0.5


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_results_contain_provenance_metadata(client: TestClient, output_format: str) -> None:
    data = edit(client, output_format=output_format, output_compression="80").json()["data"][0]
    raw = base64.b64decode(data["b64_json"])
    with Image.open(io.BytesIO(raw)) as image:
        assert image.format == output_format.upper()
        assert image.size == (96, 72)
    assert b"compositeWithTrainedAlgorithmicMedia" in raw


def test_input_metadata_is_dropped_and_orientation_applied(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    exif[0x010F] = "SECRETMAKER"
    data = edit(client, encoded(still_life(96, 72), "JPEG", exif=exif)).json()["data"][0]
    raw = base64.b64decode(data["b64_json"])
    assert b"SECRETMAKER" not in raw
    assert Image.open(io.BytesIO(raw)).size == (72, 96)


def test_second_edit_of_an_image_skips_its_encoding(client: TestClient) -> None:
    image = image_bytes(104, 72)
    first = edit(client, image, prompt="a green ball").json()["data"][0]
    second = edit(client, image, prompt="a white ball").json()["data"][0]
    assert first["rows"]["unet"] - second["rows"]["unet"] == 4
    assert "vae_encode" not in second["rows"]


def test_mask_endpoint(client: TestClient) -> None:
    form = {k: v for k, v in FAST.items() if k != "strength"}
    response = client.post("/v1/masks", files={"image": ("a.png", image_bytes())}, data=form)
    assert response.status_code == 200, response.text
    body = response.json()
    levels = np.asarray(decoded(body["heatmap"]))
    assert levels.shape == tuple(reversed(body["cells"]))
    assert body["mask"] == edit(client).json()["data"][0]["mask"]
    assert body["rows"]["unet"] == 4
    assert body["threshold"] == 0.5
    assert abs((levels > 127).mean() - body["mask_share"]) < 0.1


def events_of(text: str) -> list[tuple[str, Any]]:
    """Return the (name, data) pairs of an event stream."""
    events = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events


def test_stream_has_openais_events(client: TestClient) -> None:
    response = edit(client, stream="true", partial_images="2", strength="1")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    assert [e for e, _ in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [d["partial_image_index"] for _, d in events[:2]] == [0, 1]
    for name, data in events:
        assert data["type"] == name
        width, height = decoded(data["b64_json"]).size
        assert abs(width / height - 96 / 72) < 0.05
    unstreamed = edit(client, strength="1").json()["data"][0]
    assert events[-1][1]["b64_json"] == unstreamed["b64_json"]


def test_last_preview_is_close_to_the_result(client: TestClient) -> None:
    one_colour = Image.new("RGB", (96, 72), (40, 120, 200))
    events = events_of(
        edit(client, encoded(one_colour), stream="true", partial_images="3", strength="0.8").text
    )
    *_, (_, last_preview), (_, result) = events
    preview = decoded(last_preview["b64_json"]).resize((96, 72))
    difference = np.abs(np.asarray(preview, np.int16) - np.asarray(decoded(result["b64_json"])))
    assert np.median(difference) < 12


def test_job_reports_progress_and_returns_its_images(client: TestClient) -> None:
    files = {"image": ("a.png", image_bytes())}
    accepted = client.post("/v1/jobs", files=files, data={**FAST, "partial_images": "1"})
    assert accepted.status_code == 202
    job = accepted.json()["id"]
    assert accepted.headers["location"] == f"/v1/jobs/{job}"
    events = events_of(client.get(f"/v1/jobs/{job}/events").text)
    names = [name for name, _ in events]
    assert names[-1] == "done"
    assert {"state", "progress", "preview"} <= set(names)
    progress = [data["progress"] for name, data in events if name == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    state = client.get(f"/v1/jobs/{job}").json()
    assert state["state"] == "succeeded"
    assert state["data"][0]["max_abs_diff_outside_mask"] == 0
    image = client.get(f"/v1/jobs/{job}/image")
    assert image.headers["content-type"] == "image/png"
    synchronous = edit(client).json()["data"][0]
    assert image.content == base64.b64decode(synchronous["b64_json"])
    mask = Image.open(io.BytesIO(client.get(f"/v1/jobs/{job}/mask").content))
    assert mask.tobytes() == decoded(synchronous["mask"]).tobytes()
    assert client.get(f"/v1/jobs/{job}/image?index=1").status_code == 404


def test_events_resume_after_last_event_id(client: TestClient) -> None:
    job = client.post("/v1/jobs", files={"image": ("a.png", image_bytes())}, data=FAST).json()["id"]
    stream = client.get(f"/v1/jobs/{job}/events").text
    ids = [line[4:] for line in stream.splitlines() if line.startswith("id: ")]
    rest = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": ids[-2]}).text
    assert [line[4:] for line in rest.splitlines() if line.startswith("id: ")] == ids[-1:]


def test_idempotency_key_returns_the_first_job(client: TestClient) -> None:
    def submit(prompt: str) -> Any:
        return client.post(
            "/v1/jobs",
            files={"image": ("a.png", image_bytes())},
            data={**FAST, "prompt": prompt},
            headers={"Idempotency-Key": "once"},
        )

    first, again, other = submit("a ball"), submit("a ball"), submit("a cube")
    assert first.json()["id"] == again.json()["id"]
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert other.headers["x-should-retry"] == "false"


def test_results_expire(make_client: Callable[..., TestClient]) -> None:
    client = make_client(result_seconds=0.0)
    job = client.post("/v1/jobs", files={"image": ("a.png", image_bytes())}, data=FAST).json()["id"]
    wait_until(lambda: client.get(f"/v1/jobs/{job}").status_code == 404, "the job has expired")


def test_openai_client_works_unmodified(client: TestClient) -> None:
    openai = pytest.importorskip("openai")
    api = openai.OpenAI(
        api_key="-", base_url="http://localhost/v1", http_client=client, max_retries=0
    )
    mask = left_half_mask((96, 72), "alpha")
    response = api.images.edit(image=image_bytes(), mask=mask, prompt="a red ball", model="tiny")
    after = np.asarray(decoded(response.data[0].b64_json))
    before = np.asarray(still_life(96, 72))
    assert (after[:, 48:] == before[:, 48:]).all()
    assert (after[:, :48] != before[:, :48]).any()
    assert response.data[0].max_abs_diff_outside_mask == 0
    stream = api.images.edit(
        image=[image_bytes()], prompt="a red ball", model="tiny", stream=True, partial_images=2
    )
    types = [event.type for event in stream]
    assert types == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
