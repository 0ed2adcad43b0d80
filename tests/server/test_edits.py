"""POST /v1/images/edits, /v1/masks and /v1/jobs: what goes in comes out right."""

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
from tests.server.kit import FAST, encoded, picture


def opened(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def edit(
    client: TestClient, image: bytes | None = None, mask: bytes | None = None, **data: Any
) -> Any:
    files = {"image": ("a.png", image or picture())}
    if mask is not None:
        files["mask"] = ("m.png", mask)
    return client.post("/v1/images/edits", files=files, data={**FAST, **data})


def test_an_edit_keeps_every_pixel_outside_its_mask(client: TestClient) -> None:
    answer = edit(client, picture(88, 72), seed="3")  # one that no other test has sent before
    assert answer.status_code == 200, answer.text
    (data,) = answer.json()["data"]
    before = np.asarray(still_life(88, 72))
    after, mask = np.asarray(opened(data["b64_json"])), np.asarray(opened(data["mask"]))
    assert after.shape == before.shape
    assert set(np.unique(mask)) == {0, 255}
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask > 0] != before[mask > 0]).any()
    assert data["max_abs_diff_outside_mask"] == 0
    assert data["seed"] == 3
    assert data["rows"]["unet"] == 2 * 2 + 4 + 2 * 4
    assert {"mask", "encode", "decode", "total", "queue"} <= set(data["timings"])
    assert "queue;dur=" in answer.headers["server-timing"]


def test_the_result_is_the_python_apis(client: TestClient, tiny: Any) -> None:
    """The server adds nothing: the same picture as the pipeline gives."""
    from demo.fake_server import open_fake

    data = edit(client, seed="7", strength="0.6").json()["data"][0]
    with open_fake(tiny) as pipe:
        alone = pipe(
            still_life(96, 72), FAST["prompt"], FAST["source_prompt"], seed=7, strength=0.6,
            num_inference_steps=5, num_maps_per_mask=2,
        )  # fmt: skip
    assert opened(data["b64_json"]).tobytes() == alone.image.tobytes()
    assert opened(data["mask"]).tobytes() == alone.mask.tobytes()


def test_n_edits_have_consecutive_seeds(client: TestClient) -> None:
    several = edit(client, n="3", seed="5", method="sdedit").json()["data"]
    alone = edit(client, seed="6", method="sdedit").json()["data"][0]
    assert [d["seed"] for d in several] == [5, 6, 7]
    assert several[1]["b64_json"] == alone["b64_json"]
    assert several[0]["b64_json"] != several[1]["b64_json"]


