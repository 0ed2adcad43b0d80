"""POST /v1/masks/{id}: other masks from one heatmap without a network call, and edits with them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from demo.picture import still_life
from diffedit.request import CLEANINGS
from diffedit.server import jobs
from tests.server.helpers import encoded, image_bytes
from tests.server.test_chains import EDITS, MASKS, code_and_param, edited, pixels, post

IMAGE = image_bytes(96, 64)


@pytest.fixture(scope="module")
def found(client: TestClient) -> dict[str, Any]:
    response = post(client, MASKS, IMAGE)
    assert response.status_code == 200, response.text
    return dict(response.json())


def refine(client: TestClient, mask_id: str, **fields: str) -> Any:
    return client.post(f"{MASKS}/{mask_id}", data=fields or {"invert": "false"})


def refined(client: TestClient, mask_id: str, **fields: str) -> dict[str, Any]:
    response = refine(client, mask_id, **fields)
    assert response.status_code == 200, response.text
    return dict(response.json())


def cells(b64: str) -> NDArray[np.bool_]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64)))) > 0


def calls(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith("diffedit_network_calls_total"))


def test_no_option_gives_the_same_mask_and_no_network_runs(
    client: TestClient, found: dict[str, Any]
) -> None:
    before = calls(client)
    same = refined(client, found["mask_id"])
    assert same["mask"] == found["mask"]
    assert same["mask_share"] == found["mask_share"]
    assert same["refined_from"] == found["mask_id"]
    refined(client, found["mask_id"], threshold="0.2", grow="2", cleaning="clean")
    assert calls(client) == before


def test_threshold_grow_and_invert(client: TestClient, found: dict[str, Any]) -> None:
    mask_id, whole = found["mask_id"], cells(found["mask"])
    low = cells(refined(client, mask_id, threshold="0.2")["mask"])
    grown = cells(refined(client, mask_id, grow="1")["mask"])
    inverse = cells(refined(client, mask_id, invert="true")["mask"])
    assert (low | whole == low).all()
    assert low.sum() > whole.sum()
    assert (grown | whole == grown).all()
    assert grown.sum() > whole.sum()
    assert (inverse == ~whole).all()


def test_growing_is_the_dilation_of_a_found_mask(client: TestClient, found: dict[str, Any]) -> None:
    dilated = post(client, MASKS, IMAGE, mask_dilation="1").json()
    assert refined(client, found["mask_id"], grow="1")["mask"] == dilated["mask"]
    same = refined(client, dilated["mask_id"])
    assert (same["mask"], same["grow"]) == (dilated["mask"], 1)
    assert refined(client, dilated["mask_id"], grow="0")["mask"] == found["mask"]


@pytest.mark.parametrize("cleaning", CLEANINGS)
def test_refining_is_the_rule_of_the_search(
    client: TestClient, found: dict[str, Any], cleaning: str
) -> None:
    searched = post(client, MASKS, IMAGE, mask_cleaning=cleaning).json()
    assert refined(client, found["mask_id"], cleaning=cleaning)["mask"] == searched["mask"]
    same = refined(client, searched["mask_id"])
    assert (same["mask"], same["cleaning"]) == (searched["mask"], cleaning)
    assert refined(client, searched["mask_id"], cleaning="none")["mask"] == found["mask"]


@pytest.mark.parametrize("cleaning", ["none", "clean", "edges"])
def test_refined_mask_equals_the_mask_that_is_found_with_these_options(
    client: TestClient, found: dict[str, Any], cleaning: str
) -> None:
    options = {"mask_threshold": "0.3", "mask_cleaning": cleaning, "mask_feather": "0.05"}
    whole = post(client, MASKS, IMAGE, **options).json()
    fields = {"threshold": "0.3", "cleaning": cleaning, "feather": "0.05"}
    again = refined(client, found["mask_id"], **fields)
    assert again["mask"] == whole["mask"]
    assert again["blend_mask"] == whole["blend_mask"] != whole["mask"]
    names = ("threshold", "grow", "blur", "cleaning", "invert", "feather", "mask_share")
    assert [again[name] for name in names] == [whole[name] for name in names]


@pytest.mark.slow
def test_border_of_a_large_photograph_is_drawn_on_a_reduced_one(client: TestClient) -> None:
    """It stays inside the mask, and close to the border of the edit."""
    large = encoded(still_life(1600, 1200))
    found = post(client, MASKS, large, preset="balanced").json()
    same = refined(client, found["mask_id"])
    assert same["mask"] == found["mask"]
    exact, drawn = (pixels(one["blend_mask"]).astype(int) for one in (found, same))
    assert drawn.shape == exact.shape == (1200, 1600)
    assert (drawn[pixels(same["mask"]) == 0] == 0).all()
    assert abs(drawn - exact).mean() < 4


@pytest.mark.parametrize("preset", ["paper", "balanced"])
def test_edit_with_a_found_mask_equals_the_edit_that_finds_it(
    client: TestClient, preset: str
) -> None:
    fields = {"preset": preset, "mask_feather": "0.03"}
    direct = edited(client, IMAGE, **fields)
    whole = post(client, MASKS, IMAGE, **fields).json()
    assert direct["blend_mask"] == whole["blend_mask"] != whole["mask"]
    kept = edited(client, IMAGE, preset=preset, mask_id=whole["mask_id"])
    for name in ("mask", "blend_mask", "b64_json"):
        assert kept[name] == direct[name], name
    other = edited(client, IMAGE, preset=preset, mask_id=whole["mask_id"], mask_feather="0.2")
    assert other["blend_mask"] != direct["blend_mask"]


def test_masks_of_edits_are_refined_too(client: TestClient) -> None:
    edits = post(client, EDITS, IMAGE, n="2", preset="balanced").json()["data"]
    for edit in edits:
        same = refined(client, edit["mask_id"])
        assert same["refined_from"] == edit["edit_id"] == edit["mask_id"]
        assert (same["mask"], same["blend_mask"]) == (edit["mask"], edit["blend_mask"])
    second = refined(client, edits[1]["mask_id"], invert="true")
    kept = edited(client, IMAGE, mask_id=second["mask_id"], preset="balanced")
    assert (kept["mask"], kept["blend_mask"]) == (second["mask"], second["blend_mask"])
    assert kept["mask_id"] == second["mask_id"]
    back = refined(client, kept["edit_id"], invert="false")
    assert back["mask"] == edits[1]["mask"]


def test_edit_uses_the_refined_mask(client: TestClient, found: dict[str, Any]) -> None:
    other = refined(client, found["mask_id"], threshold="0.1")
    assert other["mask_id"] != found["mask_id"]
    edit = edited(client, IMAGE, mask_id=other["mask_id"])
    assert edit["mask"] == other["mask"]
    again = refined(client, found["mask_id"], threshold="0.1")
    assert again["mask_id"] == other["mask_id"], "the same options are the same mask"
    further = refined(client, other["mask_id"], grow="1")
    assert further["refined_from"] == found["mask_id"]


@pytest.mark.parametrize("preset", ["paper", "balanced"])
def test_previews_are_small_and_the_mask_is_not(client: TestClient, preset: str) -> None:
    """An edit with a mask that was shown small is the edit with the whole mask."""
    image = image_bytes(300, 200)
    whole = post(client, MASKS, image, preset=preset).json()
    small = post(client, MASKS, image, preset=preset, preview_side="150").json()
    names = ("threshold", "grow", "blur", "cleaning", "feather", "mask_share", "heatmap")
    assert [small[name] for name in names] == [whole[name] for name in names]
    options = {"threshold": "0.4", "feather": "0.05"}
    exact = refined(client, whole["mask_id"], **options)
    shown = refined(client, small["mask_id"], **options, preview_side="150")
    assert shown["mask_share"] == exact["mask_share"]
    for large, reduced in ((whole, small), (exact, shown)):
        for name in ("mask", "blend_mask"):
            full, preview = (pixels(one[name]).astype(int) for one in (large, reduced))
            assert (full.shape, preview.shape) == ((200, 300), (100, 150))
            assert abs(full.reshape(100, 2, 150, 2).mean((1, 3)) - preview).mean() < 8
        assert set(np.unique(pixels(reduced["mask"]))) == {0, 255}
    edits = [edited(client, image, mask_id=one["mask_id"]) for one in (exact, shown)]
    for name in ("mask", "blend_mask", "b64_json"):
        assert edits[0][name] == edits[1][name]


def test_preview_is_never_larger_than_the_image(client: TestClient, found: dict[str, Any]) -> None:
    same = refined(client, found["mask_id"], preview_side="8192")
    assert (same["mask"], same["blend_mask"]) == (found["mask"], found["blend_mask"])


def test_both_encodings_of_the_form(client: TestClient, found: dict[str, Any]) -> None:
    parts: Any = {"threshold": (None, "0.2")}
    multipart = client.post(f"{MASKS}/{found['mask_id']}", files=parts)
    assert multipart.json() == refined(client, found["mask_id"], threshold="0.2")


def test_number_of_refined_masks_is_bounded(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_REFINED", 2)
    client = make_client()
    mask_id = post(client, MASKS, IMAGE).json()["mask_id"]
    ids = [refined(client, mask_id, threshold=f"0.{k}")["mask_id"] for k in (1, 2, 3)]
    gone = post(client, EDITS, IMAGE, mask_id=ids[0])
    assert code_and_param(gone) == (404, "no_such_mask", "mask_id")
    for kept in ids[1:]:
        assert post(client, EDITS, IMAGE, mask_id=kept).status_code == 200


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"threshold": "1"}, (400, "invalid_value", "threshold")),
        ({"threshold": "-0.1"}, (400, "invalid_value", "threshold")),
        ({"threshold": "nan"}, (400, "invalid_value", "threshold")),
        ({"threshold": ""}, (400, "invalid_value", "threshold")),
        ({"grow": "1.5"}, (400, "invalid_value", "grow")),
        ({"grow": "65"}, (400, "invalid_value", "grow")),
        ({"blur": "17"}, (400, "invalid_value", "blur")),
        ({"feather": "0.3"}, (400, "invalid_value", "feather")),
        ({"cleaning": "much"}, (400, "invalid_value", "cleaning")),
        ({"invert": "maybe"}, (400, "invalid_value", "invert")),
        ({"preview_side": "63"}, (400, "invalid_value", "preview_side")),
        ({"preview_side": "8193"}, (400, "invalid_value", "preview_side")),
        ({"preview_side": "1.5"}, (400, "invalid_value", "preview_side")),
        ({"treshold": "0.5"}, (400, "unknown_field", "treshold")),
        ({"prompt": "a ball"}, (400, "unknown_field", "prompt")),
    ],
)
def test_bad_fields(
    client: TestClient,
    found: dict[str, Any],
    fields: dict[str, str],
    expected: tuple[int, str, str],
) -> None:
    assert code_and_param(refine(client, found["mask_id"], **fields)) == expected


def test_bad_bodies(client: TestClient, found: dict[str, Any]) -> None:
    path = f"{MASKS}/{found['mask_id']}"
    twice = client.post(path, data={"grow": ["1", "2"]})
    assert code_and_param(twice) == (400, "duplicate_field", "grow")
    file = client.post(path, files={"grow": ("a", b"1")})
    assert code_and_param(file) == (400, "not_text", "grow")
    assert client.post(path, json={"grow": 1}).status_code == 415


def test_bad_ids(client: TestClient) -> None:
    for mask_id in ("none", "none_abc", "_", "a.0"):
        assert code_and_param(refine(client, mask_id)) == (404, "no_such_mask", "mask_id")
    edit = edited(client, IMAGE, mask=encoded(Image.new("L", (96, 64), 255)))
    assert code_and_param(refine(client, edit["edit_id"])) == (400, "invalid_value", "mask_id")
