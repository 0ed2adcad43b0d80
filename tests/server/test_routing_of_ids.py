"""Behind the gateway, a request with the id of a result goes to the replica that holds it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the server extra")

from tests.server.fake_replicas import FakeReplicas, make_gateway, send
from tests.server.helpers import PROMPTS, image_bytes

IMAGE = {"image": ("a.png", image_bytes())}


def key_of(path: str, fields: dict[str, str], **more: Any) -> str:
    replicas = FakeReplicas("respond")
    parts: Any = {name: (None, text) for name, text in {**PROMPTS, **fields}.items()}
    files = {**parts, **more.pop("files", {})}
    send(make_gateway(replicas), "POST", path, files=files, **more)
    return replicas.requests[0].routing_key


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/jobs", "/v1/masks"])
@pytest.mark.parametrize(
    ("fields", "files", "key"),
    [
        ({"previous_edit_id": "b-1f.2"}, {}, "replica:b"),
        ({"mask_id": "a-1f"}, IMAGE, "replica:a"),
        ({"mask_id": "a-1f", "previous_edit_id": "b-1f"}, {}, "replica:b"),
        ({"previous_edit_id": "1f"}, {}, ""),
    ],
)
def test_ids_choose_the_replica(
    path: str, fields: dict[str, str], files: dict[str, Any], key: str
) -> None:
    assert key_of(path, fields, files=files) == key
    if key:  # also if the request is repeated
        assert key_of(path, fields, files=files, headers={"Idempotency-Key": "k"}) == key


def test_other_requests_go_by_their_image() -> None:
    assert key_of("/v1/jobs", {}, files=IMAGE).startswith("image:")
    assert key_of("/v1/jobs", {"mask_id": "1f"}, files=IMAGE).startswith("image:")
    headers = {"Idempotency-Key": "k"}
    assert key_of("/v1/jobs", {}, files=IMAGE, headers=headers).startswith("pinned:")


def test_mask_is_refined_where_it_was_found() -> None:
    assert key_of("/v1/masks/a-1f", {}) == "replica:a"
