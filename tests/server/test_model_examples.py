"""The example pictures of a checkpoint's folder, as GET /v1/models has them."""

from __future__ import annotations

import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo import examples as demo_examples
from demo.scenes import captions
from diffedit.server.examples import MAX_BYTES, read_examples

NONE: dict[str, Any] = {"about": "", "examples": []}


def test_the_demos_examples_are_what_its_command_writes(tmp_path: Path) -> None:
    demo_examples.write(tmp_path / "examples")
    shipped = read_examples(Path("demo/model"))
    assert shipped["about"] == demo_examples.ABOUT
    written = read_examples(tmp_path)["examples"]
    for one, other in zip(shipped["examples"], written, strict=True):
        assert {**one, "image": ""} == {**other, "image": ""}
        picture = Image.open(io.BytesIO(base64.b64decode(one["image"])))
        assert picture.size == (demo_examples.SIDE, demo_examples.SIDE)
        for text in (one["source_prompt"], one["prompt"]):
            captions.parse(text)  # the model knows these words


def test_a_folder_without_examples(tmp_path: Path) -> None:
    assert read_examples(tmp_path) == NONE


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"about": "it"}', '{"about": "it", "examples": [{"image": "gone.png"}]}'],
)
def test_a_file_that_cannot_be_used_is_logged(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "examples.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_examples(tmp_path) == NONE
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize(("name", "size"), [("../secret.png", 10), ("big.png", MAX_BYTES + 1)])
def test_only_small_files_of_the_folder_itself_are_read(
    tmp_path: Path, name: str, size: int
) -> None:
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / name).write_bytes(bytes(size))
    example = {"image": name, "source_prompt": "a", "prompt": "b"}
    (folder / "examples.json").write_text(json.dumps({"about": "", "examples": [example]}))
    assert read_examples(tmp_path) == NONE
