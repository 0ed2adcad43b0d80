"""The programs of examples/ that use a server, on fake networks."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from demo.picture import still_life
from tests.docs.commands import EXAMPLES, run_example
from tests.server.conftest import MakeServer

HEART, MUG = "a black heart in a studio", "a black mug in a studio"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    still_life(128, 128).save(tmp_path / "6.png")
    return tmp_path / "6.png"


@pytest.mark.slow
def test_http_openai(image: Path, make_server: MakeServer) -> None:
    pytest.importorskip("openai", reason="needs the dev extra")
    run_example("http_openai.py", image, HEART, MUG, make_server().url)
    with Image.open(image.with_suffix(".1.png")) as result:
        assert result.size == (128, 128)


@pytest.mark.slow
def test_http_curl(image: Path, make_server: MakeServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    command = ["sh", str(EXAMPLES / "http_curl.sh"), str(image), make_server().url]
    done = subprocess.run(
        command, cwd=image.parent, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    edits = [
        json.loads((image.parent / name).read_text()) for name in ("edit.json", "refined.json")
    ]
    assert edits[1]["data"][0]["mask_id"] in done.stdout
    assert all(edit["data"][0]["b64_json"] for edit in edits)
