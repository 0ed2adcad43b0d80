"""OpenAI's client and its usual values: each is accepted and answered with what was done."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.server.helpers import FAST, image_bytes

openai = pytest.importorskip("openai")
EXTRA = {name: value for name, value in FAST.items() if name != "prompt"}


@pytest.fixture(scope="module")
def served(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(served_model_names=("gpt-image-1", "org/edits"))


@pytest.fixture(scope="module")
def api(served: TestClient) -> Any:
    return openai.OpenAI(
        api_key="-", base_url="http://localhost/v1", http_client=served, max_retries=0
    )


def edit(api: Any, **fields: Any) -> Any:
    image = ("a.png", image_bytes(), "image/png")
    fields = {"image": image, "prompt": FAST["prompt"], "extra_body": EXTRA, **fields}
    return api.images.edit(**fields)


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"quality": "auto"}, None),
        ({"quality": "low"}, "quality=low was ignored"),
        ({"quality": "medium"}, "quality=medium was ignored"),
        ({"quality": "high"}, "quality=high was ignored"),
        ({"quality": "xhigh"}, "quality=xhigh was ignored"),
        ({"quality": "max"}, "quality=max was ignored"),
        ({"quality": "standard"}, "quality=standard was ignored"),
        ({"complexity": "low"}, "complexity=low was ignored"),
        ({"background": "auto"}, None),
        ({"background": "opaque"}, None),
        ({"input_fidelity": "high"}, "input_fidelity=high was ignored"),
        ({"input_fidelity": "low"}, "input_fidelity=low was ignored"),
        ({"size": "auto"}, None),
        ({"size": "96x72"}, None),
        ({"size": "1024x1024"}, "size=1024x1024 was ignored"),
        ({"size": "1536x1024"}, "size=1536x1024 was ignored"),
        ({"size": "1024x1536"}, "size=1024x1536 was ignored"),
        ({"size": "256x256"}, "size=256x256 was ignored"),
        ({"n": 1}, None),
        ({"response_format": "b64_json"}, None),
        ({"output_format": "jpeg", "output_compression": 80}, None),
        ({"output_format": "webp", "output_compression": 0}, None),
        ({"user": "someone"}, None),
        ({"safety_identifier": "someone"}, None),
        ({"model": "tiny"}, None),
        ({"model": "gpt-image-1"}, None),
        ({"model": "org/edits"}, None),
        ({"stream": False}, None),
        ({"extra_body": {**EXTRA, "moderation": "auto"}}, None),
        ({"extra_body": {**EXTRA, "moderation": "low"}}, "moderation was ignored"),
        ({"image": [("a.png", image_bytes(), "image/png")]}, None),
    ],
    ids=str,
)
def test_usual_values_are_accepted(api: Any, fields: dict[str, Any], warning: str | None) -> None:
    response = edit(api, **fields)
    (data,) = response.data
    assert (response.size, response.background, response.quality) == ("96x72", "opaque", "auto")
    with Image.open(io.BytesIO(base64.b64decode(data.b64_json))) as image:
        assert image.size == (96, 72)
    assert (warning is None) == (data.warnings == [])
    assert len(data.warning_codes) == len(data.warnings)
    assert {*data.warning_codes} <= {"field_ignored", "size_ignored"}
    assert warning is None or warning in data.warnings[0]


def test_streams_say_what_was_done(api: Any) -> None:
    events = list(edit(api, stream=True, partial_images=1, size="1024x1024", quality="high"))
    assert [event.type for event in events] == [
        "image_edit.partial_image",
        "image_edit.completed",
    ]
    done = events[-1]
    assert (done.size, done.background, done.quality) == ("96x72", "opaque", "auto")
    assert len(done.warnings) == 2
    assert done.warning_codes == ["field_ignored", "size_ignored"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"image": [("a.png", image_bytes())] * 2}, "image[]", "a second image"),
        ({"background": "transparent"}, "background", "makes nothing transparent"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "gif"}, "output_format", "png or jpeg or webp"),
        ({"quality": "best"}, "quality", "auto or low"),
        ({"size": "0x0"}, "size", "WIDTHxHEIGHT"),
        ({"size": "1024"}, "size", "WIDTHxHEIGHT"),
        ({"n": 0}, "n", "1 to 10"),
        ({"frame_count": 4}, "frame_count", "animated GIFs"),
        ({"frame_duration_ms": 100}, "frame_duration_ms", "animated GIFs"),
        ({"markup": ("m.png", image_bytes())}, "markup", "use mask"),
        ({"svg": {"model": "a"}}, "svg[model]", "SVG files"),
        ({"svg": {"reasoning": {"effort": "low"}}}, "svg[reasoning][effort]", "SVG files"),
        ({"output_format": "svg"}, "output_format", "png or jpeg or webp"),
        ({"prompt": "a" * 32000}, "prompt", "shorten it"),
        ({"extra_body": {**EXTRA, "moderation": "high"}}, "moderation", "auto or low"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_once(
    api: Any, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as info:
        edit(api, **fields)
    assert info.value.param == param
    assert words in info.value.message


def test_models_are_listed_and_found_under_every_name(api: Any) -> None:
    names = [model.id for model in api.models.list()]
    assert names == ["tiny", "gpt-image-1", "org/edits"]
    for name in names:
        model = api.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
    for name in ("gpt-4", "org", "org/edits/x"):
        with pytest.raises(openai.NotFoundError) as info:
            api.models.retrieve(name)
        assert "'tiny', 'gpt-image-1', 'org/edits'" in info.value.message
    with pytest.raises(openai.NotFoundError) as info:
        edit(api, model="dall-e-2")
    assert info.value.param == "model"


@pytest.mark.parametrize(
    ("name", "image"),
    [("image[]", b""), ("image[]", b"text"), ("image[]", image_bytes()[:900]), ("image", b"")],
)
def test_errors_name_the_field_as_it_was_sent(served: TestClient, name: str, image: bytes) -> None:
    response = served.post("/v1/images/edits", files={name: ("a.png", image)}, data=FAST)
    assert response.status_code in (400, 415)
    assert response.json()["error"]["param"] == name


def test_mask_format_without_a_mask_gives_a_warning(served: TestClient) -> None:
    files = {"image": ("a.png", image_bytes())}
    response = served.post("/v1/images/edits", files=files, data={**FAST, "mask_format": "black"})
    (edit,) = response.json()["data"]
    assert any("mask_format was ignored" in warning for warning in edit["warnings"])
