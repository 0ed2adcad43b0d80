"""Every documented parameter of `images.edit` of OpenAI's client, against a running server.

The list is read from the installed client, so that a parameter of a newer one is found.
"""

from __future__ import annotations

import base64
import io
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.picture import still_life
from tests.server.helpers import FAST, ROOT, encoded, run_server

openai = pytest.importorskip("openai")
from openai.types.image_edit_params import (  # noqa: E402
    ImageEditParamsNonStreaming,
    ImageEditParamsStreaming,
)

EXTRA = {name: value for name, value in FAST.items() if name != "prompt"}
PHOTO = still_life(96, 72)
FILE = ("photo.png", encoded(PHOTO), "image/png")


@dataclass(frozen=True)
class Outcome:
    """What the server does with a value: it is honored, ignored with a warning, or refused.

    Attributes:
        value: of the parameter.
        warning: begin of the warning, or None.
        refused: words of the error, or None.
        more: other parameters of the request.
    """

    value: Any
    warning: str | None = None
    refused: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


def hole() -> bytes:
    mask = PHOTO.convert("RGBA")
    mask.paste((0, 0, 0, 0), (16, 16, 56, 56))
    return encoded(mask)


def ignored(name: str, *values: str) -> list[Outcome]:
    return [Outcome(value, warning=f"{name}={value} was ignored") for value in values]


STREAM = {"stream": True}
OUTCOMES: dict[str, list[Outcome]] = {
    "image": [Outcome(FILE), Outcome([FILE]), Outcome([FILE, FILE], refused="an edit takes one")],
    "prompt": [Outcome("a green ball"), Outcome("a" * 32000, refused="shorten it")],
    "background": [
        *(Outcome(value) for value in ("auto", "opaque")),
        Outcome("transparent", refused="makes nothing transparent"),
    ],
    "complexity": ignored("complexity", "low", "medium", "high"),
    "frame_count": [Outcome(9, refused="animated GIFs")],
    "frame_duration_ms": [Outcome(200, refused="animated GIFs")],
    "input_fidelity": ignored("input_fidelity", "low", "high"),
    "markup": [Outcome(FILE, refused="use mask")],
    "mask": [Outcome(("mask.png", hole(), "image/png"))],
    "model": [Outcome("gpt-image-2"), Outcome("dall-e-3", refused="leave model out")],
    "n": [Outcome(2), Outcome(11, refused="from 1 to 10")],
    "output_compression": [Outcome(70, more={"output_format": "jpeg"})],
    "output_format": [
        *(Outcome(value) for value in ("png", "jpeg", "webp")),
        *(Outcome(value, refused="png or jpeg or webp") for value in ("gif", "svg")),
    ],
    "partial_images": [Outcome(2, more=STREAM), Outcome(4, refused="0 to 3")],
    "quality": [
        Outcome("auto"),
        *ignored("quality", "low", "medium", "high", "xhigh", "max", "standard"),
    ],
    "response_format": [Outcome("b64_json"), Outcome("url", refused="not stored at URLs")],
    "safety_identifier": [Outcome("someone")],
    "size": [
        *(Outcome(value) for value in ("auto", "96x72")),
        *ignored("size", "1024x1024", "1536x1024", "1024x1536", "256x256", "512x512", "1536x864"),
    ],
    "stream": [Outcome(False), Outcome(True)],
    "svg": [Outcome({"model": "any"}, refused="SVG files")],
    "user": [Outcome("someone")],
}


def documented() -> set[str]:
    """The parameters that the installed client documents."""
    kinds = (ImageEditParamsNonStreaming, ImageEditParamsStreaming)
    return {name for kind in kinds for name in typing.get_type_hints(kind)}


def test_every_documented_parameter_is_tried_and_described() -> None:
    text = (ROOT / "docs" / "server.md").read_text()
    table = text.partition("## OpenAI's parameters")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in re.findall(r"^\|.*", table, re.M)]
    assert documented() == set(OUTCOMES) == {name for names in rows for name in names}


def literals(hint: Any) -> set[Any]:
    """The values that a type names."""
    if typing.get_origin(hint) is typing.Literal:
        return {value for value in typing.get_args(hint) if value is not None}
    return {value for part in typing.get_args(hint) for value in literals(part)}


def test_every_documented_value_is_tried() -> None:
    for kind in (ImageEditParamsNonStreaming, ImageEditParamsStreaming):
        for name, hint in typing.get_type_hints(kind).items():
            tried = [outcome.value for outcome in OUTCOMES[name]]
            missing = [value for value in literals(hint) if value not in tried]
            assert name == "model" or not missing, f"{name}: {missing}"  # models: those of OpenAI


@pytest.fixture(scope="module")
def api(tiny: Path) -> Iterator[Any]:
    names = {"DIFFEDIT_SERVE_SERVED_MODEL_NAMES": '["gpt-image-2"]'}
    with run_server(tiny, "--call-ms", "0", **names) as server:
        address = f"{server.url}/v1"
        with openai.OpenAI(base_url=address, api_key="-", max_retries=0) as client:
            yield client


CASES = [(name, outcome) for name, outcomes in OUTCOMES.items() for outcome in outcomes]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outcome"), CASES, ids=[f"{name}-{k}" for k, (name, _) in enumerate(CASES)]
)
def test_client_gets_what_the_table_says(api: Any, name: str, outcome: Outcome) -> None:
    form = {"image": FILE, "prompt": FAST["prompt"], "extra_body": EXTRA, **outcome.more}
    form[name] = outcome.value
    if outcome.refused is not None:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as info:
            api.images.edit(**form)
        assert outcome.refused in info.value.message
        assert str(info.value.param).partition("[")[0] == name
        return
    results = data_of(api.images.edit(**form), bool(form.get("stream")))
    for one in results:
        assert (one.warnings == []) == (outcome.warning is None), one.warnings
        assert outcome.warning is None or one.warnings[0].startswith(outcome.warning)
        with Image.open(io.BytesIO(base64.b64decode(one.b64_json))) as picture:
            assert picture.size == PHOTO.size
            assert picture.format == form.get("output_format", "png").upper()
    assert len(results) == form.get("n", 1)
    if name == "mask":
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(results[0].mask))))
        assert mask[16:56, 16:56].all()
        assert mask.sum() == 255 * 40 * 40


def data_of(answer: Any, streamed: bool) -> list[Any]:
    """The finished edits of a response or a stream."""
    if not streamed:
        return list(answer.data)
    events = list(answer)
    assert [event.type for event in events[:-1]] == ["image_edit.partial_image"] * (len(events) - 1)
    assert events[-1].type == "image_edit.completed"
    return events[-1:]