def half(size: tuple[int, int], kind: str) -> bytes:
    """A mask that edits the left half, in each convention."""
    width, height = size
    left = np.zeros((height, width), np.uint8)
    left[:, : width // 2] = 255
    if kind == "white":
        return encoded(Image.fromarray(left))
    if kind == "black":
        return encoded(Image.fromarray(255 - left))
    rgba = Image.new("RGBA", size, (9, 9, 9, 255))
    rgba.putalpha(Image.fromarray(255 - left))
    return encoded(rgba)


@pytest.mark.parametrize(
    ("kind", "given", "read_as"),
    [
        ("white", None, "white"),
        ("alpha", None, "alpha"),
        ("alpha", "alpha", "alpha"),
        ("black", "black", "black"),
        ("white", "white", "white"),
    ],
)
def test_a_mask_is_obeyed_to_the_pixel(
    client: TestClient, kind: str, given: str | None, read_as: str
) -> None:
    how: dict[str, Any] = {"mask_format": given} if given else {}
    answer = edit(client, mask=half((96, 72), kind), **how)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"][0]
    assert data["mask_read_as"] == read_as
    mask = np.asarray(opened(data["mask"])) > 0
    assert mask[:, :48].all()
    assert not mask[:, 48:].any()
    before, after = np.asarray(still_life(96, 72)), np.asarray(opened(data["b64_json"]))
    assert (before[:, 48:] == after[:, 48:]).all()
    assert data["max_abs_diff_outside_mask"] == 0
    assert data["mask_share"] == 0.5


@pytest.mark.parametrize(("form", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_output_formats_say_how_they_were_made(client: TestClient, form: str, kind: str) -> None:
    data = edit(client, output_format=form, output_compression="80").json()["data"][0]
    raw = base64.b64decode(data["b64_json"])
    with Image.open(io.BytesIO(raw)) as image:
        assert image.format == kind
        assert image.size == (96, 72)
    assert b"compositeWithTrainedAlgorithmicMedia" in raw


def test_metadata_of_the_input_is_dropped_and_orientation_applied(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "SECRETMAKER"
    data = edit(client, encoded(still_life(96, 72), "JPEG", exif=exif)).json()["data"][0]
    raw = base64.b64decode(data["b64_json"])
    assert b"SECRETMAKER" not in raw
    assert Image.open(io.BytesIO(raw)).size == (72, 96)


def test_the_second_edit_of_a_picture_skips_its_encoding(client: TestClient) -> None:
    image = picture(104, 72)
    first = edit(client, image, prompt="a green ball").json()["data"][0]
    second = edit(client, image, prompt="a white ball").json()["data"][0]
    assert first["rows"]["unet"] - second["rows"]["unet"] == 4
    assert "vae_encode" not in second["rows"]


def test_a_mask_alone(client: TestClient) -> None:
    form = {k: v for k, v in FAST.items() if k != "strength"}
    answer = client.post("/v1/masks", files={"image": ("a.png", picture())}, data=form)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    levels = np.asarray(opened(told["heatmap"]))
    assert levels.shape == tuple(reversed(told["cells"]))
    whole = edit(client).json()["data"][0]
    assert told["mask"] == whole["mask"]
    assert told["rows"] == {"unet": 4} or told["rows"]["unet"] == 4
    assert told["threshold"] == 0.5
    share = (levels > 127).mean()
    assert abs(share - told["mask_share"]) < 0.1


def events_of(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a stream."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_streaming_gives_openais_events(client: TestClient) -> None:
    answer = edit(client, stream="true", partial_images="2", strength="1")
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [e for e, _ in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [d["partial_image_index"] for _, d in events[:2]] == [0, 1]
    for name, data in events:
        assert data["type"] == name
        width, height = opened(data["b64_json"]).size
        assert abs(width / height - 96 / 72) < 0.05
    whole = edit(client, strength="1").json()["data"][0]
    assert events[-1][1]["b64_json"] == whole["b64_json"]


def test_previews_come_near_the_result(client: TestClient) -> None:
    """The linear map of latents is fitted on the VAE: the last preview looks like the result."""
    plain = Image.new("RGB", (96, 72), (40, 120, 200))
    events = events_of(
        edit(client, encoded(plain), stream="true", partial_images="3", strength="0.8").text
    )
    *_, (_, late), (_, last) = events
    seen = opened(late["b64_json"]).resize((96, 72))
    apart = np.abs(np.asarray(seen, np.int16) - np.asarray(opened(last["b64_json"])))
    assert np.median(apart) < 12


def test_a_job_from_its_id_to_its_pictures(client: TestClient) -> None:
    files = {"image": ("a.png", picture())}
    accepted = client.post("/v1/jobs", files=files, data={**FAST, "partial_images": "1"})
    assert accepted.status_code == 202
    job = accepted.json()["id"]
    assert accepted.headers["location"] == f"/v1/jobs/{job}"
    events = events_of(client.get(f"/v1/jobs/{job}/events").text)
    names = [name for name, _ in events]
    assert names[-1] == "done"
    assert {"state", "progress", "preview"} <= set(names)
    shares = [d["progress"] for name, d in events if name == "progress"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    state = client.get(f"/v1/jobs/{job}").json()
    assert state["state"] == "succeeded"
    assert state["data"][0]["max_abs_diff_outside_mask"] == 0
    image = client.get(f"/v1/jobs/{job}/image")
    assert image.headers["content-type"] == "image/png"
    whole = edit(client).json()["data"][0]
    assert image.content == base64.b64decode(whole["b64_json"])
    assert client.get(f"/v1/jobs/{job}/mask").content == base64.b64decode(whole["mask"])
    assert client.get(f"/v1/jobs/{job}/image?index=1").status_code == 404


def test_events_resume_after_the_last_one_seen(client: TestClient) -> None:
    job = client.post("/v1/jobs", files={"image": ("a.png", picture())}, data=FAST).json()["id"]
    whole = client.get(f"/v1/jobs/{job}/events").text
    ids = [line[4:] for line in whole.splitlines() if line.startswith("id: ")]
    rest = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": ids[-2]}).text
    assert [line[4:] for line in rest.splitlines() if line.startswith("id: ")] == ids[-1:]


def test_an_idempotency_key_makes_repeating_safe(client: TestClient) -> None:
    def post(prompt: str) -> Any:
        return client.post(
            "/v1/jobs",
            files={"image": ("a.png", picture())},
            data={**FAST, "prompt": prompt},
            headers={"Idempotency-Key": "once"},
        )

    first, again, other = post("a ball"), post("a ball"), post("a cube")
    assert first.json()["id"] == again.json()["id"]
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert other.headers["x-should-retry"] == "false"


def test_results_are_forgotten_after_their_time(make_client: Callable[..., TestClient]) -> None:
    client = make_client(result_seconds=0.0)
    job = client.post("/v1/jobs", files={"image": ("a.png", picture())}, data=FAST).json()["id"]
    for _ in range(200):
        if client.get(f"/v1/jobs/{job}").status_code == 404:
            return
    raise AssertionError("still there")


def test_the_openai_client_works_unmodified(client: TestClient) -> None:
    openai = pytest.importorskip("openai")
    api = openai.OpenAI(
        api_key="-", base_url="http://localhost/v1", http_client=client, max_retries=0
    )
    mask = half((96, 72), "alpha")
    answer = api.images.edit(image=picture(), mask=mask, prompt="a red ball", model="tiny")
    after = np.asarray(opened(answer.data[0].b64_json))
    before = np.asarray(still_life(96, 72))
    assert (after[:, 48:] == before[:, 48:]).all()
    assert (after[:, :48] != before[:, :48]).any()
    assert answer.data[0].max_abs_diff_outside_mask == 0
    stream = api.images.edit(
        image=[picture()], prompt="a red ball", model="tiny", stream=True, partial_images=2
    )
    kinds = [event.type for event in stream]
    assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
